//! PyTorch checkpoints, read as data.
//!
//! The authors of MEPTR publish state dicts (`.pt`, `.pth`), older repositories on the Hub have a
//! `pytorch_model.bin`, Ultralytics publishes whole model objects. All of them are pickles, which
//! in Python run code when opened; here they are only read ([`Checkpoint::read`]).

mod checkpoint;
mod container;
mod error;
mod json;
mod pickle;
mod storage;
mod zip;

pub use checkpoint::{Checkpoint, Layout};
pub use error::CheckpointError;
pub use pickle::Trust;
