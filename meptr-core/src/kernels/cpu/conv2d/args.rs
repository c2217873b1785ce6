//! Arguments of a convolution.

use candle::Tensor;

/// Activation after the sum and the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conv2dActivation {
    /// None; a residual is added.
    Identity,
    /// `max(x, 0)`, after the residual is added.
    Relu,
    /// `x sigmoid(x)`, before the residual is added.
    Silu,
    /// `1 / (1 + e^-x)`, before the residual is added.
    Sigmoid,
}

impl Conv2dActivation {
    /// Whether the residual is added before the activation, or there is no activation.
    pub(super) fn is_after_residual(self) -> bool {
        matches!(self, Self::Identity | Self::Relu)
    }
}

/// Stride and zero padding of a square kernel, equal in both dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dGeometry {
    /// Pixels from one position to the next, at least 1.
    pub stride: usize,
    /// Zeros before the first and after the last row and column.
    pub padding: [usize; 2],
}

/// Input of a convolution, or some of its channels where several are concatenated.
#[derive(Debug, Clone, Copy)]
pub struct ConvInput<'a> {
    /// `(batch, height, width, channels)`, f32 on the CPU, in any layout.
    pub x: &'a Tensor,
    /// Whether to upsample by 2 in both dimensions (nearest neighbour).
    pub is_upsampled: bool,
}

impl<'a> From<&'a Tensor> for ConvInput<'a> {
    fn from(x: &'a Tensor) -> Self {
        Self { x, is_upsampled: false }
    }
}
