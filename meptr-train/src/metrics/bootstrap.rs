//! Bootstrap intervals of scores, by clip.

use std::collections::BTreeMap;

use meptr_core::rng::{RandomStream, SeedStreams};
use meptr_core::{Emotion, PersonalityTrait};
use serde::Serialize;

use super::emotion::{ASKED, Confusion, Occurrence, is_labelled, said, shown};
use super::strongest::{strongest_labels, strongest_logit};

/// Resamples of an interval.
pub const RESAMPLES: usize = 1000;

/// Seed of the draws; models with as many clips see the same resamples.
const SEED: u64 = 0;

/// Limits of an interval: the 2.5 % and 97.5 % quantiles of the resamples' scores.
pub type Interval = [f64; 2];

/// 95 % intervals of [`super::EmotionScores`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EmotionIntervals {
    /// Of the balanced accuracy; each resample's mean is over the classes that it can score.
    pub muar: Option<Interval>,
    /// Of the F1, likewise.
    pub mf1: Option<Interval>,
    /// Of the accuracy of the strongest emotion.
    pub accuracy: Option<Interval>,
}

/// 95 % intervals of [`super::PersonalityScores`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PersonalityIntervals {
    /// Of the accuracy.
    pub macc: Option<Interval>,
    /// Of the concordance over all traits together.
    pub ccc: Option<Interval>,
    /// Of the mean of the traits' own concordances.
    pub mean_trait_ccc: Option<Interval>,
}

/// Intervals by the percentile bootstrap, Efron 1979, <https://doi.org/10.1214/aos/1176344552>:
/// [`RESAMPLES`] times as many clips as there are, drawn with replacement.
///
/// - arguments as those of [`super::emotion_scores`]
/// - returns none with fewer than two labelled rows, or when a logit is not finite; an interval is
///   none when fewer than two resamples have the score
pub fn emotion_intervals(
    logits: &[[f32; Emotion::COUNT]],
    labels: &[[f32; Emotion::COUNT]],
) -> Option<EmotionIntervals> {
    let labelled = || logits.iter().zip(labels).filter(|(_, labels)| is_labelled(labels));
    if !labelled().all(|(logits, _)| logits.iter().all(|logit| logit.is_finite())) {
        return None;
    }
    // Rows that count alike are drawn as one kind.
    let mut kinds: Vec<EmotionRow> = Vec::new();
    let mut numbers: BTreeMap<EmotionRow, usize> = BTreeMap::new();
    let mut rows = Vec::new();
    for (logits, labels) in labelled() {
        let row = EmotionRow::of(logits, labels);
        let number = *numbers.entry(row).or_insert(kinds.len());
        if number == kinds.len() {
            kinds.push(row);
        }
        rows.push(number);
    }
    if rows.len() < 2 {
        return None;
    }
    let (mut muar, mut mf1, mut accuracy) = (Vec::new(), Vec::new(), Vec::new());
    let mut draws = SeedStreams::new(SEED).stream(STREAM);
    for _ in 0..RESAMPLES {
        let mut counts = vec![0usize; kinds.len()];
        for _ in 0..rows.len() {
            counts[rows[draws.below(rows.len())]] += 1;
        }
        let sample = EmotionSample::of(&kinds, &counts);
        muar.extend(sample.mean_over_classes(Confusion::uar));
        mf1.extend(sample.mean_over_classes(Confusion::f1));
        accuracy.push(sample.right as f64 / rows.len() as f64);
    }
    let [muar, mf1, accuracy] = [muar, mf1, accuracy].map(interval);
    Some(EmotionIntervals { muar, mf1, accuracy })
}

