//! The three stages of training, one file each, read from top to bottom.

pub mod config;
pub mod cross_task;
pub mod fusion;
pub mod fusion_inputs;
pub mod kind;
pub mod observer;
pub mod single_task;
pub mod stage_one_encoders;
pub mod state;
pub mod training_config;
pub mod training_loop;
pub mod unimodal;

pub use config::{ModelsConfig, StageOne, StageThree, StageTwo};
pub use cross_task::{
    CrossTaskData, CrossTaskTraining, PairedRows, Pairing, StageOneTensors, evaluate_cross_task,
    load_around, train_cross_task, whole_head,
};
pub use fusion::{FusesModalities, FusionData, FusionTraining, evaluate, train_fusion};
pub use fusion_inputs::EncodesModality;
pub use kind::Stage;
pub use observer::{Control, EpochReport, Observer, StepReport};
pub use single_task::{SingleTaskChoice, SingleTaskVectors};
pub use stage_one_encoders::{StageOneEncoder, StageOneEncoders};
pub use state::{Progress, TrainingState};
pub use training_config::{TrainingConfig, TrainingOverrides};
pub use training_loop::{Outcome, Start, TrainableModel, TrainingRun};
pub use unimodal::{UnimodalData, UnimodalTraining, evaluate_unimodal, train_unimodal};
