//! Feature extractor: the convolutions from samples to features.

use candle::{DType, Result, Tensor};
use meptr_core::kernels::{Activation, ops};
use meptr_core::weights::FrozenBuilder;

use super::config::{FeatureNorm, Wav2Vec2Config};
use crate::backbones::layers::{Conv1d, FrozenLayerNorm};

/// Steps computed at a time on the CPU, which bounds the memory: a second of audio is 3200 steps of
/// 512 channels after the first convolution, 6.5 MB.
const BLOCK_STEPS: usize = 100;
/// Steps computed at a time on a GPU, where few large GEMMs are faster than many small ones: half a
/// minute.
const BLOCK_STEPS_ON_GPU: usize = 1500;

/// Added to the variance in the feature extractor's norms; no key of the configuration changes it.
const NORM_EPS: f64 = 1e-5;

/// Strided convolutions without padding, each followed by a norm (or not) and an activation.
///
/// Weights: `N.conv.{weight, bias}` and `N.layer_norm.{weight, bias}`, the norm in every layer
/// ([`FeatureNorm::Layer`]) or in layer 0 alone ([`FeatureNorm::Group`], named `layer_norm` too).
#[derive(Debug)]
pub(super) struct FeatureExtractor {
    config: Wav2Vec2Config,
    layers: Vec<ConvLayer>,
    group_norm: Option<GroupNorm>,
}

impl FeatureExtractor {
    pub(super) fn load(config: &Wav2Vec2Config, vb: &FrozenBuilder) -> Result<Self> {
        let layers = (0..config.conv_dim.len()).map(|index| ConvLayer::load(config, index, vb));
        let group_norm = match config.feat_extract_norm {
            FeatureNorm::Layer => None,
            FeatureNorm::Group => {
                Some(GroupNorm::load(config.conv_dim[0], &vb.pp("0.layer_norm"))?)
            }
        };
        Ok(Self { config: config.clone(), layers: layers.collect::<Result<_>>()?, group_norm })
    }

    /// Maps one clip `(samples,)` to `(steps, conv_dim.last())`.
    pub(super) fn forward(&self, clip: &Tensor) -> Result<Tensor> {
        let samples = clip.reshape(((), 1))?;
        let norm = match &self.group_norm {
            None => None,
            Some(group_norm) => Some(group_norm.measure(&samples, &self.layers[0].convolution)?),
        };
        let size = if clip.device().is_cpu() { BLOCK_STEPS } else { BLOCK_STEPS_ON_GPU };
        let blocks: Result<Vec<Tensor>> = blocks(self.config.steps(samples.dim(0)?), size)
            .map(|(start, steps)| {
                let (first, count) = (start * self.config.hop(), self.config.samples_for(steps));
                self.block(&samples.narrow(0, first, count)?, norm.as_ref())
            })
            .collect();
        Tensor::cat(&blocks?, 0)
    }

    fn block(&self, samples: &Tensor, group_norm: Option<&ClipNorm>) -> Result<Tensor> {
        let (first, rest) = self.layers.split_first().expect("a checked configuration");
        let hidden = match group_norm {
            None => first.forward(samples)?,
            Some(norm) => first.forward_normed(samples, norm)?,
        };
        rest.iter().try_fold(hidden, |hidden, layer| layer.forward(&hidden))
    }
}

/// Start and length of blocks of `size` steps; the last may be shorter.
fn blocks(count: usize, size: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).step_by(size).map(move |start| (start, size.min(count - start)))
}

/// A convolution, its norm and its activation.
#[derive(Debug)]
struct ConvLayer {
    convolution: Conv1d,
    norm: Option<FrozenLayerNorm>,
    activation: Activation,
}

impl ConvLayer {
    fn load(config: &Wav2Vec2Config, index: usize, vb: &FrozenBuilder) -> Result<Self> {
        let inputs = index.checked_sub(1).map_or(1, |before| config.conv_dim[before]);
        let (outputs, kernel) = (config.conv_dim[index], config.conv_kernel[index]);
        let vb = vb.pp(index);
        let weight = vb.get((outputs, inputs, kernel), "conv.weight")?;
        let bias = if config.conv_bias { Some(vb.get(outputs, "conv.bias")?) } else { None };
        let norm = match config.feat_extract_norm {
            FeatureNorm::Layer => {
                Some(FrozenLayerNorm::load(outputs, NORM_EPS, &vb.pp("layer_norm"))?)
            }
            FeatureNorm::Group => None,
        };
        Ok(Self {
            convolution: Conv1d::new(&weight, bias, 1, config.conv_stride[index], vb.products())?,
            norm,
            activation: config.feat_extract_activation,
        })
    }

    /// Maps `(steps, inputs)` to `(fewer steps, outputs)`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.norm {
            Some(norm) => norm.forward_activated(&self.convolution.forward(x)?, self.activation),
            None => self.convolution.forward_activated(x, self.activation),
        }
    }

    /// Like [`Self::forward`], with the statistics of the whole clip.
    fn forward_normed(&self, x: &Tensor, norm: &ClipNorm) -> Result<Tensor> {
        ops::activate_inplace(norm.forward(&self.convolution.forward(x)?)?, self.activation)
    }
}

/// Norm of each channel over the whole clip.
#[derive(Debug)]
struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
}

/// [`GroupNorm`] with one clip's statistics: `x * scale + shift`.
#[derive(Debug)]
struct ClipNorm {
    scale: Tensor,
    shift: Tensor,
}

impl GroupNorm {
    fn load(channels: usize, vb: &FrozenBuilder) -> Result<Self> {
        let vb = vb.to_dtype(DType::F32); // statistics are f32 in any precision
        Ok(Self { weight: vb.get(channels, "weight")?, bias: vb.get(channels, "bias")? })
    }

    /// Measures the statistics of a convolution's output without holding all of it.
    ///
    /// Blocks are merged as in Chan et al. 1983: squared deviations add up, plus those of the block
    /// means.
    fn measure(&self, samples: &Tensor, convolution: &Conv1d) -> Result<ClipNorm> {
        let (kernel, stride) = (convolution.kernel(), convolution.stride());
        let steps = (samples.dim(0)? - kernel) / stride + 1;
        let mut mean = self.weight.zeros_like()?.unsqueeze(0)?;
        let mut squares = mean.clone();
        for (start, count) in blocks(steps, 64 * BLOCK_STEPS) {
            let samples = samples.narrow(0, start * stride, (count - 1) * stride + kernel)?;
            let block = convolution.forward(&samples)?.to_dtype(DType::F32)?; // (count, channels)
            let block_mean = block.mean_keepdim(0)?;
            let deviations = block.broadcast_sub(&block_mean)?.sqr()?.sum_keepdim(0)?;
            let (before, count) = (start as f64, count as f64);
            let step = (block_mean - &mean)?;
            let between = (step.sqr()? * (before * count / (before + count)))?;
            squares = ((squares + deviations)? + between)?;
            mean = (mean + step * (count / (before + count)))?;
        }
        let deviation = ((squares.squeeze(0)? / steps as f64)? + NORM_EPS)?.sqrt()?;
        let scale = (&self.weight / deviation)?;
        let shift = (&self.bias - (mean.squeeze(0)? * &scale)?)?;
        Ok(ClipNorm { scale, shift })
    }
}

impl ClipNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let exact = x.to_dtype(DType::F32)?;
        exact.broadcast_mul(&self.scale)?.broadcast_add(&self.shift)?.to_dtype(x.dtype())
    }
}
