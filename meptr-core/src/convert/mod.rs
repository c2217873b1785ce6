//! PyTorch checkpoints, read as data and converted to safetensors.
//!
//! The authors of MEPTR publish state dicts (`.pt`, `.pth`), older repositories on the Hub have a
//! `pytorch_model.bin`, Ultralytics publishes whole model objects. All of them are pickles, which
//! in Python run code when opened; here they are only read ([`Checkpoint::read`]), recognised
//! ([`identify()`]) and written as safetensors ([`convert_file`]).

mod checkpoint;
mod container;
mod conversion;
mod error;
mod identify;
mod json;
mod pickle;
mod shards;
mod storage;
mod zip;

pub use checkpoint::{Checkpoint, Layout};
pub use conversion::{
    Conversion, ConvertOptions, ConvertReport, Storage, convert_file, recast_file,
};
pub use error::CheckpointError;
pub use identify::{Assumed, Backbone, Basis, Identified, Model, Shapes, YoloShape, identify};
pub use pickle::Trust;
