//! Scores of a bundle on a split: what its models say about each clip, beside the labels.

mod models;
mod report;
mod table;

pub use models::{BundleModels, ClipScores, ModelScores, Stage};
pub use report::{EvaluationReport, ModelReport, PUBLISHED, PublishedScores, score, write_csv};
