//! Stage 2: one modality, both tasks.

use candle::{D, Result, Tensor};
use candle_nn::VarBuilder;

use super::config::{
    CrossTaskConfig, HeadConfig, HiddenActivation, OutputActivation, TransformerFusionConfig,
};
use super::lengths::Lengths;
use super::unimodal::{MlpHead, Projection, UnimodalModel};
use crate::Task;
use crate::nn::{Mode, MultiHeadAttention, TransformerLayer, TransformerLayerConfig, ops};

/// Output of a stage-2 model for a batch of `rows` sequences.
#[derive(Debug, Clone)]
pub struct CrossTaskOutput {
    /// `(rows, 7)`, f32: mean of the stage-2 and the stage-1 logits.
    pub emotion_logits: Tensor,
    /// `(rows, 5)`, f32: mean of the stage-2 and the stage-1 scores, both after their activation.
    pub personality_scores: Tensor,
    /// As `personality_scores`, with stage 2 taken before its activation.
    pub unactivated_scores: Tensor,
    /// `(rows, steps, width)`, f32: the emotion stream after reading the personality stream.
    pub emotion_features: Tensor,
    /// `(rows, steps, width)`, f32: the personality stream after reading the emotion stream.
    pub personality_features: Tensor,
    emotion_mask: Option<Tensor>,
    personality_mask: Option<Tensor>,
}

impl CrossTaskOutput {
    /// The modality's vector `(rows, 2 width)`: means over the real steps of the emotion stream
    /// and of the personality stream, side by side.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn fused_vector(&self) -> Result<Tensor> {
        let emotion = ops::masked_mean(&self.emotion_features, self.emotion_mask.as_ref())?;
        let personality =
            ops::masked_mean(&self.personality_features, self.personality_mask.as_ref())?;
        Tensor::cat(&[emotion, personality], 1)
    }
}

/// A sequence on its way through stage 2, with its mask of real steps `(rows, steps)`.
struct TaskStream {
    x: Tensor,
    mask: Option<Tensor>,
}

/// Two frozen stage-1 models whose features read each other.
///
/// With `E`, `P` the projected features of the emotion and of the personality model: for each
/// layer `E = E + layer(E, P)`, then with the new `E` for each layer `P = P + layer(P, E)`. Both
/// heads read `z = mean over steps of [E ; P]`; each prediction is the mean of a head's and of the
/// stage-1 model's.
///
/// Weights: `emo_model`, `per_model`, `emo_proj`, `per_proj`, `emotion_to_personality_attn.N`,
/// `personality_to_emotion_attn.N`, `emotion_personality_fc_out`, `personality_emotion_fc_out`; for
/// audio `emo_enc`, `per_enc`, `emo_proj`, `per_proj`, `mha_e2p`, `mha_p2e`, `emo_head`, `per_head`.
#[derive(Debug, Clone)]
pub struct CrossTaskModel {
    emotion: UnimodalModel,
    personality: UnimodalModel,
    emo_proj: Projection,
    per_proj: Projection,
    exchange: Exchange,
    emotion_head: MlpHead,
    personality_head: MlpHead,
    activation: OutputActivation,
}

impl CrossTaskModel {
    /// Asks for the weights of stage 2 and of the stage-1 models inside it.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or holds another shape, or when heads do not divide a width.
    pub fn load(config: &HeadConfig, vb: VarBuilder) -> Result<Self> {
        let (emotion, personality) = config.frozen_prefixes();
        let emotion = UnimodalModel::load(&config.emotion, Task::Emotion, vb.pp(emotion))?;
        let personality =
            UnimodalModel::load(&config.personality, Task::Personality, vb.pp(personality))?;
        Self::around(config, emotion, personality, vb)
    }

    /// Asks for the weights of stage 2 alone, around stage-1 models that are there already: what
    /// training does, which leaves these as they are.
    ///
    /// # Errors
    /// As [`CrossTaskModel::load`].
    pub fn around(
        config: &HeadConfig,
        emotion: UnimodalModel,
        personality: UnimodalModel,
        vb: VarBuilder,
    ) -> Result<Self> {
        let width = config.fusion.width();
        let (head_width, hidden, dropout, activation, head_names) = match &config.fusion {
            CrossTaskConfig::Transformer(fusion) => (
                fusion.head_width,
                fusion.hidden_activation,
                fusion.dropout,
                fusion.activation,
                ["emotion_personality_fc_out", "personality_emotion_fc_out"],
            ),
            CrossTaskConfig::Attention { width, dropout, .. } => {
                let names = ["emo_head", "per_head"];
                (*width, HiddenActivation::Silu, *dropout, OutputActivation::None, names)
            }
        };
        let project = |from: usize, name: &str| Projection::load(from, width, dropout, vb.pp(name));
        let head = |task: Task, name: &str| {
            MlpHead::load([2 * width, head_width, task.outputs()], hidden, dropout, vb.pp(name))
        };
        Ok(Self {
            emotion,
            personality,
            emo_proj: project(config.emotion.width(), "emo_proj")?,
            per_proj: project(config.personality.width(), "per_proj")?,
            exchange: Exchange::load(&config.fusion, &vb)?,
            emotion_head: head(Task::Emotion, head_names[0])?,
            personality_head: head(Task::Personality, head_names[1])?,
            activation,
        })
    }

