//! From stored features to trained weights.
//!
//! A loss is a free function on tensors, an optimiser owns its state by parameter name, a metric is
//! computed from plain numbers, and a stage is one function read from top to bottom.
//!
//! - [`data`]: corpora, labels, splits and batches
//! - [`loss`]: losses of one task and of both; objectives of stage 3
//! - [`optim`]: optimisers, gradient clipping, schedules
//! - [`metrics`]: scores of emotions and traits, chance levels, intervals
//! - [`stage`]: the training loop, and one file per stage
//! - [`select`]: choice of the best epoch, by the dev split alone
//! - [`experiment`]: all models of a run, one after another
//! - [`run`]: files of a run: logs, curves, checkpoints
//! - [`search`]: search for settings, greedy or exhaustive
//! - [`evaluate`]: scores of a bundle on a split
//! - [`config`], [`settings`]: configuration files, and settings by dotted keys
//! - [`error`]: errors of training

pub mod config;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod experiment;
pub mod loss;
pub mod metrics;
pub mod optim;
pub mod run;
pub mod search;
pub mod select;
pub mod settings;
pub mod stage;

pub use error::{Error, Result};
