//! From stored features to trained weights.
//!
//! A loss is a free function on tensors, an optimiser owns its state by parameter name, a metric is
//! computed from plain numbers, and a stage is one function read from top to bottom.

pub mod config;
pub mod data;
pub mod error;
mod host;
pub mod loss;
pub mod metrics;
pub mod optim;
pub mod select;
pub mod stage;

pub use error::{Error, Result};
