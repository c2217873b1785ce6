//! Scores of emotion predictions: balanced accuracy and F1 of six one-vs-rest questions.

use meptr_core::Emotion;
use serde::{Deserialize, Serialize};

use super::strongest::{StrongestScores, strongest_scores};

/// Classes that are scored one-vs-rest: all but neutral, which means none of them.
pub const ASKED: usize = Emotion::COUNT - 1;

/// Scores of emotion predictions on the rows with emotion labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EmotionScores {
    /// Mean of [`ClassScores::uar`] over the classes with [`Occurrence::SomeRows`], 0 to 1, chance 0.5.
    /// NaN without such a class, and when a logit is not finite.
    pub muar: f64,
    /// Mean of [`ClassScores::f1`] over the same classes, 0 to 1; NaN likewise.
    pub mf1: f64,
    /// Means over all six classes, as the reference takes them (the paper's mWACC).
    pub reference: EmotionMeans,
    /// Scores of the strongest emotion, of all seven.
    pub strongest: StrongestScores,
    /// Scores of anger to surprise, in the order of [`Emotion::ALL`].
    pub classes: [ClassScores; ASKED],
    /// Rows with emotion labels.
    pub rows: usize,
}

impl EmotionScores {
    /// Means over classes; none when there is no class to take them over.
    pub fn means(&self, mean: EmotionMean) -> Option<EmotionMeans> {
        match mean {
            EmotionMean::Reference => Some(self.reference),
            EmotionMean::Present => self
                .classes
                .iter()
                .any(|class| class.occurrence == Occurrence::SomeRows)
                .then_some(EmotionMeans { muar: self.muar, mf1: self.mf1 }),
        }
    }
}

/// Classes that a mean is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmotionMean {
    /// Classes that some rows show and others do not.
    #[default]
    Present,
    /// All six. One that nobody shows and nobody is said to show counts as 1.
    Reference,
}

/// Means over classes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EmotionMeans {
    /// Of [`ClassScores::uar`], 0 to 1; NaN when a logit is not finite.
    pub muar: f64,
    /// Of [`ClassScores::f1`], 0 to 1; NaN likewise.
    pub mf1: f64,
}

impl EmotionMeans {
    /// Mean of the two.
    pub fn mean(&self) -> f64 {
        (self.muar + self.mf1) / 2.0
    }

    fn over<'a>(classes: impl Iterator<Item = &'a ClassScores>) -> Self {
        let (mut muar, mut mf1, mut count) = (0.0, 0.0, 0.0);
        for class in classes {
            muar += class.uar;
            mf1 += class.f1;
            count += 1.0;
        }
        Self { muar: muar / count, mf1: mf1 / count } // 0 / 0 is NaN
    }
}

/// Rows that show a class.
///
/// A balanced accuracy needs rows of both kinds: where the truth is one value throughout, always
/// giving that value scores 1, and chance is not 0.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Occurrence {
    /// Some, but not all: the class can be scored.
    SomeRows,
    /// None.
    NoRow,
    /// All.
    EveryRow,
}

