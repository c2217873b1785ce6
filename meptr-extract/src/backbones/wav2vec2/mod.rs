//! Wav2Vec2's encoder.

mod config;
mod feature_extractor;
mod positional_conv;

use std::sync::Arc;

use candle::{DType, Result, Tensor};
use meptr_core::weights::{FrozenBuilder, MappedFile};

pub use config::{FeatureNorm, Wav2Vec2Config};

use self::feature_extractor::FeatureExtractor;
use self::positional_conv::PositionalConv;
use super::checkpoint_folder::CheckpointConfig;
use super::from_checkpoint::FromCheckpoint;
use super::layers::{
    FrozenLayerNorm, FrozenLinear, LayerNames, TransformerEncoder, TransformerEncoderConfig,
};
use crate::allocator;

const LAYER_NAMES: LayerNames = LayerNames {
    query: "attention.q_proj",
    key: "attention.k_proj",
    value: "attention.v_proj",
    attention_output: "attention.out_proj",
    attention_norm: "layer_norm",
    fc1: "feed_forward.intermediate_dense",
    fc2: "feed_forward.output_dense",
    feed_forward_norm: "final_layer_norm",
};

/// Wav2Vec2: 16 kHz audio to 50 vectors a second.
///
/// Baevski et al. 2020, <https://arxiv.org/abs/2006.11477>. A stack of convolutions over the
/// samples, a projection, one wide convolution as position embedding, and a transformer encoder.
/// The output is the last hidden state of every step; a classification head is not computed.
///
/// Weights, with or without the prefix `wav2vec2.`: `feature_extractor.conv_layers.N`,
/// `feature_projection.{layer_norm, projection}`, `encoder.{pos_conv_embed.conv, layer_norm}` and
/// `encoder.layers.N`.
#[derive(Debug)]
pub struct Wav2Vec2 {
    config: Wav2Vec2Config,
    file: Option<Arc<MappedFile>>,
    feature_extractor: FeatureExtractor,
    projection_norm: FrozenLayerNorm,
    projection: FrozenLinear,
    positional_conv: PositionalConv,
    norm: FrozenLayerNorm,
    encoder: TransformerEncoder,
}

