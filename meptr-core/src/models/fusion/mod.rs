//! Stage 3: all modalities, both tasks.

mod config;
mod graph;
mod guide_bank;
mod input;
mod model;
mod predict_projector;
mod projector;
mod task_query;

pub use config::{Ablation, FusionConfig, ScoreTransform};
pub use input::{FusionInput, ModalityInput};
pub use model::{FusionModel, FusionOutput};

pub(super) use graph::Graph;
pub(super) use guide_bank::GuideBank;
pub(super) use predict_projector::PredictProjector;
pub(super) use projector::ModalityProjector;
pub(super) use task_query::{Reading, TaskQuery};