/// Scores of one class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClassScores {
    /// The class.
    pub class: Emotion,
    /// Rows that show it; only [`Occurrence::SomeRows`] counts in the means over present classes.
    pub occurrence: Occurrence,
    /// Unweighted average recall, 0 to 1: the mean of the recalls of "there" and of "not there".
    /// NaN when a logit is not finite.
    pub uar: f64,
    /// Mean of the F1 of "there" and of "not there", 0 to 1; NaN likewise.
    pub f1: f64,
    /// Rows by truth and prediction.
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
/// than neutral with a label above 0. Neutral has no question of its own: a row is neutral when none
/// of the six is there. Averages over "there" and "not there" take in only what occurs in truth or
/// prediction; a recall or F1 without rows is 0 (scikit-learn's
/// `classification_report(zero_division=0)`).
///
/// - `logits`: before the softmax; one that is not finite says nothing, and makes all scores NaN
/// - `labels`: shares of the classes; rows that are NaN throughout are left out
/// - returns none when no row is left
pub fn emotion_scores(
    logits: &[[f32; Emotion::COUNT]],
    labels: &[[f32; Emotion::COUNT]],
) -> Option<EmotionScores> {
    let labelled = || logits.iter().zip(labels).filter(|(_, labels)| is_labelled(labels));
    let mut confusions = [Confusion::default(); ASKED];
    for (logits, labels) in labelled() {
        let (shown, said) = (shown(labels), said(logits));
        for (index, confusion) in confusions.iter_mut().enumerate() {
            confusion.add(shown[index], said[index], 1);
        }
    }
    let strongest = strongest_scores(labelled())?;
    let are_finite = labelled().all(|(logits, _)| logits.iter().all(|logit| logit.is_finite()));
    let classes = std::array::from_fn(|index| {
        let confusion = confusions[index];
        let (uar, f1) = match are_finite {
            true => (confusion.uar(), confusion.f1()),
            false => (f64::NAN, f64::NAN),
        };
        let (class, occurrence) = (Emotion::ALL[index + 1], confusion.occurrence());
        ClassScores { class, occurrence, uar, f1, confusion }
    });
    let scored =
        classes.iter().filter(|class: &&ClassScores| class.occurrence == Occurrence::SomeRows);
    let EmotionMeans { muar, mf1 } = EmotionMeans::over(scored);
    let reference = EmotionMeans::over(classes.iter());
    Some(EmotionScores { muar, mf1, reference, strongest, classes, rows: labelled().count() })
}

/// Occurrence of the classes from anger on in labels; [`Occurrence::NoRow`] without any row.
pub fn occurrences<'a>(
    labels: impl Iterator<Item = &'a [f32; Emotion::COUNT]>,
) -> [Occurrence; ASKED] {
    let mut counts = [Confusion::default(); ASKED];
    for labels in labels.filter(|labels| is_labelled(labels)) {
        let shown = shown(labels);
        counts.iter_mut().zip(shown).for_each(|(counts, shown)| counts.add(shown, shown, 1));
    }
    counts.map(|counts| counts.occurrence())
}

/// Has a row any emotion label?
pub(super) fn is_labelled(labels: &[f32; Emotion::COUNT]) -> bool {
    labels.iter().any(|label| !label.is_nan())
}

/// Truth of the classes from anger on.
pub(super) fn shown(labels: &[f32; Emotion::COUNT]) -> [bool; ASKED] {
    std::array::from_fn(|index| labels[index + 1] > 0.0)
}

/// Prediction of the classes from anger on.
pub(super) fn said(logits: &[f32; Emotion::COUNT]) -> [bool; ASKED] {
    let decided = Emotion::decided(&softmax(logits));
    std::array::from_fn(|index| decided.contains(&Emotion::ALL[index + 1]))
}

impl Confusion {
    /// Counts some rows.
    pub(super) fn add(&mut self, is_there: bool, is_said: bool, rows: usize) {
        let counter = match (is_there, is_said) {
            (true, true) => &mut self.true_positive,
            (false, true) => &mut self.false_positive,
            (true, false) => &mut self.false_negative,
            (false, false) => &mut self.true_negative,
        };
        *counter += rows;
    }

    pub(super) fn occurrence(&self) -> Occurrence {
        let there = self.true_positive + self.false_negative;
        let not_there = self.true_negative + self.false_positive;
        match (there > 0, not_there > 0) {
            (true, true) => Occurrence::SomeRows,
            (false, _) => Occurrence::NoRow,
            (true, false) => Occurrence::EveryRow,
        }
    }

    pub(super) fn uar(&self) -> f64 {
        let there = ratio(self.true_positive, self.true_positive + self.false_negative);
        let not_there = ratio(self.true_negative, self.true_negative + self.false_positive);
        self.mean_of_occurring(there, not_there)
    }

    pub(super) fn f1(&self) -> f64 {
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
        let EmotionMeans { muar, mf1 } = scores.reference;
        assert_eq!((muar, mf1, scores.rows), (1.0, 1.0, 3));
        assert!(scores.muar.is_nan() && scores.mf1.is_nan());
        assert_eq!(scores.means(EmotionMean::Present), None);
        assert_eq!(scores.means(EmotionMean::Reference), Some(scores.reference));
    }

