//! Output of one modality's model that stage 3 uses, equal in training and prediction.

use candle::{Device, Result, Tensor};

use super::{CrossTaskModel, ModalityInput, ScoreTransform};
use crate::nn::Mode;

/// Scores and features of one modality's model for one video.
#[derive(Debug, Clone)]
pub struct HeadScores {
    /// `(1, vector width)`: what the fusion model reads.
    pub vector: Tensor,
    /// `(1, 7)`.
    pub emotion_logits: Tensor,
    /// `(1, 5)`.
    pub trait_scores: Tensor,
}

impl HeadScores {
    /// Runs a model over a sequence, for prediction.
    ///
    /// - `features`: `(1, steps, width)`, f32, from the backbone
    ///
    /// # Errors
    /// When the shape differs from the above or the device fails.
    pub fn of(model: &CrossTaskModel, features: &Tensor) -> Result<Self> {
        let output = model.forward(features, None, &mut Mode::Eval)?;
        Ok(Self {
            vector: output.fused_vector()?.detach(),
            emotion_logits: output.emotion_logits.detach(),
            trait_scores: output.personality_scores.detach(),
        })
    }

    /// Runs a model over a sequence chunk by chunk, and averages its outputs weighted by the chunks'
    /// steps.
    ///
    /// - `features`: `(1, steps, width)`, f32, the chunks one after another
    /// - `pieces`: steps of each chunk
    ///
    /// # Errors
    /// When the chunks do not add up to the sequence; otherwise as [`HeadScores::of`].
    pub fn of_pieces(model: &CrossTaskModel, features: &Tensor, pieces: &[usize]) -> Result<Self> {
        let mut start = 0;
        let one = |steps: &usize| {
            let piece = features.narrow(1, start, *steps)?.contiguous()?;
            start += steps;
            Ok((*steps as f64, Self::of(model, &piece)?))
        };
        Self::mean(&pieces.iter().map(one).collect::<Result<Vec<_>>>()?)
    }

    /// The mean of some, at least one, by weight; one alone stays as it is.
    ///
    /// # Errors
    /// When there is none or the device fails.
    pub fn mean(weighted: &[(f64, Self)]) -> Result<Self> {
        if let [(_, only)] = weighted {
            return Ok(only.clone());
        }
        let total: f64 = weighted.iter().map(|(weight, _)| weight).sum();
        let mean = |part: fn(&Self) -> &Tensor| -> Result<Tensor> {
            let shares: Result<Vec<Tensor>> =
                weighted.iter().map(|(weight, one)| part(one) * (weight / total)).collect();
            Tensor::stack(&shares?, 0)?.sum(0)
        };
        Ok(Self {
            vector: mean(|one| &one.vector)?,
            emotion_logits: mean(|one| &one.emotion_logits)?,
            trait_scores: mean(|one| &one.trait_scores)?,
        })
    }

    /// Input of stage 3 for this video.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn input(&self, transform: ScoreTransform) -> Result<ModalityInput> {
        Ok(ModalityInput {
            vector: self.vector.clone(),
            emotion_logits: Some(self.emotion_logits.clone()),
            trait_values: Some(transform.apply(&self.trait_scores)?),
            is_present: None,
        })
    }

    /// Input of stage 3 for several videos; those that lack the modality have zeros and are
    /// marked. `None` when all do.
    ///
    /// # Errors
    /// When the rows differ in width or the device has no memory left.
    pub fn inputs(
        rows: &[Option<Self>],
        transform: ScoreTransform,
        device: &Device,
    ) -> Result<Option<ModalityInput>> {
        let Some(first) = rows.iter().flatten().next() else { return Ok(None) };
        let column = |part: fn(&Self) -> &Tensor| {
            let zeros = part(first).zeros_like()?;
            let all: Vec<&Tensor> =
                rows.iter().map(|row| row.as_ref().map_or(&zeros, part)).collect();
            Tensor::cat(&all, 0)
        };
        let is_present: Vec<f32> =
            rows.iter().map(|row| f32::from(u8::from(row.is_some()))).collect();
        let is_whole = rows.iter().all(Option::is_some);
        Ok(Some(ModalityInput {
            vector: column(|row| &row.vector)?,
            emotion_logits: Some(column(|row| &row.emotion_logits)?),
            trait_values: Some(transform.apply(&column(|row| &row.trait_scores)?)?),
            is_present: match is_whole {
                true => None,
                false => Some(Tensor::from_vec(is_present, rows.len(), device)?),
            },
        }))
    }
}
