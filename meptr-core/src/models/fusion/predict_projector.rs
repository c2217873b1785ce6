//! Projection of the modalities' own predictions into a task's vector.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::ModalityInput;
use super::input::presence;
use crate::Task;
use crate::nn::{Linear, ops};

/// `Linear(mean over modalities of their predictions)`, `(outputs,)` to `(h,)`.
#[derive(Debug, Clone)]
pub(in crate::models) struct PredictProjector {
    linear: Linear,
    task: Task,
}

impl PredictProjector {
    pub(in crate::models) fn load(task: Task, hidden_dim: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self { linear: Linear::load(task.outputs(), hidden_dim, vb)?, task })
    }

    /// Adds to the task's vector `(rows, h)`; leaves it when no modality has a prediction.
    pub(in crate::models) fn add(
        &self,
        vector: &Tensor,
        parts: &[&ModalityInput],
    ) -> Result<Tensor> {
        let own = |part: &&ModalityInput| match self.task {
            Task::Emotion => part.emotion_logits.clone(),
            Task::Personality => part.trait_values.clone(),
        };
        let (having, predictions): (Vec<_>, Vec<_>) =
            parts.iter().filter_map(|part| Some((*part, own(part)?))).unzip();
        if predictions.is_empty() {
            return Ok(vector.clone());
        }
        let stacked = Tensor::stack(&predictions, 1)?; // (rows, parts, outputs)
        let mean = ops::masked_mean(&stacked, presence(&having)?.as_ref())?;
        vector + self.linear.forward(&mean)?
    }
}
