//! What training reads: rows with labels, the splits they belong to, and batches of them.

pub mod corpus;
pub mod fusion;
pub mod labels;
pub mod order;

pub use corpus::{Corpus, Dev, Split, Test, Train};
pub use fusion::FusionRows;
pub use labels::Labels;
pub use order::Order;
