//! The three stages of training, one file each, read from top to bottom.

pub mod fusion;

pub use fusion::{
    EpochReport, FusionData, FusionState, FusionTraining, Progress, Start, evaluate, train_fusion,
};
