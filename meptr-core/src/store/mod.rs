//! The feature store: what the frozen backbones make of each video, on disk.
//!
//! Extraction is slow and training reads its results over and over, so they are kept, one file per
//! video, with all that is needed to tell whether they still hold. The format is in [`layout`].

pub mod layout;
mod reader;
mod source;
mod writer;

pub use layout::{Provenance, SequenceRecord, Storage, Store, StoreLock, VideoRecord};
pub use reader::FeatureFile;
pub use source::{SourceFile, digest_of, weights_digests};
pub use writer::write_features;
