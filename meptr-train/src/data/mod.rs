//! Training data: rows with labels, the splits they belong to, and batches of them.
//!
//! [`DescribedCorpus`] reads a corpus as its owner describes it, [`StoredClips`] the features that
//! were extracted from it. Stages 1 and 2 read [`SequenceRows`] of them, stage 3 [`FusionRows`].

pub mod corpus;
pub mod corpus_config;
pub mod corpus_reader;
pub mod emotion_labels;
pub mod feature_dataset;
pub mod fusion;
pub mod labels;
mod media;
pub mod sampler;
pub mod sequences;
pub mod table;

pub use corpus::{Corpus, Dev, Split, Test, Train};
pub use corpus_config::CorpusConfig;
pub use corpus_reader::{DescribedCorpus, DescribedSplit};
pub use feature_dataset::{StoredClips, StoredSequence};
pub use fusion::FusionRows;
pub use labels::Labels;
pub use media::Media;
pub use sampler::Sampler;
pub use sequences::{SequenceBatch, SequenceRows};
pub use table::Clip;
