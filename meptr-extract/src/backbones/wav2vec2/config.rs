//! Wav2Vec2's configuration.

use meptr_core::kernels::Activation;
use serde::Deserialize;

use crate::backbones::checkpoint_folder::{CheckpointConfig, Problems};

/// Largest receptive field and hop in samples: a minute, where published models have 400 and 320.
const MAX_FIELD: usize = 1 << 20;

/// `config.json` of a Wav2Vec2 model; other keys are ignored.
///
/// Missing keys have the values of Wav2Vec2 base, as in transformers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Wav2Vec2Config {
    /// Must be `wav2vec2`.
    pub model_type: String,
    /// Width of the sequence.
    pub hidden_size: usize,
    /// Number of encoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads, a divisor of `hidden_size`.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward blocks.
    pub intermediate_size: usize,
    /// Activation of the feed-forward blocks.
    pub hidden_act: Activation,
    /// Added to the variance in the encoder's layer norms.
    pub layer_norm_eps: f64,
    /// Pre-norm, with a norm after the last layer; else post-norm.
    pub do_stable_layer_norm: bool,
    /// Norm inside the feature extractor.
    pub feat_extract_norm: FeatureNorm,
    /// Activation of the feature extractor and of the positional convolution.
    pub feat_extract_activation: Activation,
    /// Channels of each convolution of the feature extractor.
    pub conv_dim: Vec<usize>,
    /// Kernel width of each convolution.
    pub conv_kernel: Vec<usize>,
    /// Stride of each convolution.
    pub conv_stride: Vec<usize>,
    /// Whether the convolutions have biases.
    pub conv_bias: bool,
    /// Kernel width of the positional convolution.
    pub num_conv_pos_embeddings: usize,
    /// Channel groups of the positional convolution, a divisor of `hidden_size`.
    pub num_conv_pos_embedding_groups: usize,
    /// Must be false.
    pub add_adapter: bool,
    /// Must be absent.
    pub adapter_attn_dim: Option<usize>,
}

/// Norm inside the feature extractor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureNorm {
    /// After the first convolution only, each channel over the whole clip.
    Group,
    /// After every convolution, each step over its channels.
    Layer,
}

impl Wav2Vec2Config {
    /// `audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim`.
    pub fn large_robust_12() -> Self {
        Self {
            hidden_size: 1024,
            num_attention_heads: 16,
            intermediate_size: 4096,
            do_stable_layer_norm: true,
            feat_extract_norm: FeatureNorm::Layer,
            conv_bias: true,
            ..Self::default()
        }
    }

    /// Steps of a clip; 0 when it is shorter than [`Self::receptive_field`].
    pub fn steps(&self, samples: usize) -> usize {
        self.convolutions().fold(samples, |length, (kernel, stride)| {
            match length.checked_sub(kernel) {
                Some(rest) => rest / stride + 1,
                None => 0,
            }
        })
    }

    /// Samples that one step depends on.
    pub fn receptive_field(&self) -> usize {
        self.samples_for(1)
    }

    /// Fewest samples of `steps` steps, at least 1.
    pub(super) fn samples_for(&self, steps: usize) -> usize {
        let convolutions: Vec<_> = self.convolutions().collect();
        convolutions.into_iter().rev().fold(steps, |length, (kernel, stride)| {
            length.saturating_sub(1).saturating_mul(stride).saturating_add(kernel)
        })
    }

    /// Samples from one step to the next.
    pub fn hop(&self) -> usize {
        self.conv_stride.iter().fold(1, |all: usize, stride| all.saturating_mul(*stride))
    }

    /// Kernel and stride of each convolution.
    pub(super) fn convolutions(&self) -> impl Iterator<Item = (usize, usize)> {
        self.conv_kernel.iter().copied().zip(self.conv_stride.iter().copied())
    }
}

impl Default for Wav2Vec2Config {
    fn default() -> Self {
        Self {
            model_type: "wav2vec2".into(),
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-5,
            do_stable_layer_norm: false,
            feat_extract_norm: FeatureNorm::Group,
            feat_extract_activation: Activation::Gelu,
            conv_dim: vec![512; 7],
            conv_kernel: vec![10, 3, 3, 3, 3, 2, 2],
            conv_stride: vec![5, 2, 2, 2, 2, 2, 2],
            conv_bias: false,
            num_conv_pos_embeddings: 128,
            num_conv_pos_embedding_groups: 16,
            add_adapter: false,
            adapter_attn_dim: None,
        }
    }
}

