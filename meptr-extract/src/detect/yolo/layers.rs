//! The building blocks: convolution, residual block, pyramid pooling.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::names::Names;

/// Added to BatchNorm's variance.
const EPSILON: f64 = 1e-3;

/// Convolution and BatchNorm in one, then `x * sigmoid(x)`.
///
/// Keeps the size at stride 1 and halves it at stride 2. Weights: `conv.weight` `(outputs, inputs,
/// kernel, kernel)` and `bn.{weight,bias,running_mean,running_var}` `(outputs,)`.
#[derive(Debug)]
pub(super) struct Conv {
    weight: Tensor,
    bias: Tensor, // (1, outputs, 1, 1)
    stride: usize,
    padding: usize,
}

/// Channels in and out of a layer.
pub(super) type Channels = [usize; 2];

impl Conv {
    pub(super) fn load(
        [inputs, outputs]: Channels,
        kernel: usize,
        stride: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get((outputs, inputs, kernel, kernel), "conv.weight")?;
        let norm = |name: &str| vb.pp("bn").get(outputs, name);
        let scale = (norm("weight")? / (norm("running_var")? + EPSILON)?.sqrt()?)?;
        let bias = (norm("bias")? - (norm("running_mean")? * &scale)?)?;
        let weight = weight.broadcast_mul(&scale.reshape((outputs, 1, 1, 1))?)?.contiguous()?;
        let bias = bias.reshape((1, outputs, 1, 1))?;
        Ok(Self { weight, bias, stride, padding: kernel / 2 })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.conv2d(&self.weight, self.padding, self.stride, 1, 1)?.broadcast_add(&self.bias)?.silu()
    }
}

/// Two 3x3 convolutions, with a shortcut around them where asked. Weights: `cv1`, `cv2`.
#[derive(Debug)]
struct Bottleneck {
    cv1: Conv,
    cv2: Conv,
    has_shortcut: bool,
}

impl Bottleneck {
    fn load(channels: usize, has_shortcut: bool, vb: &VarBuilder) -> Result<Self> {
        let conv = |name: &str| Conv::load([channels, channels], 3, 1, vb.pp(name));
        Ok(Self { cv1: conv("cv1")?, cv2: conv("cv2")?, has_shortcut })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.cv2.forward(&self.cv1.forward(x)?)?;
        if self.has_shortcut { x + y } else { Ok(y) }
    }
}

/// Splits the channels, runs one half through a row of blocks, and joins every step of the way.
///
/// Weights: `cv1`, `cv2` (1x1) and `m.N` or `bottleneck.N`.
#[derive(Debug)]
pub(super) struct C2f {
    cv1: Conv,
    cv2: Conv,
    blocks: Vec<Bottleneck>,
}

impl C2f {
    pub(super) fn load(
        [inputs, outputs]: Channels,
        blocks: usize,
        has_shortcut: bool,
        names: Names,
        vb: VarBuilder,
    ) -> Result<Self> {
        let half = outputs / 2;
        let inner = vb.pp(names.inner_blocks());
        let block = |index: usize| Bottleneck::load(half, has_shortcut, &inner.pp(index));
        Ok(Self {
            cv1: Conv::load([inputs, 2 * half], 1, 1, vb.pp("cv1"))?,
            cv2: Conv::load([(2 + blocks) * half, outputs], 1, 1, vb.pp("cv2"))?,
            blocks: (0..blocks).map(block).collect::<Result<_>>()?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut steps = self.cv1.forward(x)?.chunk(2, 1)?;
        for block in &self.blocks {
            let last = steps.last().expect("chunk gives two halves").contiguous()?;
            steps.push(block.forward(&last)?);
        }
        self.cv2.forward(&Tensor::cat(&steps, 1)?)
    }
}

/// Joins the features with their maxima over 5, 9 and 13 pixels. Weights: `cv1`, `cv2` (1x1).
#[derive(Debug)]
pub(super) struct Sppf {
    cv1: Conv,
    cv2: Conv,
}

impl Sppf {
    pub(super) fn load(channels: usize, vb: VarBuilder) -> Result<Self> {
        let half = channels / 2;
        Ok(Self {
            cv1: Conv::load([channels, half], 1, 1, vb.pp("cv1"))?,
            cv2: Conv::load([4 * half, channels], 1, 1, vb.pp("cv2"))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.cv1.forward(x)?;
        let over_5 = max_over_5(&x)?;
        let over_9 = max_over_5(&over_5)?;
        let over_13 = max_over_5(&over_9)?;
        self.cv2.forward(&Tensor::cat(&[x, over_5, over_9, over_13], 1)?)
    }
}

/// The maximum over 5x5 pixels, of which those outside do not count.
fn max_over_5(x: &Tensor) -> Result<Tensor> {
    // A repeated border pixel lies in the window anyway, so it does not change the maximum.
    x.pad_with_same(2, 2, 2)?.pad_with_same(3, 2, 2)?.max_pool2d_with_stride(5, 1)
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    #[test]
    fn pixels_outside_do_not_count_for_the_maximum() -> Result<()> {
        let x = Tensor::new(&[-9f32, -1.0, -2.0, -3.0, -4.0, -5.0], &Device::Cpu)?;
        let y = max_over_5(&x.reshape((1, 1, 1, 6))?)?;
        assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [-1.0, -1.0, -1.0, -1.0, -2.0, -3.0]);
        Ok(())
    }
}
