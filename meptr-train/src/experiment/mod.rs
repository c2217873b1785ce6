//! An experiment: corpora, a feature store and settings, trained to a whole bundle's worth of
//! weights, one model after another, in a run folder.

mod config;
mod devices;
mod fusion_data;
mod model_run;
mod resume_check;
mod splits;
mod summary;
mod train;

pub use config::{BundleText, ExperimentConfig, Overrides};
pub use devices::Devices;
pub use model_run::ExperimentObserver;
pub use splits::FeatureSplits;
pub use summary::{ModelSummary, RunSummary};
pub use train::{Experiment, TrainedFile};
