//! The published configurations, smaller ones like them, and the reference's own JSON.

use serde::Deserialize;

use super::config::{
    AudioConfig, CrossTaskConfig, EncoderConfig, HeadConfig, HiddenActivation, OutputActivation,
    SequenceConfig, TransformerFusionConfig, UnimodalConfig,
};
use crate::Modality;

impl HeadConfig {
    /// The configuration whose weights the authors publish.
    pub fn published(modality: Modality) -> Self {
        match modality {
            Modality::Body => video(
                (mamba(8, 2), 256, 128),
                (mamba(4, 1), 1024, 256),
                transformer_fusion(1024, 128, 16, 1, OutputActivation::Sigmoid, 0.15),
            ),
            Modality::Face => video(
                (mamba(16, 1), 1024, 256),
                (mamba(8, 1), 256, 512),
                transformer_fusion(512, 256, 2, 3, OutputActivation::Sigmoid, 0.15),
            ),
            Modality::Scene => video(
                (EncoderConfig::Transformer { heads: 4, layers: 5, positions: false }, 512, 128),
                (mamba(4, 7), 512, 512),
                transformer_fusion(768, 256, 4, 5, OutputActivation::Relu, 0.1),
            ),
            Modality::Audio => audio(1024, 256, 3, 8, 0.2),
            Modality::Text => text(),
        }
    }

    /// Scaled-down architecture with every inner width divided by `divisor` (never below 8), for
    /// backbone features of another width. Heads that no longer divide a width become fewer.
    pub fn scaled(&self, input_width: usize, divisor: usize) -> Self {
        let scale = |width: usize| (width / divisor.max(1)).max(8.min(width));
        let unimodal = |config: &UnimodalConfig| match config {
            UnimodalConfig::Sequence(config) => UnimodalConfig::Sequence(SequenceConfig {
                input_width,
                width: scale(config.width),
                head_width: scale(config.head_width),
                encoder: scaled_encoder(&config.encoder, scale(config.width), scale),
                ..*config
            }),
            UnimodalConfig::Audio(config) => UnimodalConfig::Audio(AudioConfig {
                input_width,
                width: scale(config.width),
                ..*config
            }),
        };
        let fusion = match &self.fusion {
            CrossTaskConfig::Transformer(config) => {
                let width = scale(config.width);
                CrossTaskConfig::Transformer(TransformerFusionConfig {
                    width,
                    head_width: scale(config.head_width),
                    heads: fitting_heads(config.heads, width),
                    ..*config
                })
            }
            CrossTaskConfig::Attention { width, heads, dropout } => {
                let width = scale(*width);
                let heads = fitting_heads(*heads, width);
                CrossTaskConfig::Attention { width, heads, dropout: *dropout }
            }
        };
        let (emotion, personality) = (unimodal(&self.emotion), unimodal(&self.personality));
        Self { emotion, personality, fusion }
    }

    /// Reads the configuration of a head as the reference writes it: one flat object for body,
    /// face and scene, nested ones for text and audio.
    ///
    /// # Errors
    /// When a field is missing or unknown.
    pub fn from_reference_json(json: &serde_json::Value) -> Result<Self, serde_json::Error> {
        if json.get("image_embedding_dim").is_some() {
            VideoJson::deserialize(json).map(Into::into)
        } else if json.get("d_model").is_some() {
            AudioJson::deserialize(json).map(Into::into)
        } else {
            TextJson::deserialize(json).map(Into::into)
        }
    }
}

fn scaled_encoder(
    encoder: &EncoderConfig,
    width: usize,
    scale: impl Fn(usize) -> usize,
) -> EncoderConfig {
    match *encoder {
        EncoderConfig::Mamba { inner_width, layers } => {
            EncoderConfig::Mamba { inner_width: scale(inner_width), layers }
        }
        EncoderConfig::Transformer { heads, layers, positions } => {
            EncoderConfig::Transformer { heads: fitting_heads(heads, width), layers, positions }
        }
    }
}

/// The largest number up to `heads` that divides `width`.
fn fitting_heads(heads: usize, width: usize) -> usize {
    (1..=heads).rev().find(|heads| width.is_multiple_of(*heads)).unwrap_or(1)
}