    /// Reads a batch of sequences for both tasks.
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
    ) -> Result<CrossTaskOutput> {
        self.forward_pair((features, lengths), (features, lengths), mode)
    }

    /// Reads one batch for emotions and another, of as many rows, for personality.
    ///
    /// With transformer layers, the shorter of two unequal sequences is padded with zeros after
    /// its projection; without lengths these zeros count as steps, as in the reference.
    ///
    /// # Errors
    /// When a shape differs from that of [`CrossTaskModel::forward`].
    pub fn forward_pair(
        &self,
        emotion: (&Tensor, Option<&Lengths>),
        personality: (&Tensor, Option<&Lengths>),
        mode: &mut Mode,
    ) -> Result<CrossTaskOutput> {
        let (logits, emotion) = self.branch(Task::Emotion, emotion, mode)?;
        let (scores, personality) = self.branch(Task::Personality, personality, mode)?;
        let (emotion, personality) = self.exchange.forward(emotion, personality, mode)?;
        let mut output = CrossTaskOutput {
            emotion_logits: logits,
            unactivated_scores: scores.clone(),
            personality_scores: scores,
            emotion_features: emotion.x,
            personality_features: personality.x,
            emotion_mask: emotion.mask,
            personality_mask: personality.mask,
        };
        let z = output.fused_vector()?; // (rows, 2 width)
        let logits = self.emotion_head.forward(&z, mode)?;
        let raw = self.personality_head.forward(&z, mode)?;
        let scores = self.activation.forward(&raw)?;
        output.emotion_logits = ((logits + &output.emotion_logits)? / 2.0)?;
        output.personality_scores = ((scores + &output.personality_scores)? / 2.0)?;
        output.unactivated_scores = ((raw + &output.unactivated_scores)? / 2.0)?;
        Ok(output)
    }

    /// Reads a batch for one task alone, without the other task's model.
    ///
    /// - `features`, `lengths`: as for [`CrossTaskModel::forward`]
    /// - returns the stage-1 logits `(rows, 7)` or scores `(rows, 5)`, and the mean over real
    ///   steps of the projected features, `(rows, width)`
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn forward_single(
        &self,
        task: Task,
        features: &Tensor,
        lengths: Option<&Lengths>,
        mode: &mut Mode,
    ) -> Result<(Tensor, Tensor)> {
        let (prediction, stream) = self.branch(task, (features, lengths), mode)?;
        Ok((prediction, ops::masked_mean(&stream.x, stream.mask.as_ref())?))
    }

    /// Prediction and projected features of one stage-1 model.
    fn branch(
        &self,
        task: Task,
        (features, lengths): (&Tensor, Option<&Lengths>),
        mode: &mut Mode,
    ) -> Result<(Tensor, TaskStream)> {
        let (model, projection) = match task {
            Task::Emotion => (&self.emotion, &self.emo_proj),
            Task::Personality => (&self.personality, &self.per_proj),
        };
        let output = model.forward(features, lengths, mode)?;
        let mask = match lengths {
            Some(lengths) => lengths.mask(features.dim(1)?, features.device())?,
            None => None,
        };
        Ok((output.prediction, TaskStream { x: projection.forward(&output.features, mode)?, mask }))
    }
}

/// Cross-attention between the two streams.
#[derive(Debug, Clone)]
enum Exchange {
    Transformer { to_personality: Vec<TransformerLayer>, to_emotion: Vec<TransformerLayer> },
    Attention { mha_e2p: Box<MultiHeadAttention>, mha_p2e: Box<MultiHeadAttention> },
}

impl Exchange {
    fn load(config: &CrossTaskConfig, vb: &VarBuilder) -> Result<Self> {
        Ok(match config {
            CrossTaskConfig::Transformer(config) => Self::Transformer {
                to_personality: load_layers(config, vb.pp("emotion_to_personality_attn"))?,
                to_emotion: load_layers(config, vb.pp("personality_to_emotion_attn"))?,
            },
            CrossTaskConfig::Attention { width, heads, dropout } => {
                let load = |name| {
                    MultiHeadAttention::load(*width, *heads, *dropout, vb.pp(name)).map(Box::new)
                };
                Self::Attention { mha_e2p: load("mha_e2p")?, mha_p2e: load("mha_p2e")? }
            }
        })
    }

