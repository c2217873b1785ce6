//! 1x1 convolution.

use candle::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::features::{Features, other_device};
use meptr_core::kernels::cpu::conv2d::{Conv2d, Conv2dActivation, Conv2dGeometry};

/// 1x1 convolution with its epilogue: `y = activation(x W^T + b + shortcut)`.
///
/// Weights: `weight` `(outputs, inputs, 1, 1)`, `bias` `(outputs,)`.
#[derive(Debug)]
pub(super) enum Pointwise {
    /// CPU kernel.
    Cpu(Conv2d),
    /// Candle's matrix multiplication, on other devices.
    Other {
        /// `(inputs, outputs)`
        weight: Tensor,
        /// `(outputs,)`
        bias: Tensor,
        /// Whether a ReLU follows.
        is_rectified: bool,
    },
}

impl Pointwise {
    /// Loads the weights named above. `is_rectified`: whether a ReLU follows.
    pub(super) fn load(
        [inputs, outputs]: [usize; 2],
        is_rectified: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get((outputs, inputs, 1, 1), "weight")?;
        let bias = vb.get(outputs, "bias")?;
        if vb.device().is_cpu() {
            let geometry = Conv2dGeometry { stride: 1, padding: [0, 0] };
            let activation =
                if is_rectified { Conv2dActivation::Relu } else { Conv2dActivation::Identity };
            return Ok(Self::Cpu(Conv2d::new(&weight, &bias, geometry, activation)?));
        }
        let weight = weight.reshape((outputs, inputs))?.t()?.contiguous()?;
        Ok(Self::Other { weight, bias, is_rectified })
    }

    /// Convolves without a shortcut.
    ///
    /// # Errors
    /// When the features do not fit.
    pub(super) fn forward(&self, x: &Features) -> Result<Features> {
        match (self, x) {
            (Self::Cpu(convolution), Features::Cpu(x)) => {
                let [height, width, channels] = x.dims();
                if channels != convolution.inputs() {
                    bail!("{} channels needed, not {channels}", convolution.inputs());
                }
                let mut output = x.sibling([height, width, convolution.outputs()]);
                convolution.fill_image(x.numbers(), [height, width], output.numbers_mut());
                Ok(Features::Cpu(output))
            }
            (Self::Other { .. }, Features::Other(x)) => {
                self.forward_tensor(x, None).map(Features::Other)
            }
            _ => other_device(),
        }
    }

    /// Convolves and adds the shortcut, which has the output's shape. Not for the CPU, where
    /// [`Separable`](super::separable::Separable) adds in place.
    ///
    /// # Errors
    /// When the features do not fit.
    pub(super) fn forward_onto(&self, x: &Features, shortcut: Features) -> Result<Features> {
        let (Features::Other(x), Features::Other(shortcut)) = (x, shortcut) else {
            return other_device();
        };
        self.forward_tensor(x, Some(&shortcut)).map(Features::Other)
    }

    fn forward_tensor(&self, x: &Tensor, shortcut: Option<&Tensor>) -> Result<Tensor> {
        let Self::Other { weight, bias, is_rectified } = self else { return other_device() };
        let (batch, height, width, inputs) = x.dims4()?;
        let y = x.reshape((batch * height * width, inputs))?.matmul(weight)?;
        let y = y.broadcast_add(bias)?.reshape((batch, height, width, ()))?;
        let y = shortcut.map_or(Ok(y.clone()), |shortcut| y + shortcut)?;
        if *is_rectified { y.relu() } else { Ok(y) }
    }
}
