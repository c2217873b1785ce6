//! Building blocks of YOLOv8: convolution, bottleneck, C2f, pyramid pooling (SPPF).

use candle::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use super::names::Names;
use meptr_core::kernels::cpu::conv2d::{Conv2d, Conv2dActivation, Conv2dGeometry, ConvInput};

/// Epsilon that BatchNorm adds to the variance.
const EPSILON: f64 = 1e-3;

/// Dimension of the channels: the CPU is channels-last, `(batch, height, width, channels)`, other
/// devices are channels-first.
pub(super) fn channel_dim(x: &Tensor) -> usize {
    if x.device().is_cpu() { 3 } else { 1 }
}

/// Convolution with its activation. Keeps the size at stride 1 and halves it at stride 2.
#[derive(Debug)]
enum Convolution {
    Cpu(Conv2d),
    Other { weight: Tensor, bias: Tensor, stride: usize, activation: Conv2dActivation }, // bias (1, outputs, 1, 1)
}

impl Convolution {
    /// - `weight`: `(outputs, inputs, kernel, kernel)`, contiguous
    /// - `bias`: `(outputs,)`
    fn new(
        weight: Tensor,
        bias: &Tensor,
        stride: usize,
        activation: Conv2dActivation,
    ) -> Result<Self> {
        if weight.device().is_cpu() {
            let padding = weight.dim(3)? / 2;
            let geometry = Conv2dGeometry { stride, padding: [padding, padding] };
            return Ok(Self::Cpu(Conv2d::new(&weight, bias, geometry, activation)?));
        }
        let bias = bias.reshape((1, (), 1, 1))?;
        Ok(Self::Other { weight, bias, stride, activation })
    }

    fn forward(&self, parts: &[ConvInput], shortcut: Option<&Tensor>) -> Result<Tensor> {
        let (weight, bias, stride, activation) = match self {
            Self::Cpu(convolution) => return convolution.forward(parts, shortcut),
            Self::Other { weight, bias, stride, activation } => {
                (weight, bias, *stride, *activation)
            }
        };
        let whole = |part: &ConvInput| {
            let (_, _, height, width) = part.x.dims4()?;
            if part.is_upsampled {
                return part.x.upsample_nearest2d(2 * height, 2 * width);
            }
            Ok(part.x.clone())
        };
        let parts: Vec<Tensor> = parts.iter().map(whole).collect::<Result<_>>()?;
        let x = match parts.as_slice() {
            [one] => one.contiguous()?,
            several => Tensor::cat(several, 1)?,
        };
        let x = x.conv2d(weight, weight.dim(3)? / 2, stride, 1, 1)?.broadcast_add(bias)?;
        let x = match activation {
            Conv2dActivation::Silu => x.silu()?,
            Conv2dActivation::Sigmoid => candle_nn::ops::sigmoid(&x)?,
            Conv2dActivation::Identity => x,
            Conv2dActivation::Relu => x.relu()?, // these networks have no shortcut before it
        };
        shortcut.map_or(Ok(x.clone()), |shortcut| x + shortcut)
    }
}

/// Convolution with BatchNorm folded in, then SiLU, `x * sigmoid(x)`.
///
/// Keeps the size at stride 1 and halves it at stride 2. Weights: `conv.weight` `(outputs, inputs,
/// kernel, kernel)` and `bn.{weight,bias,running_mean,running_var}` `(outputs,)`.
#[derive(Debug)]
pub(super) struct Conv(Convolution);

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
        Ok(Self(Convolution::new(weight, &bias, stride, Conv2dActivation::Silu)?))
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(&[x.into()], None)
    }

    /// Convolves the concatenated channels of all parts.
    pub(super) fn forward_joined(&self, parts: &[ConvInput]) -> Result<Tensor> {
        self.0.forward(parts, None)
    }
}

/// Last convolution of a head: 1x1, with a bias and no BatchNorm.
///
/// Weights: `weight` `(outputs, inputs, 1, 1)`, `bias` `(outputs,)`.
#[derive(Debug)]
pub(super) struct Last(Convolution);

