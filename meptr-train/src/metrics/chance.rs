//! Scores of answers that do not look at the clip.

use meptr_core::PersonalityTrait;
use serde::Serialize;

use super::EmotionScores;

/// Chance level of emotion scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EmotionChance {
    /// One answer for all rows recalls one value of each question whole and the other not at all.
    pub muar: f64,
    /// [`super::StrongestScores::majority_share`].
    pub accuracy: f64,
}

impl EmotionChance {
    /// Of the rows that were scored.
    pub fn of(scores: &EmotionScores) -> Self {
        Self { muar: 0.5, accuracy: scores.strongest.majority_share }
    }
}

/// Chance level of trait scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PersonalityChance {
    /// Accuracy of the best constant answer: each trait's median over the rows that were scored. No
    /// other constant, such as the mean of the train split, is closer to them.
    pub macc: f64,
    /// Concordance of a constant.
    pub ccc: f64,
}

impl PersonalityChance {
    /// Of rows as those of [`super::personality_scores`]; none when no row has a label.
    pub fn of(labels: &[[f32; PersonalityTrait::COUNT]]) -> Option<Self> {
        let accuracy = |index: usize| {
            let known = labels.iter().map(|row| f64::from(row[index]));
            best_constant_accuracy(known.filter(|label| !label.is_nan()).collect())
        };
        let traits: Vec<f64> = (0..PersonalityTrait::COUNT).filter_map(accuracy).collect();
        let macc = traits.iter().sum::<f64>() / traits.len() as f64;
        (!traits.is_empty()).then_some(Self { macc, ccc: 0.0 })
    }
}

fn best_constant_accuracy(mut labels: Vec<f64>) -> Option<f64> {
    labels.sort_by(f64::total_cmp);
    let median = *labels.get(labels.len() / 2)?; // any value between the middle two is as good
    let error: f64 = labels.iter().map(|label| (label - median).abs()).sum();
    Some(1.0 - error / labels.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::personality_scores;

    const LABELS: [[f32; 5]; 4] = [
        [0.1, 0.5, 0.5, 0.0, 1.0],
        [0.2, 0.5, 0.5, 0.0, 1.0],
        [0.6, 0.5, 0.5, 1.0, 1.0],
        [0.9, 0.5, 0.5, 1.0, 1.0],
    ];

    #[test]
    fn the_median_is_the_best_constant() {
        let found = PersonalityChance::of(&LABELS).unwrap();
        // Errors: (0.5 + 0.4 + 0 + 0.3) / 4 = 0.3, 0, 0, 0.5, 0.
        assert!((found.macc - (1.0 - 0.8 / 5.0)).abs() < 1e-7);
        for constant in [0.1, 0.4, 0.5, 0.55, 0.7] {
            let scores = personality_scores(&[[constant; 5]; 4], &LABELS).unwrap();
            assert!(scores.macc <= found.macc && scores.ccc.abs() < 1e-6, "{constant}: {scores:?}");
        }
        assert_eq!(found.ccc, 0.0);
    }

    #[test]
    fn traits_without_labels_have_no_chance_level() {
        assert_eq!(PersonalityChance::of(&[[f32::NAN; 5]]), None);
        assert_eq!(best_constant_accuracy(Vec::new()), None);
    }
}