/// Intervals of trait scores, as [`emotion_intervals`].
///
/// - arguments as those of [`super::personality_scores`]
/// - returns none with fewer than two labelled rows, or when a score is not finite
pub fn personality_intervals(
    scores: &[[f32; PersonalityTrait::COUNT]],
    labels: &[[f32; PersonalityTrait::COUNT]],
) -> Option<PersonalityIntervals> {
    type Rows<'a> = Vec<&'a [f32; PersonalityTrait::COUNT]>;
    let (scores, labels): (Rows<'_>, Rows<'_>) = scores
        .iter()
        .zip(labels)
        .filter(|(_, labels)| labels.iter().any(|label| !label.is_nan()))
        .unzip();
    if scores.len() < 2 || !scores.iter().flat_map(|row| row.iter()).all(|one| one.is_finite()) {
        return None;
    }
    let row = |(scores, labels): (&[f32; _], &[f32; _])| {
        std::array::from_fn(|index| Sums::of(labels[index], scores[index]))
    };
    let rows: Vec<[Sums; PersonalityTrait::COUNT]> =
        scores.into_iter().zip(labels).map(row).collect();
    let (mut macc, mut ccc, mut mean_trait_ccc) = (Vec::new(), Vec::new(), Vec::new());
    let mut draws = SeedStreams::new(SEED).stream(STREAM);
    for _ in 0..RESAMPLES {
        let traits = resampled(&rows, &mut draws);
        let whole = traits.iter().fold(Sums::default(), |mut whole, one| {
            whole.add(one);
            whole
        });
        let is_complete = traits.iter().all(|one| one.rows == rows.len() as f64);
        if is_complete {
            macc.push(1.0 - whole.error / whole.rows);
            ccc.push(whole.concordance());
        }
        let own: Vec<f64> =
            traits.iter().filter(|one| one.rows > 0.0).map(Sums::concordance).collect();
        mean_trait_ccc.push(own.iter().sum::<f64>() / own.len() as f64);
    }
    let [macc, ccc, mean_trait_ccc] = [macc, ccc, mean_trait_ccc].map(interval);
    Some(PersonalityIntervals { macc, ccc, mean_trait_ccc })
}

const STREAM: &str = "bootstrap";

/// Values of a row that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct EmotionRow {
    shown: [bool; ASKED],
    said: [bool; ASKED],
    is_right: bool,
}

impl EmotionRow {
    fn of(logits: &[f32; Emotion::COUNT], labels: &[f32; Emotion::COUNT]) -> Self {
        let is_right = strongest_labels(labels)[strongest_logit(logits)];
        Self { shown: shown(labels), said: said(logits), is_right }
    }
}

/// Counts of a resample.
struct EmotionSample {
    confusions: [Confusion; ASKED],
    right: usize,
}

impl EmotionSample {
    fn of(kinds: &[EmotionRow], counts: &[usize]) -> Self {
        let mut sample = Self { confusions: [Confusion::default(); ASKED], right: 0 };
        for (row, count) in kinds.iter().zip(counts).filter(|(_, count)| **count > 0) {
            for (class, confusion) in sample.confusions.iter_mut().enumerate() {
                confusion.add(row.shown[class], row.said[class], *count);
            }
            sample.right += if row.is_right { *count } else { 0 };
        }
        sample
    }

    /// Mean over the classes that some rows show and others do not.
    fn mean_over_classes(&self, of: fn(&Confusion) -> f64) -> Option<f64> {
        let scored = |one: &&Confusion| one.occurrence() == Occurrence::SomeRows;
        let values: Vec<f64> = self.confusions.iter().filter(scored).map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }
}

/// Sums over rows with a label of a trait, or over several traits.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    rows: f64,
    truth: f64,
    found: f64,
    /// Of both squares.
    squares: f64,
    products: f64,
    /// Of absolute differences.
    error: f64,
}

