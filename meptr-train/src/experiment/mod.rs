//! An experiment: corpora, a feature store and settings, trained to a whole bundle's worth of
//! weights, one model after another, in a run folder.

mod begun;
mod config;
mod course;
mod devices;
mod sources;
mod summary;
mod train;

pub use config::{BundleText, ExperimentConfig, Overrides};
pub use course::Watch;
pub use devices::Devices;
pub use sources::Sources;
pub use summary::{ModelSummary, RunSummary};
pub use train::{Experiment, TrainedFile};
