//! Training losses: of one task, of both, and the objectives of stage 3.

pub mod config;
pub mod emotion;
pub mod factored_gradients;
pub mod grad_norm;
pub mod gradients;
pub mod multitask;
pub mod objective;
pub mod objective_config;
pub mod personality;
pub mod pseudo_labels;

pub use config::FixedLossConfig;
pub use emotion::{EmotionLoss, EmotionTargets};
pub use factored_gradients::{FactoredGradients, gradients_on};
pub use grad_norm::{GradNormConfig, GradNormState, GradNormWeights};
pub use gradients::{Gradients, gradients_of, norm_of, weighted_sum};
pub use multitask::MultiTaskLoss;
pub use objective::{Balanced, Component, Components, Objective};
pub use objective_config::{
    FixedObjective, GradNormPair, ObjectiveConfig, PublishedObjective, SupervisedObjective,
};
pub use personality::PersonalityLoss;
pub use pseudo_labels::PseudoLabels;