impl Last {
    pub(super) fn load(
        [inputs, outputs]: Channels,
        is_probability: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get((outputs, inputs, 1, 1), "weight")?.contiguous()?;
        let activation =
            if is_probability { Conv2dActivation::Sigmoid } else { Conv2dActivation::Identity };
        Ok(Self(Convolution::new(weight, &vb.get(outputs, "bias")?, 1, activation)?))
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(&[x.into()], None)
    }
}

/// Bottleneck: two 3x3 convolutions, with an optional shortcut. Weights: `cv1`, `cv2`.
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
        let y = self.cv1.forward(x)?;
        self.cv2.0.forward(&[(&y).into()], self.has_shortcut.then_some(x))
    }
}

/// C2f block: splits the channels, runs one half through bottlenecks, concatenates every output.
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

    pub(super) fn forward(&self, parts: &[ConvInput]) -> Result<Tensor> {
        let both = self.cv1.forward_joined(parts)?;
        let mut steps = both.chunk(2, channel_dim(&both))?;
        for block in &self.blocks {
            let last = steps.last().expect("chunk gives two halves");
            steps.push(block.forward(last)?);
        }
        self.cv2.forward_joined(&steps.iter().map(ConvInput::from).collect::<Vec<_>>())
    }
}

/// SPPF block: concatenates the features with their maxima over 5, 9 and 13 pixels.
///
/// Weights: `cv1`, `cv2` (1x1).
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
        let parts = [&x, &over_5, &over_9, &over_13];
        self.cv2.forward_joined(&parts.map(ConvInput::from))
    }
}

/// Max pooling over 5x5 pixels at stride 1; pixels outside do not count.
fn max_over_5(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        return x.apply_op1_no_bwd(&MaxOver5);
    }
    // A repeated border pixel is in the window already, so it does not change the maximum.
    x.pad_with_same(2, 2, 2)?.pad_with_same(3, 2, 2)?.max_pool2d_with_stride(5, 1)
}

/// Max pooling over 5x5 of channels-last features: first along the rows, then across them.
struct MaxOver5;

impl CustomOp1 for MaxOver5 {
    fn name(&self) -> &'static str {
        "max-over-5"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, height, width, channels) = layout.shape().dims4()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle::bail!("pooling needs its input in one piece");
        };
        let x = &x.as_slice::<f32>()?[start..end];
        let along = max_of_neighbours(x, width, channels);
        let both = max_of_neighbours(&along, height, width * channels);
        Ok((CpuStorage::F32(both), layout.shape().clone()))
    }
}

/// Max pooling over five neighbours along a dimension of `size` steps of `length` values.
fn max_of_neighbours(x: &[f32], size: usize, length: usize) -> Vec<f32> {
    let mut all = x.to_vec();
    let lines =
        all.chunks_exact_mut((size * length).max(1)).zip(x.chunks_exact((size * length).max(1)));
    for (line, x) in lines {
        for (step, into) in line.chunks_exact_mut(length).enumerate() {
            for neighbour in step.saturating_sub(2)..(step + 3).min(size) {
                let others = &x[neighbour * length..][..length];
                let larger = |into: &mut f32, other: &f32| {
                    *into = if *other > *into { *other } else { *into }
                };
                into.iter_mut().zip(others).for_each(|(into, other)| larger(into, other));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    #[test]
    fn pixels_outside_do_not_count_for_the_maximum() -> Result<()> {
        let x = Tensor::new(&[-9f32, -1.0, -2.0, -3.0, -4.0, -5.0], &Device::Cpu)?;
        for shape in [(1, 1, 6, 1), (1, 6, 1, 1)] {
            let y = max_over_5(&x.reshape(shape)?)?;
            assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [-1.0, -1.0, -1.0, -1.0, -2.0, -3.0]);
        }
        Ok(())
    }
}
