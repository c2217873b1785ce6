//! From stored features to trained weights.
//!
//! A loss is a free function on tensors, an optimiser owns its state by parameter name, a metric is
//! computed from plain numbers, and a stage is one function read from top to bottom.

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
