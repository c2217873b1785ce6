//! The models of the three stages.
//!
//! Stage 1, [`UnimodalModel`]: one modality, one task. Stage 2, [`CrossTaskModel`]: one modality,
//! both tasks; its pooled features are the modality's vector. Stage 3, [`FusionModel`]: the vectors
//! of all modalities that exist, both tasks ([`SingleTaskModel`]: one task). The names of weights
//! are those of the published files.

mod config;
mod cross_task;
mod fusion;
mod head_scores;
mod lengths;
mod published;
mod single_task;
mod unimodal;

pub use config::{
    AudioConfig, CrossTaskConfig, EncoderConfig, HeadConfig, HiddenActivation, OutputActivation,
    SequenceConfig, TransformerFusionConfig, UnimodalConfig,
};
pub use cross_task::{CrossTaskModel, CrossTaskOutput};
pub use fusion::{
    Ablation, FusionConfig, FusionInput, FusionModel, FusionOutput, ModalityInput, ScoreTransform,
};
pub use head_scores::HeadScores;
pub use lengths::Lengths;
pub use single_task::{FeatureSlice, SingleTaskConfig, SingleTaskModel};
pub use unimodal::{UnimodalModel, UnimodalOutput};

/// Whether a tensor may stand in a weight file without being used: the fixed tables of positions
/// that published files carry, which are computed here. For [`crate::weights::load_file`].
pub fn may_be_left(name: &str) -> bool {
    name == "positional_encoding.pe" || name.ends_with(".positional_encoding.pe")
}