impl Sums {
    /// Of one row; nothing without a label.
    fn of(truth: f32, found: f32) -> Self {
        let (truth, found) = (f64::from(truth), f64::from(found));
        if truth.is_nan() {
            return Self::default();
        }
        Self {
            rows: 1.0,
            truth,
            found,
            squares: truth * truth + found * found,
            products: truth * found,
            error: (truth - found).abs(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.truth += other.truth;
        self.found += other.found;
        self.squares += other.squares;
        self.products += other.products;
        self.error += other.error;
    }

    /// [`super::concordance`] from sums, where the shift of the means cancels:
    /// `2 cov / (E[y^2] + E[p^2] - 2 E[y] E[p])`.
    fn concordance(&self) -> f64 {
        let [truth, found] = [self.truth, self.found].map(|sum| sum / self.rows);
        let covariance = self.products / self.rows - truth * found;
        2.0 * covariance / (self.squares / self.rows - 2.0 * truth * found)
    }
}

fn resampled(
    rows: &[[Sums; PersonalityTrait::COUNT]],
    draws: &mut RandomStream,
) -> [Sums; PersonalityTrait::COUNT] {
    let mut traits = [Sums::default(); PersonalityTrait::COUNT];
    for _ in 0..rows.len() {
        let row = &rows[draws.below(rows.len())];
        traits.iter_mut().zip(row).for_each(|(sum, one)| sum.add(one));
    }
    traits
}

/// The 2.5 % and 97.5 % quantiles of the numbers among the values, interpolated linearly.
fn interval(mut values: Vec<f64>) -> Option<Interval> {
    values.retain(|value| value.is_finite());
    if values.len() < 2 {
        return None;
    }
    values.sort_by(f64::total_cmp);
    Some([0.025, 0.975].map(|share| quantile(&values, share)))
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::super::{concordance, emotion_scores, personality_scores};
    use super::*;

    /// Half of the rows right and half wrong, in turn; happiness or anger with a share of fear.
    fn half_right(rows: usize) -> (Vec<[f32; 7]>, Vec<[f32; 7]>) {
        let labels = |row: usize| match row % 2 {
            0 => [0.0, 0.0, 0.0, 0.25, 0.75, 0.0, 0.0],
            _ => [0.0, 0.75, 0.0, 0.25, 0.0, 0.0, 0.0],
        };
        let logits = |row: usize| {
            let class = if row % 4 < 2 { 4 } else { 1 };
            std::array::from_fn(|one| if one == class { 9.0 } else { 0.0 })
        };
        ((0..rows).map(logits).collect(), (0..rows).map(labels).collect())
    }

    #[test]
    fn an_accuracy_has_the_interval_of_a_binomial_share() {
        let (logits, labels) = half_right(400);
        let scores = emotion_scores(&logits, &labels).unwrap();
        assert_eq!((scores.strongest.accuracy, scores.muar), (0.5, 0.5));
        let found = emotion_intervals(&logits, &labels).unwrap();
        let [low, high] = found.accuracy.unwrap();
        let half = 1.96 * (0.25f64 / 400.0).sqrt(); // 0.049
        assert!((low - (0.5 - half)).abs() < 0.006 && (high - (0.5 + half)).abs() < 0.006);
        let [low, high] = found.muar.unwrap();
        assert!(low < 0.5 && 0.5 < high, "{low} to {high}");
        assert_eq!(Some(found), emotion_intervals(&logits, &labels), "another seed");
    }

    #[test]
    fn intervals_hold_the_scores_of_traits() {
        let mut stream = SeedStreams::new(3).stream("traits");
        let labels: Vec<[f32; 5]> =
            (0..300).map(|_| std::array::from_fn(|_| stream.uniform() as f32)).collect();
        let noisy = |label: f32, noise: f64| label * 0.5 + 0.25 + 0.1 * noise as f32;
        let scores: Vec<[f32; 5]> =
            labels.iter().map(|row| row.map(|label| noisy(label, stream.normal()))).collect();
        let whole = personality_scores(&scores, &labels).unwrap();
        let found = personality_intervals(&scores, &labels).unwrap();
        for (score, interval) in [
            (whole.macc, found.macc),
            (whole.ccc, found.ccc),
            (whole.mean_trait_ccc, found.mean_trait_ccc),
        ] {
            let [low, high] = interval.unwrap();
            assert!(low < score && score < high && high - low < 0.1, "{score}: {low} to {high}");
        }
    }

    #[test]
    fn sums_give_the_concordance_of_the_rows() {
        let (truth, found) = ([0.1f32, 0.4, 0.35, 0.8], [0.2f32, 0.3, 0.5, 0.6]);
        let mut sums = Sums::default();
        truth.iter().zip(found).for_each(|(truth, found)| sums.add(&Sums::of(*truth, found)));
        let expected = concordance(&truth.map(f64::from), &found.map(f64::from));
        assert!((sums.concordance() - expected).abs() < 1e-12);
        sums.add(&Sums::of(f32::NAN, 0.5));
        assert_eq!(sums.rows, 4.0);
    }

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(quantile(&[0.0, 1.0, 2.0, 3.0, 4.0], 0.975), 3.9);
        assert_eq!(interval((0..=1000).map(f64::from).collect()), Some([25.0, 975.0]));
        assert_eq!(interval(vec![1.0, f64::NAN]), None);
    }

    #[test]
    fn one_row_or_what_is_not_finite_has_no_interval() {
        let (mut logits, labels) = half_right(2);
        assert!(emotion_intervals(&logits[..1], &labels[..1]).is_none());
        logits[0][0] = f32::NAN;
        assert!(emotion_intervals(&logits, &labels).is_none());
        let found = [[0.5; 5], [f32::INFINITY; 5]];
        assert!(personality_intervals(&found, &[[0.5; 5]; 2]).is_none());
    }

    #[test]
    fn a_trait_without_labels_leaves_the_others() {
        let label = |row: usize| [row as f32 / 10.0, f32::NAN, 0.2, 0.3 + row as f32 / 20.0, 0.1];
        let labels: Vec<[f32; 5]> = (0..10).map(label).collect();
        let scores: Vec<[f32; 5]> = (0..10).map(|row| [row as f32 / 12.0; 5]).collect();
        let found = personality_intervals(&scores, &labels).unwrap();
        assert_eq!((found.macc, found.ccc), (None, None));
        assert!(found.mean_trait_ccc.is_some());
    }
}
