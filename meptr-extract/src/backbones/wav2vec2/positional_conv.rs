//! Convolutional position embedding: a wide grouped convolution.

use candle::{DType, Result, Tensor};
use meptr_core::kernels::Activation;
use meptr_core::weights::FrozenBuilder;

use super::config::Wav2Vec2Config;
use crate::backbones::layers::Conv1d;

/// `x + activation(convolution(x))`, of the length of `x`.
///
/// Each channel group is one GEMM over windows of the sequence.
///
/// Weights: `bias` `(d,)` and, under weight norm over the kernel's last axis,
/// `parametrizations.weight.{original0, original1}` or, in older files, `weight_g` and `weight_v`:
/// `(1, 1, kernel)` and `(d, d / groups, kernel)`; the kernel used is `g v / |v|`.
#[derive(Debug)]
pub(super) struct PositionalConv {
    convolution: Conv1d,
    activation: Activation,
    kernel: usize,
}

impl PositionalConv {
    pub(super) fn load(config: &Wav2Vec2Config, vb: &FrozenBuilder) -> Result<Self> {
        let (width, kernel) = (config.hidden_size, config.num_conv_pos_embeddings);
        let groups = config.num_conv_pos_embedding_groups;
        let channels = width / groups;
        let newer = "parametrizations.weight.original0";
        let (magnitude, direction) = if vb.contains_tensor(newer) {
            (newer, "parametrizations.weight.original1")
        } else {
            ("weight_g", "weight_v")
        };
        let exact = vb.to_dtype(DType::F32);
        let magnitude = exact.get((1, 1, kernel), magnitude)?;
        let direction = exact.get((width, channels, kernel), direction)?;
        // Two sums rather than one keep the rounding of 65536 terms small.
        let norm = direction.sqr()?.sum_keepdim(0)?.sum_keepdim(1)?.sqrt()?;
        let weight = direction.broadcast_mul(&(magnitude / norm)?)?.to_dtype(vb.dtype())?;
        Ok(Self {
            convolution: Conv1d::new(
                &weight,
                Some(vb.get(width, "bias")?),
                groups,
                1,
                vb.products(),
            )?,
            activation: config.feat_extract_activation,
            kernel,
        })
    }

    /// Adds the embedding to `(steps, d)`.
    pub(super) fn add_to(&self, hidden: &Tensor) -> Result<Tensor> {
        // A kernel of even width gives one step too many; upstream drops the last.
        let (before, after) = (self.kernel / 2, (self.kernel - 1) / 2);
        let padded = hidden.pad_with_zeros(0, before, after)?;
        self.convolution.forward_activated(&padded, self.activation)? + hidden
    }
}
