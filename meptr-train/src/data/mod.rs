//! What training reads: rows with labels, the splits they belong to, and batches of them.
//!
//! [`DescribedCorpus`] reads a corpus as its owner describes it, [`StoredClips`] the features that
//! were extracted from it, [`FusionRows`] is what stage 3 makes of them.

pub mod corpus;
pub mod corpus_config;
pub mod described;
pub mod fusion;
pub mod labels;
mod media;
pub mod order;
pub mod stored;
pub mod table;

pub use corpus::{Corpus, Dev, Split, Test, Train};
pub use corpus_config::CorpusConfig;
pub use described::{DescribedCorpus, DescribedSplit};
pub use fusion::FusionRows;
pub use labels::Labels;
pub use media::Media;
pub use order::Order;
pub use stored::{StoredClips, StoredSequence};
pub use table::Clip;