impl CheckpointConfig for Wav2Vec2Config {
    fn problems(&self) -> Vec<String> {
        let mut problems = Problems::default();
        problems.require(
            self.model_type == "wav2vec2",
            format!("`model_type` is `{}`, not `wav2vec2`", self.model_type),
        );
        problems.require_encoder(
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
        );
        problems.require_sizes(&[
            ("intermediate_size", self.intermediate_size),
            ("num_conv_pos_embeddings", self.num_conv_pos_embeddings),
        ]);
        for (name, sizes) in [
            ("conv_dim", &self.conv_dim),
            ("conv_kernel", &self.conv_kernel),
            ("conv_stride", &self.conv_stride),
        ] {
            sizes.iter().for_each(|size| problems.require_sizes(&[(name, *size)]));
        }
        problems.require(
            self.receptive_field().max(self.hop()) <= MAX_FIELD,
            format!(
                "a step of `conv_kernel` and `conv_stride` is of more than {MAX_FIELD} samples"
            ),
        );
        problems.require(
            !self.conv_dim.is_empty()
                && self.conv_dim.len() == self.conv_kernel.len()
                && self.conv_dim.len() == self.conv_stride.len(),
            "`conv_dim`, `conv_kernel` and `conv_stride` must be lists of one length",
        );
        let groups = self.num_conv_pos_embedding_groups;
        problems.require(
            groups > 0 && self.hidden_size.is_multiple_of(groups),
            format!("`num_conv_pos_embedding_groups` {groups} does not divide `hidden_size`"),
        );
        problems.require(!self.add_adapter, "`add_adapter` is true");
        problems.require(self.adapter_attn_dim.is_none(), "`adapter_attn_dim` is set");
        problems.into_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_as_in_the_convolutions() {
        let config = Wav2Vec2Config::large_robust_12();
        assert_eq!((config.receptive_field(), config.hop()), (400, 320));
        let steps: Vec<usize> =
            [0, 399, 400, 719, 720, 2000, 19200].map(|samples| config.steps(samples)).into();
        assert_eq!(steps, [0, 0, 1, 1, 2, 6, 59]);
        assert_eq!(config.samples_for(59), 58 * 320 + 400);
    }

    #[test]
    fn unsupported_options_are_refused_by_name() {
        let refused = |json: &str| serde_json::from_str::<Wav2Vec2Config>(json).unwrap().problems();
        assert!(refused("{}").is_empty());
        assert!(refused(r#"{"model_type": "hubert"}"#)[0].contains("hubert"));
        assert!(refused(r#"{"add_adapter": true}"#)[0].contains("add_adapter"));
        assert!(refused(r#"{"adapter_attn_dim": 16}"#)[0].contains("adapter_attn_dim"));
        assert!(refused(r#"{"conv_dim": [8]}"#)[0].contains("conv_dim"));
        let problems = refused(r#"{"conv_stride": [0, 1, 1, 1, 1, 1, 1]}"#);
        assert_eq!(problems, ["`conv_stride` is 0, not 1 to 1048576"]);
        let problems = refused(r#"{"conv_kernel": [9000000000, 9, 9, 9, 9, 9, 9]}"#);
        assert!(problems[0].contains("`conv_kernel` is 9000000000, not 1 to"), "{problems:?}");
        let problems = refused(r#"{"conv_stride": [9, 9, 9, 9, 9, 9, 9999]}"#);
        assert!(problems[0].contains("a step of"), "{problems:?}");
        let problems = refused(r#"{"num_hidden_layers": 1000000000000}"#);
        assert!(problems[0].contains("`num_hidden_layers`"), "{problems:?}");
        let norm = serde_json::from_str::<Wav2Vec2Config>(r#"{"feat_extract_norm": "batch"}"#);
        assert!(norm.unwrap_err().to_string().contains("batch"));
    }
}
