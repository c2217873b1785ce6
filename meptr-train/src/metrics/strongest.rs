//! Scores of the strongest emotion of a row, of all seven.

use meptr_core::Emotion;
use serde::Serialize;

/// Shares that differ by less are equal: rounding of thirds, not a difference of labels.
const TIE: f32 = 1e-6;

/// Strongest emotion of the prediction against that of the labels.
///
/// - Several labels may be the strongest: the prediction is right when it is one of them. The truth
///   counted in [`StrongestScores::confusion`] is then the predicted one, else the first of them in
///   the order of [`Emotion::ALL`], so that the diagonal holds the rows that are right.
/// - A row without a label above 0 is neutral.
/// - Of equal logits, the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StrongestScores {
    /// Share of the rows whose prediction is right, 0 to 1; NaN when a logit is not finite.
    pub accuracy: f64,
    /// Rows by truth (down) and prediction (across), both in the order of [`Emotion::ALL`].
    pub confusion: [[usize; Emotion::COUNT]; Emotion::COUNT],
    /// Accuracy of the best constant answer: the share of the rows that the most frequent strongest
    /// emotion is right for.
    pub majority_share: f64,
}

/// Strongest labels of a row.
pub(super) fn strongest_labels(labels: &[f32; Emotion::COUNT]) -> [bool; Emotion::COUNT] {
    let highest = labels.iter().copied().fold(0.0, f32::max); // NaN is never the higher
    std::array::from_fn(|class| match highest > 0.0 {
        true => labels[class] >= highest - TIE,
        false => class == 0,
    })
}

/// Class of the highest logit.
pub(super) fn strongest_logit(logits: &[f32; Emotion::COUNT]) -> usize {
    let mut strongest = 0;
    for (class, logit) in logits.iter().enumerate() {
        if *logit > logits[strongest] {
            strongest = class;
        }
    }
    strongest
}

/// Scores the rows; none when there is none.
pub(super) fn strongest_scores<'a>(
    rows: impl Iterator<Item = (&'a [f32; Emotion::COUNT], &'a [f32; Emotion::COUNT])>,
) -> Option<StrongestScores> {
    let mut confusion = [[0; Emotion::COUNT]; Emotion::COUNT];
    let mut right_for = [0; Emotion::COUNT];
    let (mut right, mut count, mut are_finite) = (0usize, 0usize, true);
    for (logits, labels) in rows {
        let truth = strongest_labels(labels);
        let predicted = strongest_logit(logits);
        let first = truth.iter().position(|is_strongest| *is_strongest)?; // there always is one
        confusion[if truth[predicted] { predicted } else { first }][predicted] += 1;
        for (right, is_strongest) in right_for.iter_mut().zip(truth) {
            *right += usize::from(is_strongest);
        }
        right += usize::from(truth[predicted]);
        count += 1;
        are_finite &= logits.iter().all(|logit| logit.is_finite());
    }
    let share = |rows: usize| rows as f64 / count as f64;
    (count > 0).then(|| StrongestScores {
        accuracy: if are_finite { share(right) } else { f64::NAN },
        confusion,
        majority_share: share(right_for.into_iter().max().unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predicting(class: usize) -> [f32; 7] {
        std::array::from_fn(|index| if index == class { 1.0 } else { 0.0 })
    }

    /// Columns: neutral, anger, disgust, fear, happiness, sadness, surprise.
    const SHARES: [[f32; 7]; 5] = [
        [0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 0.0],
        [0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.2, 0.6, 0.2, 0.0],
        [0.0, 0.0, 0.0, 0.333_333_34, 0.333_333_3, 0.333_333_34, 0.0],
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ];

    #[test]
    fn any_of_the_strongest_labels_is_right() {
        let logits = [4, 3, 3, 4, 0].map(predicting);
        let scores = strongest_scores(logits.iter().zip(&SHARES)).unwrap();
        assert_eq!(scores.accuracy, 3.0 / 5.0);
        // Happiness is among the strongest of four rows.
        assert_eq!(scores.majority_share, 4.0 / 5.0);
        let mut expected = [[0; 7]; 7];
        expected[4][4] = 2; // rows 1 and 4: tied, and one of them predicted
        expected[1][3] = 1; // row 2: anger is the first of the two that tie
        expected[4][3] = 1; // row 3
        expected[0][0] = 1; // row 5
        assert_eq!(scores.confusion, expected);
    }

    #[test]
    fn the_best_constant_answer_scores_the_majority_share() {
        let scores = strongest_scores([predicting(4); 5].iter().zip(&SHARES)).unwrap();
        assert_eq!(scores.accuracy, scores.majority_share);
    }

    #[test]
    fn rows_without_a_label_above_0_are_neutral_and_equal_logits_give_the_first() {
        let scores = strongest_scores([([0.5; 7], [0.0; 7])].iter().map(|(l, s)| (l, s))).unwrap();
        assert_eq!((scores.accuracy, scores.confusion[0][0]), (1.0, 1));
        assert_eq!(strongest_logit(&[0.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0]), 1);
        assert!(strongest_scores(std::iter::empty()).is_none());
    }

    #[test]
    fn what_is_not_finite_has_no_accuracy() {
        let logits = [[f32::NAN; 7], predicting(0)];
        let scores = strongest_scores(logits.iter().zip(&SHARES)).unwrap();
        assert!(scores.accuracy.is_nan());
    }
}