impl Wav2Vec2 {
    /// Builds the encoder of the weights in `vb`.
    ///
    /// # Errors
    /// When the configuration is unsupported or a weight is missing or misshapen.
    pub fn load<'a>(config: &Wav2Vec2Config, vb: impl Into<FrozenBuilder<'a>>) -> Result<Self> {
        let vb = vb.into();
        config.check()?;
        // A file with a head has the encoder under a prefix; generated weights do as well.
        let has_no_prefix = vb.contains_tensor("feature_projection.projection.weight");
        let vb = if has_no_prefix { vb } else { vb.pp("wav2vec2") };
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let encoder = TransformerEncoderConfig {
            width,
            heads: config.num_attention_heads,
            feed_forward_width: config.intermediate_size,
            layers: config.num_hidden_layers,
            norm_eps: eps,
            activation: config.hidden_act,
            pre_norm: config.do_stable_layer_norm,
            key_has_bias: true,
        };
        let features = config.conv_dim.last().copied().unwrap_or_default();
        let (from_features, to_output) = (vb.pp("feature_projection"), vb.pp("encoder"));
        Ok(Self {
            config: config.clone(),
            file: vb.file(),
            feature_extractor: FeatureExtractor::load(
                config,
                &vb.pp("feature_extractor.conv_layers"),
            )?,
            projection_norm: FrozenLayerNorm::load(features, eps, &from_features.pp("layer_norm"))?,
            projection: FrozenLinear::load(features, width, &from_features.pp("projection"))?,
            positional_conv: PositionalConv::load(config, &to_output.pp("pos_conv_embed.conv"))?,
            norm: FrozenLayerNorm::load(width, eps, &to_output.pp("layer_norm"))?,
            encoder: TransformerEncoder::load(&encoder, &LAYER_NAMES, &to_output.pp("layers"))?,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Wav2Vec2Config {
        &self.config
    }

    /// Computes the last hidden state of some clips.
    ///
    /// Every row equals the result of its clip alone, whatever the rest of the batch is. The
    /// convolutions run clip by clip, since the group norm of some models spans the whole clip; the
    /// encoder runs on the batch.
    ///
    /// - `input_values`: `(batch, samples)`, 16 kHz, from [`Wav2Vec2Preprocessor`]
    /// - `lengths`: real samples of each row, at least [`Wav2Vec2Config::receptive_field`]; the rest
    ///   is padding of any value
    /// - returns `(batch, steps, hidden_size)`, f32; row `i` has [`Wav2Vec2Config::steps`]`(lengths[i])`
    ///   steps, and the rest is unspecified
    ///
    /// [`Wav2Vec2Preprocessor`]: super::Wav2Vec2Preprocessor
    ///
    /// # Errors
    /// When a shape differs from the above or a clip is too short.
    pub fn forward(&self, input_values: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (batch, samples) = input_values.dims2()?;
        if lengths.len() != batch || lengths.iter().any(|length| *length > samples) {
            candle::bail!("lengths {lengths:?} do not fit {batch} clips of {samples} samples");
        }
        let steps: Vec<usize> = lengths.iter().map(|length| self.config.steps(*length)).collect();
        if steps.contains(&0) {
            let needed = self.config.receptive_field();
            candle::bail!("a clip of {lengths:?} samples is shorter than {needed}");
        }
        let input_values = input_values.to_dtype(self.projection.dtype())?;
        let longest = steps.iter().copied().max().unwrap_or_default();
        let clips: Result<Vec<Tensor>> = lengths
            .iter()
            .enumerate()
            .map(|(row, length)| {
                let clip = input_values.narrow(0, row, 1)?.squeeze(0)?.narrow(0, 0, *length)?;
                let hidden = self.embed(&clip)?; // (steps, hidden_size)
                let padding = longest - hidden.dim(0)?;
                hidden.pad_with_zeros(0, 0, padding)
            })
            .collect();
        let hidden = Tensor::stack(&clips?, 0)?;
        allocator::trim(); // the convolutions took more memory than the encoder needs
        let hidden = match self.config.do_stable_layer_norm {
            true => self.norm.forward(&self.encoder.forward(hidden, &steps)?)?,
            false => self.encoder.forward(self.norm.forward(&hidden)?, &steps)?,
        };
        hidden.to_dtype(DType::F32)
    }

    /// Peak memory per clip of a batch on the device, in bytes, roughly: the widest layer of the
    /// encoder. Convolutions run clip by clip, and attention in blocks.
    pub fn bytes_per_clip(&self, samples: usize) -> u64 {
        let widths = 10 * self.config.hidden_size + 2 * self.config.intermediate_size;
        4 * (self.config.steps(samples) * widths) as u64
    }

    /// Embeds one clip `(samples,)` as the encoder's input before its norm, `(steps, hidden_size)`.
    fn embed(&self, clip: &Tensor) -> Result<Tensor> {
        let features = self.feature_extractor.forward(clip)?;
        let hidden = self.projection.forward(&self.projection_norm.forward(&features)?)?;
        self.positional_conv.add_to(&hidden)
    }
}

impl FromCheckpoint for Wav2Vec2 {
    type Config = Wav2Vec2Config;
    const CONFIG_NAME: &'static str = "Wav2Vec2 configuration";

    fn from_weights(config: &Wav2Vec2Config, vb: FrozenBuilder) -> Result<Self> {
        Self::load(config, vb)
    }

    // Heads, the vector of masked steps in pre-training, and the quantizer.
    fn is_unused(name: &str) -> bool {
        let heads = ["classifier.", "projector.", "lm_head.", "dropout.", "quantizer."];
        let pretraining = ["project_q.", "project_hid."];
        name.strip_prefix("wav2vec2.").unwrap_or(name) == "masked_spec_embed"
            || heads.into_iter().chain(pretraining).any(|part| name.starts_with(part))
    }

    fn mapped_file(&self) -> Option<&MappedFile> {
        self.file.as_deref()
    }
}
