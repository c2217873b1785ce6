//! An experiment: corpora, a feature store and settings, trained to a whole bundle's worth of
//! weights, one model after another, in a run folder.

mod config;
mod devices;
mod model_run;
mod resume_check;
mod splits;
mod summary;
mod train;

pub use config::{BundleText, ExperimentConfig, Overrides};
pub use devices::Devices;
pub use model_run::Watch;
pub use splits::Sources;
pub use summary::{ModelSummary, RunSummary};
pub use train::{Experiment, TrainedFile};
