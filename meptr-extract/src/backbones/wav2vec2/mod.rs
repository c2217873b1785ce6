//! Wav2Vec2's encoder.

mod config;
mod feature_extractor;
mod positional_convolution;

use std::path::Path;
use std::sync::Arc;

use candle::{DType, Device, Result, Tensor};
use meptr_core::Precision;
use meptr_core::weights::{FrozenBuilder, MappedFile};

pub use config::{FeatureNorm, Wav2Vec2Config};

use self::feature_extractor::FeatureExtractor;
use self::positional_convolution::PositionalConvolution;
use super::encoder::{Encoder, EncoderConfig, LayerNames, NormPlace};
use super::folder::{self, FolderConfig};
use super::layer_norm::LayerNorm;
use super::linear::Linear;
use crate::allocator;

const LAYER_NAMES: LayerNames = LayerNames {
    query: "attention.q_proj",
    key: "attention.k_proj",
    value: "attention.v_proj",
    attention_output: "attention.out_proj",
    attention_norm: "layer_norm",
    inner: "feed_forward.intermediate_dense",
    outer: "feed_forward.output_dense",
    feed_forward_norm: "final_layer_norm",
};

/// Wav2Vec2: 16 kHz sound to 50 vectors a second.
///
/// Baevski et al. 2020, <https://arxiv.org/abs/2006.11477>. A stack of convolutions over the
/// samples, a projection, one wide convolution that marks positions, and a transformer encoder.
/// The output is the last hidden state of every step; a classification head is not computed.
///
/// Weights, all below `wav2vec2.` or below nothing: `feature_extractor.conv_layers.N`,
/// `feature_projection.{layer_norm, projection}`, `encoder.{pos_conv_embed.conv, layer_norm}` and
/// `encoder.layers.N`.
#[derive(Debug)]
pub struct Wav2Vec2 {
    config: Wav2Vec2Config,
    file: Option<Arc<MappedFile>>,
    feature_extractor: FeatureExtractor,
    projection_norm: LayerNorm,
    projection: Linear,
    positional_convolution: PositionalConvolution,
    norm: LayerNorm,
    encoder: Encoder,
}

impl Wav2Vec2 {
    /// Reads `config.json` and `model.safetensors` of a folder.
    ///
    /// # Errors
    /// When a file is missing or broken, asks for something we do not compute, or holds tensors
    /// that do not fit the configuration.
    pub fn open(folder: &Path, device: &Device) -> crate::Result<Self> {
        Self::open_as(folder, device, Precision::F32)
    }

    /// The same, computing with other numbers; what comes out is f32 all the same.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(folder: &Path, device: &Device, precision: Precision) -> crate::Result<Self> {
        let place = (device, precision);
        folder::open(folder, "Wav2Vec2 configuration", place, Self::may_be_left, |config, vb| {
            Self::load(config, vb)
        })
    }

    /// Builds the encoder of the weights in `vb`.
    ///
    /// # Errors
    /// When the configuration cannot be computed or a weight is missing or misshapen.
    pub fn load<'a>(config: &Wav2Vec2Config, vb: impl Into<FrozenBuilder<'a>>) -> Result<Self> {
        let vb = vb.into();
        config.check()?;
        // A file with a head keeps the encoder below a prefix; generated weights do as well.
        let has_no_prefix = vb.contains_tensor("feature_projection.projection.weight");
        let vb = if has_no_prefix { vb } else { vb.pp("wav2vec2") };
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let encoder = EncoderConfig {
            width,
            heads: config.num_attention_heads,
            inner_width: config.intermediate_size,
            layers: config.num_hidden_layers,
            norm_eps: eps,
            activation: config.hidden_act,
            norm_place: config.norm_place(),
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
            projection_norm: LayerNorm::load(features, eps, &from_features.pp("layer_norm"))?,
            projection: Linear::load(features, width, &from_features.pp("projection"))?,
            positional_convolution: PositionalConvolution::load(
                config,
                &to_output.pp("pos_conv_embed.conv"),
            )?,
            norm: LayerNorm::load(width, eps, &to_output.pp("layer_norm"))?,
            encoder: Encoder::load(&encoder, &LAYER_NAMES, &to_output.pp("layers"))?,
        })
    }

    /// True for tensors of published checkpoints that the encoder does not use: heads, the vector
    /// that stands for masked steps in pre-training, and the quantizer.
    pub fn may_be_left(name: &str) -> bool {
        let heads = ["classifier.", "projector.", "lm_head.", "dropout.", "quantizer."];
        let pretraining = ["project_q.", "project_hid."];
        name.strip_prefix("wav2vec2.").unwrap_or(name) == "masked_spec_embed"
            || heads.into_iter().chain(pretraining).any(|part| name.starts_with(part))
    }

    /// Lets go of the weights that were read so far, where they are mapped: the system fetches
    /// them again when they are asked for.
    pub fn release(&self) {
        if let Some(file) = &self.file {
            file.release();
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Wav2Vec2Config {
        &self.config
    }

    /// The last hidden state of some clips.
    ///
    /// Every row equals what the clip alone gives, whatever stands beside it. The convolutions run
    /// clip by clip, since the group norm of some models spans the whole clip; the encoder runs on
    /// the batch.
    ///
    /// - `input_values`: `(batch, samples)`, 16 kHz, normalised by [`AudioInput`]
    /// - `lengths`: per row the number of real samples, each at least
    ///   [`Wav2Vec2Config::receptive_field`]; the rest is padding of any value
    /// - returns `(batch, steps, hidden_size)`, where row `i` has
    ///   [`Wav2Vec2Config::steps`]`(lengths[i])` steps and the rest has no meaning
    ///
    /// [`AudioInput`]: super::AudioInput
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
        allocator::trim(); // the convolutions took more room than the encoder needs
        let hidden = match self.config.norm_place() {
            NormPlace::BeforeBranch => self.norm.forward(&self.encoder.forward(hidden, &steps)?)?,
            NormPlace::AfterResidual => {
                self.encoder.forward(self.norm.forward(&hidden)?, &steps)?
            }
        };
        hidden.to_dtype(DType::F32)
    }

    /// Bytes that each clip of a batch takes on the device at the fullest moment, roughly: the
    /// widest layer of the encoder. Convolutions run clip by clip, and attention in blocks.
    pub fn bytes_per_clip(&self, samples: usize) -> u64 {
        let widths = 10 * self.config.hidden_size + 2 * self.config.intermediate_size;
        4 * (self.config.steps(samples) * widths) as u64
    }

    /// One clip `(samples,)` to the encoder's input without its norm, `(steps, hidden_size)`.
    fn embed(&self, clip: &Tensor) -> Result<Tensor> {
        let features = self.feature_extractor.forward(clip)?;
        let hidden = self.projection.forward(&self.projection_norm.forward(&features)?)?;
        self.positional_convolution.add_to(&hidden)
    }
}
