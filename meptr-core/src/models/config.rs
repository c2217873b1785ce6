//! Shapes of the models of stages 1 and 2.

use serde::{Deserialize, Serialize};

/// Widest layer of a configuration: far above any model's, so that a damaged value is reported
/// before memory is allocated.
pub(super) const MAX_WIDTH: usize = 1 << 16;
/// Most layers of a configuration.
const MAX_LAYERS: usize = 1 << 10;

/// Activation of a trait head's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputActivation {
    /// None: raw regression values.
    None,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `max(x, 0)`; scores can exceed 1.
    Relu,
}

/// Activation inside a head of stage 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HiddenActivation {
    /// Exact GELU, `x Phi(x)`.
    Gelu,
    /// `x sigmoid(x)`.
    Silu,
}

/// Shape of a stage-1 model: one modality, one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnimodalConfig {
    /// Projection with layer norm, encoder, mean, two-layer head (body, face, scene, text).
    Sequence(SequenceConfig),
    /// Linear projection, Mamba blocks, mean, one-layer head (audio).
    Audio(AudioConfig),
}

/// Shape of a stage-1 model for body, face, scene or text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequenceConfig {
    /// Width of the backbone's features.
    pub input_width: usize,
    /// Width of the encoder, and of the features it hands on.
    pub width: usize,
    /// Width inside the head.
    pub head_width: usize,
    /// The encoder.
    pub encoder: EncoderConfig,
    /// Activation of a trait head; an emotion head has none and ignores it.
    pub activation: OutputActivation,
    /// Probability of dropout, 0 to 1.
    pub dropout: f32,
}

/// Kind and depth of an encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EncoderConfig {
    /// Blocks that map every step on its own.
    Mamba {
        /// Width inside a block.
        inner_width: usize,
        /// Number of blocks.
        layers: usize,
    },
    /// Self-attention layers.
    Transformer {
        /// Attention heads per layer, which divide the encoder's width.
        heads: usize,
        /// Number of layers.
        layers: usize,
        /// Whether every layer adds sinusoidal positions.
        positions: bool,
    },
}

/// Shape of a stage-1 audio model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioConfig {
    /// Width of the backbone's features.
    pub input_width: usize,
    /// Width of the blocks, inside too, and of the features handed on.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Probability of dropout, 0 to 1.
    pub dropout: f32,
}

/// Cross-attention between the two tasks in stage 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CrossTaskConfig {
    /// Transformer layers each way (body, face, scene, text).
    Transformer(TransformerFusionConfig),
    /// One multi-head attention each way, no feed-forward part, no activation on traits (audio).
    Attention {
        /// Width of both streams.
        width: usize,
        /// Attention heads, which divide the width.
        heads: usize,
        /// Probability of dropout, 0 to 1.
        dropout: f32,
    },
}

/// Shape of the stage-2 part for body, face, scene or text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerFusionConfig {
    /// Width of both streams.
    pub width: usize,
    /// Width inside both heads.
    pub head_width: usize,
    /// Attention heads per layer, which divide the width.
    pub heads: usize,
    /// Layers each way.
    pub layers: usize,
    /// Whether every layer adds sinusoidal positions.
    pub positions: bool,
    /// Activation of the trait head.
    pub activation: OutputActivation,
    /// Activation inside both heads.
    pub hidden_activation: HiddenActivation,
    /// Probability of dropout, 0 to 1.
    pub dropout: f32,
}

/// Shape of all that one modality needs up to its vector: two stage-1 models and stage 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Stage 1, emotions.
    pub emotion: UnimodalConfig,
    /// Stage 1, personality.
    pub personality: UnimodalConfig,
    /// Stage 2.
    pub fusion: CrossTaskConfig,
}

impl UnimodalConfig {
    /// Width of the backbone's features.
    pub fn input_width(&self) -> usize {
        match self {
            Self::Sequence(config) => config.input_width,
            Self::Audio(config) => config.input_width,
        }
    }

    /// Width of the features handed to stage 2.
    pub fn width(&self) -> usize {
        match self {
            Self::Sequence(config) => config.width,
            Self::Audio(config) => config.width,
        }
    }
}