fn mamba(inner_width: usize, layers: usize) -> EncoderConfig {
    EncoderConfig::Mamba { inner_width, layers }
}

fn transformer_fusion(
    width: usize,
    head_width: usize,
    heads: usize,
    layers: usize,
    activation: OutputActivation,
    dropout: f32,
) -> TransformerFusionConfig {
    TransformerFusionConfig {
        width,
        head_width,
        heads,
        layers,
        positions: true,
        activation,
        hidden_activation: HiddenActivation::Gelu,
        dropout,
    }
}

/// Encoders as `(encoder, width, head_width)`; dropout and activation are those of the fusion.
fn video(
    emotion: (EncoderConfig, usize, usize),
    personality: (EncoderConfig, usize, usize),
    fusion: TransformerFusionConfig,
) -> HeadConfig {
    let unimodal = |(encoder, width, head_width), activation| {
        UnimodalConfig::Sequence(SequenceConfig {
            input_width: 512,
            width,
            head_width,
            encoder,
            activation,
            dropout: fusion.dropout,
        })
    };
    HeadConfig {
        emotion: unimodal(emotion, OutputActivation::None),
        personality: unimodal(personality, fusion.activation),
        fusion: CrossTaskConfig::Transformer(fusion),
    }
}

fn audio(
    input_width: usize,
    width: usize,
    layers: usize,
    heads: usize,
    dropout: f32,
) -> HeadConfig {
    let unimodal = UnimodalConfig::Audio(AudioConfig { input_width, width, layers, dropout });
    HeadConfig {
        emotion: unimodal.clone(),
        personality: unimodal,
        fusion: CrossTaskConfig::Attention { width, heads, dropout },
    }
}

fn text() -> HeadConfig {
    let unimodal = |encoder, width, head_width, activation| {
        UnimodalConfig::Sequence(SequenceConfig {
            input_width: 384,
            width,
            head_width,
            encoder,
            activation,
            dropout: TEXT_ENCODER_DROPOUT,
        })
    };
    let transformer = EncoderConfig::Transformer { heads: 8, layers: 1, positions: true };
    HeadConfig {
        emotion: unimodal(mamba(256, 4), 256, 256, OutputActivation::None),
        personality: unimodal(transformer, 512, 128, OutputActivation::Sigmoid),
        fusion: CrossTaskConfig::Transformer(TransformerFusionConfig {
            hidden_activation: HiddenActivation::Silu,
            ..transformer_fusion(256, 256, 4, 2, OutputActivation::Sigmoid, TEXT_FUSION_DROPOUT)
        }),
    }
}

const TEXT_ENCODER_DROPOUT: f32 = 0.2;
const TEXT_FUSION_DROPOUT: f32 = 0.1;

/// The reference's configuration of a body, face or scene head. Both branches carry the fields of
/// both kinds of encoder; the class decides which ones count.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VideoJson {
    image_embedding_dim: usize,
    dropout: f32,
    emotion_class: String,
    hidden_dim_emo: usize,
    out_features_emo: usize,
    tr_layer_number_emo: usize,
    num_transformer_heads_emo: usize,
    positional_encoding_emo: bool,
    mamba_d_state_emo: usize,
    mamba_layer_number_emo: usize,
    personality_class: String,
    hidden_dim_per: usize,
    out_features_per: usize,
    tr_layer_number_per: usize,
    num_transformer_heads_per: usize,
    positional_encoding_per: bool,
    mamba_d_state_per: usize,
    mamba_layer_number_per: usize,
    best_per_activation: OutputActivation,
    hidden_dim: usize,
    out_features: usize,
    tr_layer_number: usize,
    num_transformer_heads: usize,
    positional_encoding: bool,
    per_activation: OutputActivation,
    #[serde(rename = "mamba_d_state")]
    _mamba_d_state: usize,
    #[serde(rename = "mamba_layer_number")]
    _mamba_layer_number: usize,
    #[serde(rename = "counter_need_frames")]
    _counter_need_frames: usize,
}

