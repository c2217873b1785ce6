//! Scores of trait predictions: accuracy and concordance.

use meptr_core::PersonalityTrait;
use serde::Serialize;

/// Scores of trait predictions on the rows with trait labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PersonalityScores {
    /// 1 - mean absolute error, mean over traits; below 1, and above 0 for scores of 0 to 1. NaN
    /// when a score is not finite.
    pub macc: f64,
    /// Concordance over all traits' scores thrown together, -1 to 1: the reference's CCC. NaN when
    /// truth and prediction are one and the same value throughout.
    pub ccc: f64,
    /// Mean of [`Self::trait_ccc`] over the traits that any row has.
    pub mean_trait_ccc: f64,
    /// 1 - mean absolute error of each trait, in the order of [`PersonalityTrait::ALL`].
    pub trait_acc: [f64; PersonalityTrait::COUNT],
    /// Concordance of each trait; NaN as for [`Self::ccc`].
    pub trait_ccc: [f64; PersonalityTrait::COUNT],
    /// Rows with trait labels.
    pub rows: usize,
}

impl PersonalityScores {
    /// Mean of [`Self::macc`] and [`Self::ccc`].
    pub fn mean(&self) -> f64 {
        (self.macc + self.ccc) / 2.0
    }
}

/// Scores trait predictions against labels.
///
/// - `scores`: predictions; one that is not finite says nothing, and makes the scores NaN that it
///   would count in
/// - `labels`: 0 to 1; rows that are NaN throughout are left out, a single NaN counts and makes
///   [`PersonalityScores::macc`] and [`PersonalityScores::ccc`] NaN; the concordance of a trait is
///   over the rows that have it
/// - returns none when no row is left
pub fn personality_scores(
    scores: &[[f32; PersonalityTrait::COUNT]],
    labels: &[[f32; PersonalityTrait::COUNT]],
) -> Option<PersonalityScores> {
    let is_labelled =
        |labels: &&[f32; PersonalityTrait::COUNT]| labels.iter().any(|label| !label.is_nan());
    let (truth, found): (Vec<_>, Vec<_>) =
        labels.iter().zip(scores).filter(|(labels, _)| is_labelled(labels)).unzip();
    if truth.is_empty() {
        return None;
    }
    let column = |rows: &[[f32; PersonalityTrait::COUNT]], index: usize| -> Vec<f64> {
        rows.iter().map(|row| number(row[index])).collect()
    };
    let trait_acc = std::array::from_fn(|index| {
        1.0 - mean_absolute_error(&column(&truth, index), &column(&found, index))
    });
    let trait_ccc = std::array::from_fn(|index| {
        let pairs = column(&truth, index).into_iter().zip(column(&found, index));
        let (truth, found): (Vec<f64>, Vec<f64>) =
            pairs.filter(|(truth, _)| !truth.is_nan()).unzip();
        concordance(&truth, &found)
    });
    let labelled = (0..PersonalityTrait::COUNT).filter(|index| {
        truth.iter().any(|labels: &[f32; PersonalityTrait::COUNT]| !labels[*index].is_nan())
    });
    let flat = |rows: &[[f32; PersonalityTrait::COUNT]]| -> Vec<f64> {
        rows.iter().flatten().copied().map(number).collect()
    };
    Some(PersonalityScores {
        macc: mean(&trait_acc),
        ccc: concordance(&flat(&truth), &flat(&found)),
        mean_trait_ccc: mean(&labelled.map(|index| trait_ccc[index]).collect::<Vec<f64>>()),
        trait_acc,
        trait_ccc,
        rows: truth.len(),
    })
}

/// Concordance correlation coefficient, -1 to 1.
///
/// `2 cov / (var + var + (mean - mean)^2)` with population variances, Lin 1989,
/// <https://doi.org/10.2307/2532051>; NaN for no values, and when both sides are one and the same
/// value throughout.
pub fn concordance(truth: &[f64], found: &[f64]) -> f64 {
    let (truth_mean, found_mean) = (mean(truth), mean(found));
    let (mut covariance, mut variances) = (0.0, 0.0);
    for (truth, found) in truth.iter().zip(found) {
        let (truth, found) = (truth - truth_mean, found - found_mean);
        covariance += truth * found;
        variances += truth * truth + found * found;
    }
    let shift = (truth_mean - found_mean).powi(2) * truth.len() as f64;
    2.0 * covariance / (variances + shift)
}

/// An infinite score would make an accuracy that compares with others.
fn number(value: f32) -> f64 {
    if value.is_finite() { value.into() } else { f64::NAN }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn mean_absolute_error(truth: &[f64], found: &[f64]) -> f64 {
    let errors: Vec<f64> = truth.iter().zip(found).map(|(truth, found)| truth - found).collect();
    mean(&errors.iter().map(|error| error.abs()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn perfect_predictions_score_one() {
        let rows = [[0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 0.1, 0.6, 0.2, 0.8]];
        let scores = personality_scores(&rows, &rows).unwrap();
        assert!((scores.macc - 1.0).abs() < 1e-12 && (scores.ccc - 1.0).abs() < 1e-12);
        assert!((scores.mean_trait_ccc - 1.0).abs() < 1e-12);
    }

    #[test]
    fn unlabelled_rows_do_not_count() {
        assert_eq!(personality_scores(&[[0.5; 5]], &[[f32::NAN; 5]]), None);
        let scores = personality_scores(&[[0.5; 5]; 2], &[[f32::NAN; 5], [0.25; 5]]).unwrap();
        assert_eq!((scores.rows, scores.macc), (1, 0.75));
    }

    #[test]
    fn what_is_not_finite_has_no_score() {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let found = [[0.5; 5], [wrong, 0.5, 0.5, 0.5, 0.5]];
            let scores = personality_scores(&found, &[[0.25; 5]; 2]).unwrap();
            assert!(scores.macc.is_nan() && scores.ccc.is_nan() && scores.trait_acc[0].is_nan());
            assert_eq!(scores.trait_acc[1], 0.75);
        }
    }

    proptest! {
        #[test]
        fn scores_lie_in_their_range(
            rows in prop::collection::vec(
                (prop::array::uniform5(0f32..1.0), prop::array::uniform5(0f32..1.0)), 2..40
            )
        ) {
            let (found, truth): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
            let scores = personality_scores(&found, &truth).unwrap();
            prop_assert!((0.0..=1.0).contains(&scores.macc));
            prop_assert!((-1.0 - 1e-9..=1.0 + 1e-9).contains(&scores.ccc));
            for ccc in scores.trait_ccc {
                prop_assert!((-1.0 - 1e-9..=1.0 + 1e-9).contains(&ccc));
            }
        }
    }
}
