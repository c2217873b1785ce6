//! What training reads: rows with labels, the splits they belong to, and batches of them.
//!
//! [`DescribedCorpus`] reads a corpus as its owner describes it, [`StoredClips`] the features that
//! were extracted from it. Stages 1 and 2 read [`SequenceRows`] of them, stage 3 [`FusionRows`].

pub mod corpus;
pub mod corpus_config;
pub mod derive;
pub mod described;
pub mod emotion_labels;
pub mod encoders;
pub mod fusion;
pub mod labels;
mod media;
pub mod order;
pub mod sequences;
pub mod stored;
pub mod table;

pub use corpus::{Corpus, Dev, Split, Test, Train};
pub use corpus_config::CorpusConfig;
pub use derive::EncodesModality;
pub use described::{DescribedCorpus, DescribedSplit};
pub use encoders::{StageOneEncoder, StageOneEncoders};
pub use fusion::FusionRows;
pub use labels::Labels;
pub use media::Media;
pub use order::Order;
pub use sequences::{SequenceBatch, SequenceRows};
pub use stored::{StoredClips, StoredSequence};
pub use table::Clip;