impl From<VideoJson> for HeadConfig {
    fn from(json: VideoJson) -> Self {
        let emotion = if json.emotion_class.ends_with("Transformer") {
            EncoderConfig::Transformer {
                heads: json.num_transformer_heads_emo,
                layers: json.tr_layer_number_emo,
                positions: json.positional_encoding_emo,
            }
        } else {
            mamba(json.mamba_d_state_emo, json.mamba_layer_number_emo)
        };
        let personality = if json.personality_class.ends_with("Transformer") {
            EncoderConfig::Transformer {
                heads: json.num_transformer_heads_per,
                layers: json.tr_layer_number_per,
                positions: json.positional_encoding_per,
            }
        } else {
            mamba(json.mamba_d_state_per, json.mamba_layer_number_per)
        };
        let unimodal = |encoder, width, head_width, activation| {
            UnimodalConfig::Sequence(SequenceConfig {
                input_width: json.image_embedding_dim,
                width,
                head_width,
                encoder,
                activation,
                dropout: json.dropout,
            })
        };
        Self {
            emotion: unimodal(
                emotion,
                json.hidden_dim_emo,
                json.out_features_emo,
                OutputActivation::None,
            ),
            personality: unimodal(
                personality,
                json.hidden_dim_per,
                json.out_features_per,
                json.best_per_activation,
            ),
            fusion: CrossTaskConfig::Transformer(TransformerFusionConfig {
                width: json.hidden_dim,
                head_width: json.out_features,
                heads: json.num_transformer_heads,
                layers: json.tr_layer_number,
                positions: json.positional_encoding,
                activation: json.per_activation,
                hidden_activation: HiddenActivation::Gelu,
                dropout: json.dropout,
            }),
        }
    }
}

/// The reference's configuration of the audio head.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AudioJson {
    input_size: usize,
    d_model: usize,
    num_layers: usize,
    fusion: AudioFusionJson,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AudioFusionJson {
    hidden_dim: usize,
    dropout: f32,
    tr_heads: usize,
    #[serde(rename = "num_emotions")]
    _num_emotions: usize,
    #[serde(rename = "num_traits")]
    _num_traits: usize,
}

impl From<AudioJson> for HeadConfig {
    fn from(json: AudioJson) -> Self {
        let AudioFusionJson { hidden_dim, dropout, tr_heads, .. } = json.fusion;
        Self {
            fusion: CrossTaskConfig::Attention { width: hidden_dim, heads: tr_heads, dropout },
            ..audio(json.input_size, json.d_model, json.num_layers, tr_heads, dropout)
        }
    }
}

/// The reference's configuration of the text head.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextJson {
    #[serde(rename = "input_dim")]
    input_width: usize,
    emotion: TextEmotionJson,
    personality: TextTransformerJson,
    fusion: TextTransformerJson,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextEmotionJson {
    hidden_dim: usize,
    out_features: usize,
    mamba_layer_number: usize,
    mamba_d_model: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextTransformerJson {
    hidden_dim: usize,
    out_features: usize,
    tr_layer_number: usize,
    num_transformer_heads: usize,
    positional_encoding: bool,
    per_activation: OutputActivation,
}

impl From<TextJson> for HeadConfig {
    fn from(json: TextJson) -> Self {
        let TextJson { input_width, emotion, personality, fusion } = json;
        let unimodal = |encoder, width, head_width, activation| {
            UnimodalConfig::Sequence(SequenceConfig {
                input_width,
                width,
                head_width,
                encoder,
                activation,
                dropout: TEXT_ENCODER_DROPOUT,
            })
        };
        let transformer = EncoderConfig::Transformer {
            heads: personality.num_transformer_heads,
            layers: personality.tr_layer_number,
            positions: personality.positional_encoding,
        };
        Self {
            emotion: unimodal(
                mamba(emotion.mamba_d_model, emotion.mamba_layer_number),
                emotion.hidden_dim,
                emotion.out_features,
                OutputActivation::None,
            ),
            personality: unimodal(
                transformer,
                personality.hidden_dim,
                personality.out_features,
                personality.per_activation,
            ),
            fusion: CrossTaskConfig::Transformer(TransformerFusionConfig {
                width: fusion.hidden_dim,
                head_width: fusion.out_features,
                heads: fusion.num_transformer_heads,
                layers: fusion.tr_layer_number,
                positions: fusion.positional_encoding,
                activation: fusion.per_activation,
                hidden_activation: HiddenActivation::Silu,
                dropout: TEXT_FUSION_DROPOUT,
            }),
        }
    }
}
