//! Choice of a stage-3 model that predicts one task.

use meptr_core::models::{
    FeatureSlice, FusionConfig, HeadConfig, SingleTaskConfig, UnimodalConfig,
};
use meptr_core::{PerModality, Task};
use serde::{Deserialize, Serialize};

/// A model of stage 3 that predicts one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SingleTaskChoice {
    /// Task that it predicts.
    pub task: Task,
    /// Part of each modality's vector that it reads.
    pub slice: FeatureSlice,
    /// Models that the vectors are of.
    #[serde(default)]
    pub vectors: SingleTaskVectors,
}

/// Vectors that a model of one task reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SingleTaskVectors {
    /// Features of the stage-1 models, whose widths differ by task; the authors' models
    /// (`SingleTaskAsymModel`). Stage 2 is not needed, and of stage 1 only what the slice and the
    /// task need.
    #[default]
    Stage1,
    /// Outputs of the stage-2 models, as models of both tasks read them, with halves of one width
    /// (`SingleTaskSlimModel`).
    Stage2,
}

impl SingleTaskChoice {
    /// Does the slice hold the part of a task?
    pub fn reads(self, part: Task) -> bool {
        match self.slice {
            FeatureSlice::Both => true,
            FeatureSlice::Emotion => part == Task::Emotion,
            FeatureSlice::Personality => part == Task::Personality,
        }
    }

    /// Tasks whose stage-1 models give vectors or predictions; none when stage 2 gives them.
    pub fn stage_one_tasks(self) -> Option<Vec<Task>> {
        let is_needed = |task: &Task| *task == self.task || self.reads(*task);
        let tasks = || Task::ALL.into_iter().filter(is_needed).collect();
        (self.vectors == SingleTaskVectors::Stage1).then(tasks)
    }

    /// Shape of the model.
    ///
    /// - `fusion`: shape of the model of both tasks whose hidden width, heads and dropout it has
    /// - `heads`: shapes of the stage-1 and stage-2 models that it reads
    pub(super) fn model(
        self,
        fusion: FusionConfig,
        heads: &PerModality<HeadConfig>,
    ) -> SingleTaskConfig {
        let FusionConfig { hidden_dim, num_heads, dropout, input_dims, .. } = fusion;
        let (input_dims, emotion_dims) = match self.vectors {
            SingleTaskVectors::Stage2 => (input_dims, None),
            SingleTaskVectors::Stage1 => {
                let emotion = PerModality::from_fn(|modality| {
                    self.width_read(Task::Emotion, &heads[modality].emotion)
                });
                let whole = PerModality::from_fn(|modality| {
                    let personality = &heads[modality].personality;
                    emotion[modality] + self.width_read(Task::Personality, personality)
                });
                (whole, Some(emotion))
            }
        };
        let Self { task, slice, .. } = self;
        SingleTaskConfig { hidden_dim, num_heads, dropout, input_dims, emotion_dims, slice, task }
    }

    /// Width of a stage-1 model's part in a vector; 0 when the slice leaves it out.
    fn width_read(self, part: Task, model: &UnimodalConfig) -> usize {
        if self.reads(part) { model.width() } else { 0 }
    }
}