impl CrossTaskConfig {
    /// Width of both streams.
    pub fn width(&self) -> usize {
        match self {
            Self::Transformer(config) => config.width,
            Self::Attention { width, .. } => *width,
        }
    }
}

impl HeadConfig {
    /// Width of the backbone's features.
    pub fn input_width(&self) -> usize {
        self.emotion.input_width()
    }

    /// Width of the modality's vector: both streams of stage 2 side by side.
    pub fn vector_width(&self) -> usize {
        self.fusion.width().saturating_mul(2)
    }

    /// Prefixes, in a stage-2 file, of the frozen stage-1 models: emotion, personality.
    pub fn frozen_prefixes(&self) -> (&'static str, &'static str) {
        match self.fusion {
            CrossTaskConfig::Transformer(_) => ("emo_model", "per_model"),
            CrossTaskConfig::Attention { .. } => ("emo_enc", "per_enc"),
        }
    }
}

impl HeadConfig {
    /// Everything that makes no sense, by the keys where it stands.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (place, config) in [("emotion", &self.emotion), ("personality", &self.personality)] {
            let wrong = config.problems();
            problems.extend(wrong.into_iter().map(|wrong| format!("`{place}` {wrong}")));
        }
        if self.emotion.input_width() != self.personality.input_width() {
            problems.push("`emotion` and `personality` read features of two widths".to_owned());
        }
        let (wrong, head_width) = match &self.fusion {
            CrossTaskConfig::Transformer(TransformerFusionConfig {
                width,
                head_width,
                heads,
                layers,
                dropout,
                ..
            }) => (layer_problems(*width, Some(*heads), *layers, *dropout), *head_width),
            CrossTaskConfig::Attention { width, heads, dropout } => {
                (layer_problems(*width, Some(*heads), 1, *dropout), *width)
            }
        };
        problems.extend(wrong.into_iter().map(|wrong| format!("`fusion` {wrong}")));
        if !is_width(head_width) {
            problems.push(format!("`fusion` has a head of the width {head_width}"));
        }
        problems
    }
}

impl UnimodalConfig {
    /// Everything that makes no sense.
    pub fn problems(&self) -> Vec<String> {
        let (mut problems, widths) = match self {
            Self::Sequence(config) => {
                let (heads, layers) = match config.encoder {
                    EncoderConfig::Mamba { layers, .. } => (None, layers),
                    EncoderConfig::Transformer { heads, layers, .. } => (Some(heads), layers),
                };
                let inner_width = match config.encoder {
                    EncoderConfig::Mamba { inner_width, .. } => inner_width,
                    EncoderConfig::Transformer { .. } => config.width,
                };
                let problems = layer_problems(config.width, heads, layers, config.dropout);
                (problems, vec![config.input_width, config.head_width, inner_width])
            }
            Self::Audio(config) => {
                let problems = layer_problems(config.width, None, config.layers, config.dropout);
                (problems, vec![config.input_width])
            }
        };
        let wrong = widths.into_iter().filter(|width| !is_width(*width));
        problems.extend(wrong.map(|width| format!("has the width {width}, not 1 to {MAX_WIDTH}")));
        problems
    }
}

fn is_width(width: usize) -> bool {
    (1..=MAX_WIDTH).contains(&width)
}

fn layer_problems(width: usize, heads: Option<usize>, layers: usize, dropout: f32) -> Vec<String> {
    let mut problems = Vec::new();
    if !is_width(width) {
        problems.push(format!("has the width {width}, not 1 to {MAX_WIDTH}"));
    }
    if let Some(heads) = heads.filter(|heads| *heads == 0 || !width.is_multiple_of(*heads)) {
        problems.push(format!("has {heads} heads, which do not divide the width {width}"));
    }
    if !(1..=MAX_LAYERS).contains(&layers) {
        problems.push(format!("has {layers} layers, not 1 to {MAX_LAYERS}"));
    }
    if !(0.0..1.0).contains(&dropout) {
        problems.push(format!("has the dropout {dropout}, which is not in 0 to 1, and below 1"));
    }
    problems
}
