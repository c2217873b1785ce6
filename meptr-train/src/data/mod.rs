//! What training reads: labels, batches and the splits they come from.

pub mod labels;

pub use labels::Labels;
