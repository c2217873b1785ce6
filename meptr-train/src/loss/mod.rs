//! What training minimises: losses on one task, on both, and the semi-supervised objective.

pub mod emotion;
pub mod fixed;
pub mod grad_norm;
pub mod multitask;
pub mod on_tape;
pub mod personality;
pub mod semi_supervised;
pub mod wallet;

pub use emotion::{EmotionLoss, EmotionTargets};
pub use fixed::FixedLossConfig;
pub use grad_norm::{Gradients, gradients_of, norm_of, weighted_sum};
pub use multitask::{MultiTaskLoss, PartlyLabelledLoss};
pub use on_tape::{TapedGradients, gradients_on};
pub use personality::PersonalityLoss;
pub use semi_supervised::{Component, Components, Objective, ObjectiveConfig};
pub use wallet::Wallet;
