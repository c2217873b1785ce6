//! Stage 1: one modality, one task.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::config::{
    AudioConfig, EncoderConfig, HiddenActivation, OutputActivation, SequenceConfig, UnimodalConfig,
};
use super::lengths::Lengths;
use crate::Task;
use crate::nn::{
    LayerNorm, Linear, MambaBlock, Mode, TransformerLayer, TransformerLayerConfig, ops,
};

/// Output of a stage-1 model.
#[derive(Debug, Clone)]
pub struct UnimodalOutput {
    /// Emotion logits `(rows, 7)` or trait scores `(rows, 5)`, f32.
    pub prediction: Tensor,
    /// Encoder features `(rows, steps, width)`, f32.
    pub features: Tensor,
}

/// A model of one modality and one task: `EmotionMamba`, `EmotionTransformer`, `PersonalityMamba`,
/// `PersonalityTransformer` of the reference, and its two audio models.
#[derive(Debug, Clone)]
pub struct UnimodalModel(UnimodalKind);

#[derive(Debug, Clone)]
enum UnimodalKind {
    Sequence(SequenceModel),
    Audio(AudioModel),
}

impl UnimodalModel {
    /// Asks for the weights; their names depend on the task.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or holds another shape, or when heads do not divide a width.
    pub fn load(config: &UnimodalConfig, task: Task, vb: VarBuilder) -> Result<Self> {
        Ok(Self(match config {
            UnimodalConfig::Sequence(config) => {
                UnimodalKind::Sequence(SequenceModel::load(config, task, vb)?)
            }
            UnimodalConfig::Audio(config) => {
                UnimodalKind::Audio(AudioModel::load(config, task, vb)?)
            }
        }))
    }

    /// Reads a batch of sequences.
    ///
    /// - `features`: `(rows, steps, input_width)`, f32, from the backbone
    /// - `lengths`: real steps per row; `None` = all steps are real
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn forward(
        &self,
        features: &Tensor,
        lengths: Option<&Lengths>,
        mode: &mut Mode,
    ) -> Result<UnimodalOutput> {
        match &self.0 {
            UnimodalKind::Sequence(model) => model.forward(features, lengths, mode),
            UnimodalKind::Audio(model) => model.forward(features, lengths, mode),
        }
    }
}

/// `Linear`, `LayerNorm`, dropout; weights `0` and `1`.
#[derive(Debug, Clone)]
pub(super) struct Projection {
    linear: Linear,
    norm: LayerNorm,
    dropout: f32,
}

impl Projection {
    pub(super) fn load(from: usize, to: usize, dropout: f32, vb: VarBuilder) -> Result<Self> {
        let linear = Linear::load(from, to, vb.pp("0"))?;
        Ok(Self { linear, norm: LayerNorm::load(to, vb.pp("1"))?, dropout })
    }

    pub(super) fn forward(&self, x: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        ops::dropout(&self.norm.forward(&self.linear.forward(x)?)?, self.dropout, mode)
    }
}

/// `Linear`, `LayerNorm`, activation, dropout, `Linear`; weights `0`, `1` and `4`.
#[derive(Debug, Clone)]
pub(super) struct MlpHead {
    linear: Linear,
    norm: LayerNorm,
    output: Linear,
    activation: HiddenActivation,
    dropout: f32,
}

impl MlpHead {
    pub(super) fn load(
        [from, inner, to]: [usize; 3],
        activation: HiddenActivation,
        dropout: f32,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(Self {
            linear: Linear::load(from, inner, vb.pp("0"))?,
            norm: LayerNorm::load(inner, vb.pp("1"))?,
            output: Linear::load(inner, to, vb.pp("4"))?,
            activation,
            dropout,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let inner = self.norm.forward(&self.linear.forward(x)?)?;
        let inner = match self.activation {
            HiddenActivation::Gelu => inner.gelu_erf()?,
            HiddenActivation::Silu => inner.silu()?,
        };
        self.output.forward(&ops::dropout(&inner, self.dropout, mode)?)
    }
}

impl OutputActivation {
    pub(super) fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x.clone()),
            Self::Sigmoid => ops::sigmoid(x),
            Self::Relu => ops::relu(x),
        }
    }
}

/// Weights: `emo_proj`, `emotion_encoder.N`, `emotion_fc_out`, or `per_proj`,
/// `personality_encoder.N`, `personality_fc_out`.
#[derive(Debug, Clone)]
struct SequenceModel {
    projection: Projection,
    encoder: SequenceEncoder,
    head: MlpHead,
    activation: OutputActivation,
}

