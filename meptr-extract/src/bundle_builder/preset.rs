//! Sizes of the models of bundles with random weights.

use meptr_core::Modality;
use serde_json::{Value, json};

/// Sizes of the models of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Small: a few megabytes in f16.
    Demo,
    /// The published sizes, in f32.
    Full,
}

impl Preset {
    /// Name on the command line and in the bundle.
    pub fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Full => "full",
        }
    }

    /// Width of the backbone's features of a modality.
    pub(super) fn features(self, modality: Modality) -> usize {
        match (self, modality) {
            (Self::Demo, Modality::Text) => 96,
            (Self::Demo, _) => 128,
            (Self::Full, Modality::Text) => 384,
            (Self::Full, Modality::Audio) => 1024,
            (Self::Full, _) => 512,
        }
    }

    /// `config.json` of CLIP.
    pub(super) fn clip(self) -> Value {
        let (width, layers, heads, inner, features) = match self {
            Self::Demo => (128, 3, 4, 256, 128),
            Self::Full => (768, 12, 12, 3072, 512),
        };
        json!({
            "model_type": "clip",
            "projection_dim": features,
            "vision_config": {
                "hidden_act": "quick_gelu", "hidden_size": width, "image_size": 224,
                "intermediate_size": inner, "layer_norm_eps": 1e-5, "num_attention_heads": heads,
                "num_channels": 3, "num_hidden_layers": layers, "patch_size": 32,
            },
        })
    }

    /// `config.json` of BERT.
    pub(super) fn bert(self) -> Value {
        let (width, layers, heads, inner) = match self {
            Self::Demo => (96, 2, 4, 192),
            Self::Full => (384, 12, 12, 1536),
        };
        json!({
            "model_type": "bert", "hidden_act": "gelu", "hidden_size": width,
            "intermediate_size": inner, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
            "num_attention_heads": heads, "num_hidden_layers": layers, "type_vocab_size": 2,
            "vocab_size": self.vocabulary(),
        })
    }

    /// Number of tokens.
    pub(super) fn vocabulary(self) -> usize {
        match self {
            Self::Demo => 1024,
            Self::Full => 30_522,
        }
    }

    /// `config.json` of Wav2Vec2.
    pub(super) fn wav2vec2(self) -> Value {
        let (width, layers, heads, inner, channels, kernel, groups) = match self {
            Self::Demo => (128, 2, 4, 256, 64, 32, 8),
            Self::Full => (1024, 12, 16, 4096, 512, 128, 16),
        };
        json!({
            "model_type": "wav2vec2", "conv_bias": true, "conv_dim": vec![channels; 7],
            "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2],
            "do_stable_layer_norm": true, "feat_extract_activation": "gelu",
            "feat_extract_norm": "layer", "hidden_act": "gelu", "hidden_size": width,
            "intermediate_size": inner, "layer_norm_eps": 1e-5, "num_attention_heads": heads,
            "num_conv_pos_embedding_groups": groups, "num_conv_pos_embeddings": kernel,
            "num_hidden_layers": layers,
        })
    }
}

/// `preprocessor_config.json` of CLIP.
pub(super) fn clip_preprocessor() -> Value {
    json!({
        "crop_size": {"height": 224, "width": 224}, "do_center_crop": true,
        "do_convert_rgb": true, "do_normalize": true, "do_rescale": true, "do_resize": true,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3, "rescale_factor": 1.0 / 255.0, "size": {"shortest_edge": 224},
    })
}

/// `preprocessor_config.json` of Wav2Vec2.
pub(super) fn wav2vec2_preprocessor() -> Value {
    json!({
        "do_normalize": true, "feature_size": 1, "padding_value": 0.0, "sampling_rate": 16000,
    })
}
