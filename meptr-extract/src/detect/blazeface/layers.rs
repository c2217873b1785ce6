//! The other layers that both networks are made of.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::detect::convolution::{CpuConvolution, Ending, Steps};

/// Mixes the channels of each pixel, a 1x1 convolution: `y = ending(x W^T + b + shortcut)`.
///
/// Weights: `weight` `(outputs, inputs, 1, 1)`, `bias` `(outputs,)`.
#[derive(Debug)]
pub(super) struct PointwiseConv(Product);

#[derive(Debug)]
enum Product {
    Cpu(CpuConvolution),
    Other { weight: Tensor, bias: Tensor, is_rectified: bool }, // weight (inputs, outputs)
}

impl PointwiseConv {
    /// `is_rectified`: whether negative sums become 0.
    pub(super) fn load(
        inputs: usize,
        outputs: usize,
        is_rectified: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get((outputs, inputs, 1, 1), "weight")?;
        let bias = vb.get(outputs, "bias")?;
        Ok(Self(if vb.device().is_cpu() {
            let steps = Steps { stride: 1, padding: [0, 0] };
            let ending = if is_rectified { Ending::Relu } else { Ending::Linear };
            Product::Cpu(CpuConvolution::new(&weight, &bias, steps, ending)?)
        } else {
            let weight = weight.reshape((outputs, inputs))?.t()?.contiguous()?;
            Product::Other { weight, bias, is_rectified }
        }))
    }

    /// `(batch, height, width, inputs)` to `(batch, height, width, outputs)`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_plus(x, None)
    }

    /// The same with a shortcut of the output's shape.
    pub(super) fn forward_plus(&self, x: &Tensor, shortcut: Option<&Tensor>) -> Result<Tensor> {
        let (weight, bias, is_rectified) = match &self.0 {
            Product::Cpu(product) => return product.forward(&[x.into()], shortcut),
            Product::Other { weight, bias, is_rectified } => (weight, bias, is_rectified),
        };
        let (batch, height, width, inputs) = x.dims4()?;
        let y = x.reshape((batch * height * width, inputs))?.matmul(weight)?;
        let y = y.broadcast_add(bias)?.reshape((batch, height, width, ()))?;
        let y = shortcut.map_or(Ok(y.clone()), |shortcut| y + shortcut)?;
        if *is_rectified { y.relu() } else { Ok(y) }
    }
}

/// The first convolution, on the picture itself: square kernel, stride 2, rectified.
///
/// Weights: `weight` `(outputs, 3, kernel, kernel)`, `bias` `(outputs,)`.
#[derive(Debug)]
pub(super) enum Stem {
    /// On the CPU.
    Cpu(CpuConvolution),
    /// Elsewhere.
    Other {
        /// As loaded.
        weight: Tensor,
        /// As loaded.
        bias: Tensor,
        /// Zeros before and after.
        padding: [usize; 2],
    },
}

impl Stem {
    /// `padding` is the number of zeros before the first and after the last row and column.
    pub(super) fn load(
        outputs: usize,
        kernel: usize,
        padding: [usize; 2],
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get((outputs, 3, kernel, kernel), "weight")?;
        let bias = vb.get(outputs, "bias")?;
        // The short-range network, whose stem is wide, enlarges every rounding by thousands: it keeps
        // the order of sums of Candle's convolution, which is that of its reference.
        if vb.device().is_cpu() && kernel == 3 {
            let steps = Steps { stride: 2, padding };
            return Ok(Self::Cpu(CpuConvolution::new(&weight, &bias, steps, Ending::Relu)?));
        }
        Ok(Self::Other { weight, bias, padding })
    }

    /// `(batch, size, size, 3)` to `(batch, size / 2, size / 2, outputs)`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias, [before, after]) = match self {
            Self::Cpu(convolution) => return convolution.forward(&[x.into()], None),
            Self::Other { weight, bias, padding } => (weight, bias, *padding),
        };
        let x = x.permute((0, 3, 1, 2))?; // (batch, 3, size, size)
        let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
        let x = x.contiguous()?.conv2d(weight, 0, 2, 1, 1)?;
        x.permute((0, 2, 3, 1))?.contiguous()?.broadcast_add(bias)?.relu()
    }
}

/// Twice the rows and columns, bilinear, positions counted from the middle of a pixel.
///
/// `(batch, height, width, channels)` to `(batch, 2 height, 2 width, channels)`.
pub(super) fn upsample(x: &Tensor) -> Result<Tensor> {
    upsample_axis(&upsample_axis(x, 1)?, 2)
}

/// Each pixel becomes two, at a quarter of the way to its neighbour on either side.
fn upsample_axis(x: &Tensor, axis: usize) -> Result<Tensor> {
    let size = x.dim(axis)?;
    let (first, last) = (x.narrow(axis, 0, 1)?, x.narrow(axis, size - 1, 1)?);
    let before = Tensor::cat(&[&first, &x.narrow(axis, 0, size - 1)?], axis)?;
    let after = Tensor::cat(&[&x.narrow(axis, 1, size - 1)?, &last], axis)?;
    let own = (x * 0.75)?;
    let pair = [(&own + (before * 0.25)?)?, (&own + (after * 0.25)?)?];
    Tensor::stack(&pair, axis + 1)?.flatten(axis, axis + 1)
}

/// Spreads the channels of each pixel over a square of 2x2 pixels.
///
/// `(batch, height, width, 4 channels)`, in the order upper left, upper right, lower left, lower
/// right, to `(batch, 2 height, 2 width, channels)`.
pub(super) fn depth_to_space(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    x.reshape((batch, height, width, 2, 2, channels / 4))?.permute((0, 1, 3, 2, 4, 5))?.reshape((
        batch,
        2 * height,
        2 * width,
        channels / 4,
    ))
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    #[test]
    fn upsampling_interpolates_and_keeps_the_border() -> Result<()> {
        let x = Tensor::new(&[0f32, 4.0, 8.0], &Device::Cpu)?.reshape((1, 1, 3, 1))?;
        let y = upsample(&x)?;
        assert_eq!(y.dims(), [1, 2, 6, 1]);
        let row: Vec<f32> = y.flatten_all()?.to_vec1()?;
        assert_eq!(row[..6], [0.0, 1.0, 3.0, 5.0, 7.0, 8.0]);
        assert_eq!(row[6..], row[..6]);
        Ok(())
    }

    #[test]
    fn channels_are_spread_in_reading_order() -> Result<()> {
        let x = Tensor::arange(0f32, 16.0, &Device::Cpu)?.reshape((1, 1, 2, 8))?;
        let y = depth_to_space(&x)?; // two channels left
        let rows: Vec<Vec<Vec<f32>>> = y.squeeze(0)?.to_vec3()?;
        assert_eq!(rows[0], [[0.0, 1.0], [2.0, 3.0], [8.0, 9.0], [10.0, 11.0]]);
        assert_eq!(rows[1], [[4.0, 5.0], [6.0, 7.0], [12.0, 13.0], [14.0, 15.0]]);
        Ok(())
    }
}
