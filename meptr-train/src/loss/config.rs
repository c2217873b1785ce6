//! Settings of the loss of stages 1 and 2.

use candle::{Device, Tensor};
use meptr_core::Task;
use serde::{Deserialize, Serialize};

use super::{MultiTaskLoss, PersonalityLoss};
use crate::data::SequenceRows;
use crate::{Error, Result};

/// Loss of stages 1 and 2: [`MultiTaskLoss`] with weights that stay. The defaults are those
/// of the published models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FixedLossConfig {
    /// Whether each emotion is weighted by [`super::emotion::class_weights`] of the train split.
    pub class_weights: bool,
    /// Weight of the emotion part, 0 or more; none = 0.1 with class weights, 1 without.
    pub emotion_weight: Option<f64>,
    /// Weight of the trait part, 0 or more.
    pub personality_weight: f64,
    /// The trait part.
    pub personality_loss: PersonalityLoss,
}

impl Default for FixedLossConfig {
    fn default() -> Self {
        Self {
            class_weights: true,
            emotion_weight: None,
            personality_weight: 1.0,
            personality_loss: PersonalityLoss::Mae,
        }
    }
}

impl FixedLossConfig {
    /// Everything that makes no sense; `place` is where the settings stand in their file.
    pub fn problems(&self, place: &str) -> Vec<String> {
        let weights = [
            ("emotion_weight", self.emotion_weight.unwrap_or(1.0)),
            ("personality_weight", self.personality_weight),
        ];
        let wrong =
            weights.into_iter().filter(|(_, weight)| !(*weight >= 0.0 && weight.is_finite()));
        wrong.map(|(key, _)| format!("`{place}.{key}` must be 0 or more")).collect()
    }

    /// Weight of a task's part.
    pub(crate) fn weight(&self, task: Task) -> f64 {
        match task {
            Task::Emotion => self.emotion_weight.unwrap_or(match self.class_weights {
                true => 0.1,
                false => 1.0,
            }),
            Task::Personality => self.personality_weight,
        }
    }

    /// The loss for training on these rows; they give the class weights.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn on(&self, emotion_rows: &SequenceRows, device: &Device) -> Result<MultiTaskLoss> {
        let class_weights = || Tensor::new(&emotion_rows.class_weights(), device);
        let class_weights = self.class_weights.then(class_weights).transpose();
        Ok(MultiTaskLoss {
            emotion_weight: self.weight(Task::Emotion),
            personality_weight: self.weight(Task::Personality),
            class_weights: class_weights.map_err(Error::doing("weighing the emotions"))?,
            personality_loss: self.personality_loss,
        })
    }
}
