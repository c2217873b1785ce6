//! Scores of a bundle on a split: what its models say about each clip, beside the labels.

mod models;
mod report;
mod table;

pub use models::{ClipScores, EvaluatedModels, ModelScores};
pub use report::{
    ChanceLevels, EvaluationReport, ModelReport, PUBLISHED, PublishedScores, ScoreIntervals, score,
    write_csv,
};
