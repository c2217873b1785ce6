//! The two tasks: which emotions and which personality traits, in their fixed order.

use serde::{Deserialize, Serialize};

/// Prediction task: emotions or personality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum Task {
    Emotion,
    Personality,
}

impl Task {
    /// Both tasks, in order.
    pub const ALL: [Self; 2] = [Self::Emotion, Self::Personality];

    /// Name in lower case, as in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Emotion => "emotion",
            Self::Personality => "personality",
        }
    }

    /// Values a model gives for it: one per emotion class, or one per trait.
    pub fn outputs(self) -> usize {
        match self {
            Self::Emotion => Emotion::COUNT,
            Self::Personality => PersonalityTrait::COUNT,
        }
    }
}

/// Emotion classes, in the order of every logit and probability vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names say it
pub enum Emotion {
    Neutral,
    Anger,
    Disgust,
    Fear,
    Happiness,
    Sadness,
    Surprise,
}

impl Emotion {
    /// Number of emotion classes.
    pub const COUNT: usize = 7;

    /// All classes, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Neutral,
        Self::Anger,
        Self::Disgust,
        Self::Fear,
        Self::Happiness,
        Self::Sadness,
        Self::Surprise,
    ];

    /// English name, as corpora write it in their column heads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Neutral => "Neutral",
            Self::Anger => "Anger",
            Self::Disgust => "Disgust",
            Self::Fear => "Fear",
            Self::Happiness => "Happiness",
            Self::Sadness => "Sadness",
            Self::Surprise => "Surprise",
        }
    }

    /// The emotions a probability vector stands for, by the rule the reference is scored with.
    ///
    /// None when neutral has at least `1 - 1/7`; else every other class with at least `1/7`, which
    /// may be none, one or several. Compared in f32, as the reference does.
    pub fn decided(probabilities: &[f32; Self::COUNT]) -> Vec<Self> {
        const CHANCE: f32 = 1.0 / 7.0;
        const SURELY_NEUTRAL: f32 = (1.0 - 1.0 / 7.0_f64) as f32;
        if probabilities[0] >= SURELY_NEUTRAL {
            return Vec::new();
        }
        let others = Self::ALL.into_iter().zip(probabilities).skip(1);
        others.filter(|(_, probability)| **probability >= CHANCE).map(|(class, _)| class).collect()
    }
}

/// Personality traits of the five-factor model, each scored 0 (low) to 1 (high).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names say it
pub enum PersonalityTrait {
    Openness,
    Conscientiousness,
    Extraversion,
    Agreeableness,
    /// Emotional stability: high means stable, the reverse of neuroticism.
    NonNeuroticism,
}

impl PersonalityTrait {
    /// Number of traits.
    pub const COUNT: usize = 5;

    /// All traits, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Openness,
        Self::Conscientiousness,
        Self::Extraversion,
        Self::Agreeableness,
        Self::NonNeuroticism,
    ];

    /// English name, as corpora write it in their column heads (which begin in lower case).
    pub fn name(self) -> &'static str {
        match self {
            Self::Openness => "Openness",
            Self::Conscientiousness => "Conscientiousness",
            Self::Extraversion => "Extraversion",
            Self::Agreeableness => "Agreeableness",
            Self::NonNeuroticism => "Non-Neuroticism",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_neutral_means_no_emotion() {
        let edge = (1.0 - 1.0 / 7.0_f64) as f32;
        assert_eq!(Emotion::decided(&[edge, 1.0 - edge, 0.0, 0.0, 0.0, 0.0, 0.0]), []);
    }

    #[test]
    fn every_class_at_chance_or_above_counts() {
        let chance = 1.0 / 7.0;
        let found = Emotion::decided(&[0.5, chance, 0.0, 0.2, 0.1, 0.0, 0.0]);
        assert_eq!(found, [Emotion::Anger, Emotion::Fear]);
        assert_eq!(Emotion::decided(&[0.8, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0]), []);
    }
}
