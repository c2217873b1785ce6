//! Scores of predictions against labels, from plain numbers.

pub mod emotion;
pub mod personality;

pub use emotion::{ClassScores, Confusion, EmotionScores, emotion_scores};
pub use personality::{PersonalityScores, concordance, personality_scores};
