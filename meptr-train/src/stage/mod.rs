//! The three stages of training, one file each, read from top to bottom.

pub mod course;
pub mod fusion;
pub mod state;

pub use course::{
    Control, CourseConfig, EpochReport, Observer, Outcome, Progress, Start, StepReport,
};
pub use fusion::{FusionData, FusionTraining, evaluate, train_fusion};
pub use state::TrainingState;
