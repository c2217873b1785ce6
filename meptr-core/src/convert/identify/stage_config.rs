//! Configuration of a model of stage 1 or 2.

use super::Model;
use crate::Task;
use crate::models::{CrossTaskConfig, HeadConfig, UnimodalConfig};

/// Configuration of a stage-2 model, or of one of its two stage-1 models.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StageConfig {
    CrossTask(HeadConfig),
    Unimodal(Task, UnimodalConfig),
}

impl From<StageConfig> for Model {
    fn from(config: StageConfig) -> Self {
        match config {
            StageConfig::CrossTask(config) => Self::Head(config),
            StageConfig::Unimodal(task, config) => Self::Unimodal { task, config },
        }
    }
}

impl StageConfig {
    /// Whether the model is of the audio modality, which alone has these layers.
    pub(super) fn is_audio(&self) -> bool {
        match self {
            Self::CrossTask(config) => matches!(config.fusion, CrossTaskConfig::Attention { .. }),
            Self::Unimodal(_, config) => matches!(config, UnimodalConfig::Audio(_)),
        }
    }

    /// Part of a stage-2 configuration with the stage and task of this one.
    pub(super) fn same_stage_of(&self, head: &HeadConfig) -> Self {
        match self {
            Self::CrossTask(_) => Self::CrossTask(head.clone()),
            Self::Unimodal(task @ Task::Emotion, _) => Self::Unimodal(*task, head.emotion.clone()),
            Self::Unimodal(task @ Task::Personality, _) => {
                Self::Unimodal(*task, head.personality.clone())
            }
        }
    }

    /// Sets the heads of the attention between tasks, where there is one.
    pub(super) fn set_attention_heads(&mut self, number: usize) {
        if let Self::CrossTask(HeadConfig {
            fusion: CrossTaskConfig::Attention { heads, .. },
            ..
        }) = self
        {
            *heads = number;
        }
    }
}
