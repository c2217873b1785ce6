//! Scores of emotion predictions: balanced accuracy and F1 of six yes-or-no questions.

use meptr_core::Emotion;
use serde::Serialize;

/// Classes that are asked for one by one: all but neutral, which means none of them.
pub const ASKED: usize = Emotion::COUNT - 1;

/// Scores of emotion predictions on the rows with emotion labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EmotionScores {
    /// Mean of the classes' [`ClassScores::uar`]; the paper's mWACC. 0 to 1; NaN when a logit is
    /// not finite.
    pub muar: f64,
    /// Mean of the classes' [`ClassScores::f1`], 0 to 1; NaN likewise.
    pub mf1: f64,
    /// Scores of anger to surprise, in the order of [`Emotion::ALL`].
    pub classes: [ClassScores; ASKED],
    /// Rows with emotion labels.
    pub rows: usize,
}

impl EmotionScores {
    /// Mean of [`Self::muar`] and [`Self::mf1`].
    pub fn mean(&self) -> f64 {
        (self.muar + self.mf1) / 2.0
    }
}

/// Scores of one class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClassScores {
    /// The class.
    pub class: Emotion,
    /// Unweighted average recall, 0 to 1: the mean of the recalls of "there" and of "not there".
    /// NaN when a logit is not finite.
    pub uar: f64,
    /// Mean of the F1 of "there" and of "not there", 0 to 1; NaN likewise.
    pub f1: f64,
    /// How rows fell out.
    pub confusion: Confusion,
}

/// Counts of rows by truth and prediction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// There, and said to be.
    pub true_positive: usize,
    /// Not there, but said to be.
    pub false_positive: usize,
    /// There, but said not to be.
    pub false_negative: usize,
    /// Not there, and said not to be.
    pub true_negative: usize,
}

/// Scores logits against labels.
///
/// A prediction is decided by [`Emotion::decided`] on the softmax, the truth is every class other
/// than neutral with a label above 0. Averages over "there" and "not there" take in only what occurs
/// in truth or prediction; a recall or F1 without rows is 0 (scikit-learn's
/// `classification_report(zero_division=0)`).
///
/// - `logits`: before the softmax; one that is not finite says nothing, and makes all scores NaN
/// - `labels`: shares of the classes; rows that are NaN throughout are left out
/// - returns none when no row is left
pub fn emotion_scores(
    logits: &[[f32; Emotion::COUNT]],
    labels: &[[f32; Emotion::COUNT]],
) -> Option<EmotionScores> {
    let mut confusions = [Confusion::default(); ASKED];
    let mut rows = 0;
    let mut are_finite = true;
    for (logits, labels) in logits.iter().zip(labels) {
        if labels.iter().all(|label| label.is_nan()) {
            continue;
        }
        rows += 1;
        are_finite &= logits.iter().all(|logit| logit.is_finite());
        let decided = Emotion::decided(&softmax(logits));
        for (index, confusion) in confusions.iter_mut().enumerate() {
            let class = Emotion::ALL[index + 1];
            confusion.count(labels[index + 1] > 0.0, decided.contains(&class));
        }
    }
    if rows == 0 {
        return None;
    }
    let classes = std::array::from_fn(|index| {
        let confusion = confusions[index];
        let class = Emotion::ALL[index + 1];
        let score = |value: f64| if are_finite { value } else { f64::NAN };
        ClassScores { class, uar: score(confusion.uar()), f1: score(confusion.f1()), confusion }
    });
    let mean = |of: fn(&ClassScores) -> f64| classes.iter().map(of).sum::<f64>() / ASKED as f64;
    Some(EmotionScores {
        muar: mean(|class| class.uar),
        mf1: mean(|class| class.f1),
        classes,
        rows,
    })
}

impl Confusion {
    fn count(&mut self, is_there: bool, is_said: bool) {
        let counter = match (is_there, is_said) {
            (true, true) => &mut self.true_positive,
            (false, true) => &mut self.false_positive,
            (true, false) => &mut self.false_negative,
            (false, false) => &mut self.true_negative,
        };
        *counter += 1;
    }

    fn uar(&self) -> f64 {
        let there = ratio(self.true_positive, self.true_positive + self.false_negative);
        let not_there = ratio(self.true_negative, self.true_negative + self.false_positive);
        self.mean_of_occurring(there, not_there)
    }

    fn f1(&self) -> f64 {
        let wrong = self.false_positive + self.false_negative;
        let there = ratio(2 * self.true_positive, 2 * self.true_positive + wrong);
        let not_there = ratio(2 * self.true_negative, 2 * self.true_negative + wrong);
        self.mean_of_occurring(there, not_there)
    }

    fn mean_of_occurring(&self, there: f64, not_there: f64) -> f64 {
        let wrong = self.false_positive + self.false_negative;
        match (self.true_positive + wrong > 0, self.true_negative + wrong > 0) {
            (true, true) => (there + not_there) / 2.0,
            (true, false) => there,
            (false, _) => not_there,
        }
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn softmax(logits: &[f32; Emotion::COUNT]) -> [f32; Emotion::COUNT] {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers = logits.map(|logit| (logit - highest).exp());
    let sum: f32 = powers.iter().sum();
    powers.map(|power| power / sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_constant_question_answered_right_scores_one() {
        let neutral = [9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let scores = emotion_scores(&[neutral; 3], &[[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]; 3]);
        let scores = scores.unwrap();
        assert_eq!((scores.muar, scores.mf1, scores.rows), (1.0, 1.0, 3));
    }

    #[test]
    fn unlabelled_rows_do_not_count() {
        assert_eq!(emotion_scores(&[[0.0; 7]; 2], &[[f32::NAN; 7]; 2]), None);
        let labelled = [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let scores = emotion_scores(&[[0.0; 7]; 2], &[[f32::NAN; 7], labelled]).unwrap();
        assert_eq!(scores.rows, 1);
    }

    #[test]
    fn what_is_not_finite_has_no_score() {
        let angry = [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let logits = [[0.0; 7], [wrong, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]];
            let scores = emotion_scores(&logits, &[angry; 2]).unwrap();
            assert!(scores.muar.is_nan() && scores.mf1.is_nan() && scores.mean().is_nan());
            let unlabelled = emotion_scores(&logits, &[angry, [f32::NAN; 7]]).unwrap();
            assert!(unlabelled.muar.is_finite(), "a row without labels counted");
        }
    }

    proptest! {
        #[test]
        fn scores_lie_between_0_and_1(
            rows in prop::collection::vec(
                (prop::array::uniform7(-9f32..9.0), prop::array::uniform7(-1f32..1.0)), 1..40
            )
        ) {
            let (logits, labels): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
            let scores = emotion_scores(&logits, &labels).unwrap();
            let unit = 0.0..=1.0;
            prop_assert!(unit.contains(&scores.muar) && unit.contains(&scores.mf1));
            for class in scores.classes {
                let Confusion { true_positive, false_positive, false_negative, true_negative } =
                    class.confusion;
                let counted = true_positive + false_positive + false_negative + true_negative;
                prop_assert_eq!(counted, logits.len());
            }
        }
    }
}
