//! An experiment: corpora, a feature store and settings, trained to a whole bundle's worth of
//! weights, one model after another, in a run folder.

mod config;
mod course;
mod sources;
mod summary;
mod train;

pub use candle::Device;
pub use config::{BundleText, ExperimentConfig, Overrides};
pub use course::Watch;
pub use sources::Sources;
pub use summary::{ModelSummary, RunSummary};
pub use train::{Experiment, TrainedFile};
