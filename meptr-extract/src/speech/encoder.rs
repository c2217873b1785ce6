//! Whisper's audio encoder.

use candle::{Result, Tensor};
use meptr_core::kernels::Activation;
use meptr_core::weights::FrozenBuilder;

use super::config::WhisperConfig;
use crate::backbones::layers::{
    Conv1d, FrozenLayerNorm, LayerNames, TransformerEncoder, TransformerEncoderConfig,
};

/// Steps that a convolution's kernel spans.
const KERNEL: usize = 3;
/// Added to the variance in every layer norm.
const NORM_EPS: f64 = 1e-5;

const LAYER_NAMES: LayerNames = LayerNames {
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    attention_output: "self_attn.out_proj",
    attention_norm: "self_attn_layer_norm",
    fc1: "fc1",
    fc2: "fc2",
    feed_forward_norm: "final_layer_norm",
};

/// Two convolutions along the time, positions, and a transformer encoder with a norm at its end.
///
/// Weights: `conv1`, `conv2`, `embed_positions.weight`, `layers.N`, `layer_norm`.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    convolutions: [Conv1d; 2],
    embed_positions: Tensor, // (max_source_positions, d), sinusoids as the file has them
    transformer: TransformerEncoder,
    norm: FrozenLayerNorm,
}

impl Encoder {
    pub(super) fn load(config: &WhisperConfig, vb: FrozenBuilder) -> Result<Self> {
        let d = config.d_model;
        let transformer = TransformerEncoderConfig {
            width: d,
            heads: config.encoder_attention_heads,
            feed_forward_width: config.encoder_ffn_dim,
            layers: config.encoder_layers,
            norm_eps: NORM_EPS,
            activation: Activation::Gelu,
            pre_norm: true,
            key_has_bias: false,
        };
        Ok(Self {
            convolutions: [
                convolution(config.num_mel_bins, d, 1, &vb.pp("conv1"))?,
                convolution(d, d, 2, &vb.pp("conv2"))?,
            ],
            embed_positions: vb.get((config.max_source_positions, d), "embed_positions.weight")?,
            transformer: TransformerEncoder::load(&transformer, &LAYER_NAMES, &vb.pp("layers"))?,
            norm: FrozenLayerNorm::load(d, NORM_EPS, &vb.pp("layer_norm"))?,
        })
    }

    /// `(batch, mels, frames)` to `(batch, positions, d)`, of the weights' type.
    pub(super) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let features = features.to_dtype(self.embed_positions.dtype())?;
        let (batch, _, _) = features.dims3()?;
        let [first, second] = &self.convolutions;
        let embed = |window: usize| {
            // With a zero on either side of the steps.
            let activated = |convolution: &Conv1d, x: &Tensor| {
                convolution.forward_activated(&x.pad_with_zeros(0, 1, 1)?, Activation::Gelu)
            };
            let x = activated(first, &features.get(window)?.t()?)?;
            activated(second, &x)? + &self.embed_positions
        };
        let x = Tensor::stack(&(0..batch).map(embed).collect::<Result<Vec<_>>>()?, 0)?;
        let lengths = vec![x.dim(1)?; batch];
        self.norm.forward(&self.transformer.forward(x, &lengths)?)
    }
}

/// Weights: `weight` `(outputs, inputs, 3)`, `bias` `(outputs,)`.
fn convolution(inputs: usize, outputs: usize, stride: usize, vb: &FrozenBuilder) -> Result<Conv1d> {
    let weight = vb.get((outputs, inputs, KERNEL), "weight")?;
    Conv1d::new(&weight, Some(vb.get(outputs, "bias")?), 1, stride, vb.products())
}
