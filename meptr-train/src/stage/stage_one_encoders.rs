//! The stage-1 models of a modality, for a stage-3 model of one task.

use candle::{DType, Tensor};
use meptr_core::models::{HeadScores, UnimodalModel, UnimodalOutput};
use meptr_core::nn::Mode;
use meptr_core::{Emotion, PersonalityTrait, Task};

use super::fusion_inputs::EncodesModality;

/// The stage-1 models of one modality; the authors' models of one task read their features.
#[derive(Debug)]
pub struct StageOneEncoders {
    /// Model of the emotions, where it is needed.
    pub emotion: Option<StageOneEncoder>,
    /// Model of the traits, where it is needed.
    pub personality: Option<StageOneEncoder>,
}

/// A stage-1 model and its part in a vector.
#[derive(Debug)]
pub struct StageOneEncoder {
    /// The model.
    pub model: UnimodalModel,
    /// Do its features stand in the vector? Its predictions are handed on in any case.
    pub is_read: bool,
}

impl StageOneEncoders {
    /// Vector and predictions of one piece.
    ///
    /// - `features`: `(1, steps, width)`, f32
    fn scores(&self, features: &Tensor) -> candle::Result<HeadScores> {
        let mut halves = Vec::new();
        let mut predictions = Vec::new();
        let absent = |outputs: usize| Tensor::zeros((1, outputs), DType::F32, features.device());
        let encoders = [
            (&self.emotion, Emotion::COUNT), // on the left of the vector
            (&self.personality, PersonalityTrait::COUNT),
        ];
        for (encoder, outputs) in encoders {
            let Some(StageOneEncoder { model, is_read }) = encoder else {
                predictions.push(absent(outputs)?);
                continue;
            };
            let UnimodalOutput { prediction, features } =
                model.forward(features, None, &mut Mode::Eval)?;
            predictions.push(prediction.detach());
            if *is_read {
                halves.push(features.mean(1)?.detach()); // (1, encoder width)
            }
        }
        let [emotion_logits, trait_scores] = &predictions[..] else {
            candle::bail!("predictions of two tasks")
        };
        Ok(HeadScores {
            vector: Tensor::cat(&halves, 1)?,
            emotion_logits: emotion_logits.clone(),
            trait_scores: trait_scores.clone(),
        })
    }
}

/// The vector is `[mean over steps of the emotion features ; of the personality features]`, of the
/// models that are read; pieces are averaged by their steps.
impl EncodesModality for StageOneEncoders {
    fn encode(&self, features: &Tensor, pieces: &[usize]) -> candle::Result<HeadScores> {
        let mut start = 0;
        let mut weighted = Vec::with_capacity(pieces.len());
        for steps in pieces {
            let piece = features.narrow(1, start, *steps)?.contiguous()?;
            start += steps;
            weighted.push((*steps as f64, self.scores(&piece)?));
        }
        HeadScores::mean(&weighted)
    }

    fn predicts(&self, task: Task) -> bool {
        match task {
            Task::Emotion => self.emotion.is_some(),
            Task::Personality => self.personality.is_some(),
        }
    }
}
