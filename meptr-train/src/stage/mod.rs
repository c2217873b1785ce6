//! The three stages of training, one file each, read from top to bottom.

pub mod course;
pub mod cross_task;
pub mod fusion;
pub mod plan;
pub mod state;
pub mod unimodal;

pub use course::{
    Control, CourseChange, CourseConfig, EpochReport, Observer, Outcome, Progress, Start,
    StepReport,
};
pub use cross_task::{
    CrossTaskData, CrossTaskTraining, PairedRows, Pairing, StageOneTensors, evaluate_cross_task,
    load_around, train_cross_task, whole_head,
};
pub use fusion::{FusesModalities, FusionData, FusionTraining, evaluate, train_fusion};
pub use plan::{ModelsConfig, SingleTaskChoice, SingleTaskVectors, StageOne, StageThree, StageTwo};
pub use state::TrainingState;
pub use unimodal::{UnimodalData, UnimodalTraining, evaluate_unimodal, train_unimodal};
