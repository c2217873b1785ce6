//! Scores of predictions against labels, from plain numbers.

pub mod bootstrap;
pub mod chance;
pub mod emotion;
pub mod personality;
pub mod strongest;

pub use bootstrap::{
    EmotionIntervals, Interval, PersonalityIntervals, RESAMPLES, emotion_intervals,
    personality_intervals,
};
pub use chance::{EmotionChance, PersonalityChance};
pub use emotion::{
    ClassScores, Confusion, EmotionMean, EmotionMeans, EmotionScores, Occurrence, emotion_scores,
    occurrences,
};
pub use personality::{PersonalityScores, concordance, personality_scores};
pub use strongest::StrongestScores;