impl SequenceModel {
    fn load(config: &SequenceConfig, task: Task, vb: VarBuilder) -> Result<Self> {
        let (projection, encoder, head, activation) = match task {
            Task::Emotion => {
                ("emo_proj", "emotion_encoder", "emotion_fc_out", OutputActivation::None)
            }
            Task::Personality => {
                ("per_proj", "personality_encoder", "personality_fc_out", config.activation)
            }
        };
        let SequenceConfig { input_width, width, head_width, dropout, .. } = *config;
        let widths = [width, head_width, task.outputs()];
        Ok(Self {
            projection: Projection::load(input_width, width, dropout, vb.pp(projection))?,
            encoder: SequenceEncoder::load(config, vb.pp(encoder))?,
            head: MlpHead::load(widths, HiddenActivation::Gelu, dropout, vb.pp(head))?,
            activation,
        })
    }

    fn forward(
        &self,
        features: &Tensor,
        lengths: Option<&Lengths>,
        mode: &mut Mode,
    ) -> Result<UnimodalOutput> {
        let mask = match lengths {
            Some(lengths) => lengths.mask(features.dim(1)?, features.device())?,
            None => None,
        };
        let x = self.projection.forward(features, mode)?;
        let features = self.encoder.forward(x, mask.as_ref(), mode)?; // (rows, steps, width)
        let pooled = ops::masked_mean(&features, mask.as_ref())?;
        let prediction = self.activation.forward(&self.head.forward(&pooled, mode)?)?;
        Ok(UnimodalOutput { prediction, features })
    }
}

#[derive(Debug, Clone)]
enum SequenceEncoder {
    Mamba(Vec<MambaBlock>),
    Transformer(Vec<TransformerLayer>),
}

impl SequenceEncoder {
    fn load(config: &SequenceConfig, vb: VarBuilder) -> Result<Self> {
        let SequenceConfig { width, dropout, .. } = *config;
        Ok(match config.encoder {
            EncoderConfig::Mamba { inner_width, layers } => Self::Mamba(
                (0..layers)
                    .map(|index| MambaBlock::load(width, inner_width, dropout, vb.pp(index)))
                    .collect::<Result<_>>()?,
            ),
            EncoderConfig::Transformer { heads, layers, positions } => {
                let config = TransformerLayerConfig { width, heads, positions, dropout };
                let load = |index| TransformerLayer::load(&config, vb.pp(index));
                Self::Transformer((0..layers).map(load).collect::<Result<_>>()?)
            }
        })
    }

    fn forward(&self, mut x: Tensor, mask: Option<&Tensor>, mode: &mut Mode) -> Result<Tensor> {
        match self {
            Self::Mamba(blocks) => {
                for block in blocks {
                    x = block.forward(&x, mode)?;
                }
            }
            Self::Transformer(layers) => {
                for layer in layers {
                    x = (&x + layer.forward(&x, &x, mask, mode)?)?; // a second residual
                }
            }
        }
        Ok(x)
    }
}

/// Weights: `input_proj`, `blocks.N`, and `fc` (emotion) or `head` (personality).
#[derive(Debug, Clone)]
struct AudioModel {
    input_proj: Linear,
    blocks: Vec<MambaBlock>,
    head: Linear,
}

impl AudioModel {
    fn load(config: &AudioConfig, task: Task, vb: VarBuilder) -> Result<Self> {
        let AudioConfig { input_width, width, layers, dropout } = *config;
        let head = match task {
            Task::Emotion => "fc",
            Task::Personality => "head",
        };
        let blocks = vb.pp("blocks");
        Ok(Self {
            input_proj: Linear::load(input_width, width, vb.pp("input_proj"))?,
            blocks: (0..layers)
                .map(|index| MambaBlock::load(width, width, dropout, blocks.pp(index)))
                .collect::<Result<_>>()?,
            head: Linear::load(width, task.outputs(), vb.pp(head))?,
        })
    }

    fn forward(
        &self,
        features: &Tensor,
        lengths: Option<&Lengths>,
        mode: &mut Mode,
    ) -> Result<UnimodalOutput> {
        let mask = lengths
            .map(|lengths| lengths.audio_mask(features.dim(1)?, features.device()))
            .transpose()?;
        let mut x = self.input_proj.forward(features)?;
        for block in &self.blocks {
            x = block.forward(&x, mode)?;
        }
        let prediction = self.head.forward(&ops::masked_mean(&x, mask.as_ref())?)?;
        Ok(UnimodalOutput { prediction, features: x })
    }
}
