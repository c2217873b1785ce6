//! Optimisers with savable state, gradient clipping and learning-rate schedules.

pub mod clip;
mod on_device;
pub mod optimiser;
pub mod rules;
pub mod schedule;

pub use clip::clip_global_norm;
pub use optimiser::Optimiser;
pub use rules::OptimiserConfig;
pub use schedule::{Rates, ScheduleConfig, Scheduler};