    /// Logits that give the listed classes equal probabilities and the others next to none.
    fn saying(classes: &[usize]) -> [f32; 7] {
        std::array::from_fn(|class| if classes.contains(&class) { 9.0 } else { -9.0 })
    }

    /// Columns: neutral, anger, disgust, fear, happiness, sadness, surprise.
    const SHARES: [[f32; 7]; 4] = [
        [0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0],
        [0.0, 0.25, 0.0, 0.0, 0.75, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
    ];

    #[test]
    fn headline_means_are_over_classes_that_some_rows_show() {
        let logits = [saying(&[1, 4]), saying(&[3, 5]), saying(&[1]), saying(&[1, 4])];
        let scores = emotion_scores(&logits, &SHARES).unwrap();
        use Occurrence::{EveryRow, NoRow, SomeRows};
        let occurrences = scores.classes.map(|class| class.occurrence);
        assert_eq!(occurrences, [SomeRows, NoRow, SomeRows, EveryRow, SomeRows, NoRow]);
        // Anger: rows 1 and 3 there and found; rows 2 and 4 not there, row 4 said to be:
        // recalls 1 and 1/2; F1 4/5 and 2/3.
        assert!((scores.classes[0].uar - 0.75).abs() < 1e-12);
        assert!((scores.classes[0].f1 - (4.0 / 5.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        // Happiness is in every row, and found in two: recalls 1/2 and 0, F1 2/3 and 0.
        assert!((scores.classes[3].uar - 0.25).abs() < 1e-12);
        assert!((scores.classes[3].f1 - 1.0 / 3.0).abs() < 1e-12);
        // Fear and sadness are found without a mistake; disgust and surprise are never there.
        let anger_f1 = 11.0 / 15.0;
        assert!((scores.muar - (0.75 + 1.0 + 1.0) / 3.0).abs() < 1e-12);
        assert!((scores.mf1 - (anger_f1 + 1.0 + 1.0) / 3.0).abs() < 1e-12);
        let EmotionMeans { muar, mf1 } = scores.reference;
        assert!((muar - (0.75 + 1.0 + 1.0 + 0.25 + 1.0 + 1.0) / 6.0).abs() < 1e-12);
        assert!((mf1 - (anger_f1 + 1.0 + 1.0 + 1.0 / 3.0 + 1.0 + 1.0) / 6.0).abs() < 1e-12);
        let present = scores.means(EmotionMean::Present).unwrap();
        assert_eq!(present.mean(), (scores.muar + scores.mf1) / 2.0);
    }

    #[test]
    fn one_answer_for_all_rows_scores_chance_in_the_headline_and_more_in_the_reference() {
        let scores = emotion_scores(&[saying(&[4]); 4], &SHARES).unwrap();
        assert_eq!(scores.muar, 0.5);
        assert_eq!(scores.reference.muar, (0.5 + 1.0 + 0.5 + 1.0 + 0.5 + 1.0) / 6.0);
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
            assert!(
                scores.muar.is_nan() && scores.mf1.is_nan() && scores.reference.mean().is_nan()
            );
            let unlabelled = emotion_scores(&logits, &[angry, [f32::NAN; 7]]).unwrap();
            assert!(unlabelled.reference.muar.is_finite(), "a row without labels counted");
            let happy = [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0];
            let present = emotion_scores(&logits, &[angry, happy]).unwrap();
            assert!(present.means(EmotionMean::Present).unwrap().mean().is_nan());
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
            let EmotionMeans { muar, mf1 } = scores.reference;
            prop_assert!(unit.contains(&muar) && unit.contains(&mf1));
            let is_scored = scores.classes.iter().any(|one| one.occurrence == Occurrence::SomeRows);
            prop_assert_eq!(unit.contains(&scores.muar), is_scored);
            prop_assert_eq!(unit.contains(&scores.mf1), is_scored);
            prop_assert!(unit.contains(&scores.strongest.accuracy));
            for class in scores.classes {
                let Confusion { true_positive, false_positive, false_negative, true_negative } =
                    class.confusion;
                let counted = true_positive + false_positive + false_negative + true_negative;
                prop_assert_eq!(counted, logits.len());
            }
        }
    }
}