    fn forward(
        &self,
        mut emotion: TaskStream,
        mut personality: TaskStream,
        mode: &mut Mode,
    ) -> Result<(TaskStream, TaskStream)> {
        match self {
            Self::Transformer { to_personality, to_emotion } => {
                let steps = emotion.x.dim(1)?.max(personality.x.dim(1)?);
                emotion = emotion.padded(steps)?;
                personality = personality.padded(steps)?;
                for layer in to_personality {
                    let mask = personality.mask.as_ref();
                    let read = layer.forward(&emotion.x, &personality.x, mask, mode)?;
                    emotion.x = (emotion.x + read)?;
                }
                for layer in to_emotion {
                    let mask = emotion.mask.as_ref();
                    let read = layer.forward(&personality.x, &emotion.x, mask, mode)?;
                    personality.x = (personality.x + read)?;
                }
            }
            Self::Attention { mha_e2p, mha_p2e } => {
                let (e, p) = (&emotion.x, &personality.x);
                let read = mha_e2p.forward(e, p, p, personality.mask.as_ref(), mode)?;
                emotion.x = (e + read)?;
                let e = &emotion.x;
                let read = mha_p2e.forward(p, e, e, emotion.mask.as_ref(), mode)?;
                personality.x = (p + read)?;
            }
        }
        Ok((emotion, personality))
    }
}

impl TaskStream {
    fn padded(self, steps: usize) -> Result<Self> {
        let missing = steps - self.x.dim(1)?;
        if missing == 0 {
            return Ok(self);
        }
        let mask = self.mask.map(|mask| mask.pad_with_zeros(D::Minus1, 0, missing)).transpose()?;
        Ok(Self { x: self.x.pad_with_zeros(1, 0, missing)?, mask })
    }
}

fn load_layers(config: &TransformerFusionConfig, vb: VarBuilder) -> Result<Vec<TransformerLayer>> {
    let TransformerFusionConfig { width, heads, positions, dropout, layers, .. } = *config;
    let layer = TransformerLayerConfig { width, heads, positions, dropout };
    (0..layers).map(|index| TransformerLayer::load(&layer, vb.pp(index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Modality;
    use crate::weights::generate;
    use candle::{Device, Shape};

    fn features(rows: usize, steps: usize) -> Result<Tensor> {
        let shape = Shape::from((rows, steps, 6));
        crate::weights::generated_tensor("features", &shape, 1, &Device::Cpu)
    }

    fn difference(left: &Tensor, right: &Tensor) -> Result<f32> {
        (left - right)?.abs()?.max_all()?.to_scalar()
    }

    #[test]
    fn padding_does_not_change_the_output() -> Result<()> {
        for modality in Modality::ALL {
            let config = HeadConfig::published(modality).scaled(6, 16);
            let load = |vb: VarBuilder| CrossTaskModel::load(&config, vb);
            let (model, _) = generate(7, &Device::Cpu, load)?;
            let x = features(1, 4)?;
            let alone = model.forward(&x, None, &mut Mode::Eval)?;
            let padding = (features(1, 3)? * 100.0)?;
            let padded = Tensor::cat(&[&x, &padding], 1)?;
            let batch = Tensor::cat(&[&padded, &features(1, 7)?], 0)?;
            let lengths = Lengths::Everywhere(vec![4, 7]);
            let found = model.forward(&batch, Some(&lengths), &mut Mode::Eval)?;
            for (alone, found) in [
                (&alone.emotion_logits, &found.emotion_logits),
                (&alone.personality_scores, &found.personality_scores),
                (&alone.fused_vector()?, &found.fused_vector()?),
                (&alone.emotion_features, &found.emotion_features.narrow(1, 0, 4)?),
            ] {
                let off = difference(alone, &found.narrow(0, 0, 1)?)?;
                assert!(off < 1e-5, "{modality}: off by {off}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_sequence_without_real_steps_gives_finite_values() -> Result<()> {
        for modality in Modality::ALL {
            let config = HeadConfig::published(modality).scaled(6, 16);
            let load = |vb: VarBuilder| CrossTaskModel::load(&config, vb);
            let (model, _) = generate(7, &Device::Cpu, load)?;
            let lengths = Lengths::Everywhere(vec![0]);
            let output = model.forward(&features(1, 3)?, Some(&lengths), &mut Mode::Eval)?;
            let vector = output.fused_vector()?;
            assert_eq!(vector.abs()?.max_all()?.to_scalar::<f32>()?, 0.0);
            assert_eq!(vector.dims(), [1, config.vector_width()]);
            let logits = output.emotion_logits.flatten_all()?.to_vec1::<f32>()?;
            assert!(logits.iter().all(|x| x.is_finite()));
        }
        Ok(())
    }
}
