//! Choice of the best epoch and early stopping, by the dev split and nothing else.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use candle::{Device, Tensor};
use meptr_core::{Emotion, PersonalityTrait, Task};
use serde::{Deserialize, Serialize};

use crate::data::{Dev, Labels, Split};
use crate::metrics::{
    EmotionMean, EmotionMeans, EmotionScores, PersonalityScores, emotion_scores, personality_scores,
};
use crate::{Error, Result};

/// Outputs for the rows of a corpus, in order.
#[derive(Debug, Clone, Default)]
pub struct Predictions {
    emotion_logits: Vec<[f32; Emotion::COUNT]>,
    personality_scores: Vec<[f32; PersonalityTrait::COUNT]>,
    emotion_labels: Vec<[f32; Emotion::COUNT]>,
    personality_labels: Vec<[f32; PersonalityTrait::COUNT]>,
}

impl Predictions {
    /// Adds a batch.
    ///
    /// - `emotion_logits`: `(batch, 7)`, `personality_scores`: `(batch, 5)`, f32
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn add(
        &mut self,
        emotion_logits: &Tensor,
        personality_scores: &Tensor,
        labels: &Labels,
    ) -> candle::Result<()> {
        self.add_emotion(emotion_logits, &labels.emotion)?;
        self.add_personality(personality_scores, &labels.personality)
    }

    /// Adds a batch of the emotion task alone.
    ///
    /// - `logits`, `labels`: `(batch, 7)`, f32, NaN where unknown
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn add_emotion(&mut self, logits: &Tensor, labels: &Tensor) -> candle::Result<()> {
        self.emotion_logits.extend(rows(logits)?);
        self.emotion_labels.extend(rows(labels)?);
        Ok(())
    }

    /// Adds a batch of the trait task alone.
    ///
    /// - `scores`, `labels`: `(batch, 5)`, f32, NaN where unknown
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn add_personality(&mut self, scores: &Tensor, labels: &Tensor) -> candle::Result<()> {
        self.personality_scores.extend(rows(scores)?);
        self.personality_labels.extend(rows(labels)?);
        Ok(())
    }

    /// Everything, for a checkpoint: `emotion_logits` and `emotion_labels` `(rows, 7)`,
    /// `personality_scores` and `personality_labels` `(rows, 5)`, f32; those without rows are
    /// absent.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn to_tensors(&self) -> candle::Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        keep(&mut tensors, EMOTION_LOGITS, &self.emotion_logits)?;
        keep(&mut tensors, EMOTION_LABELS, &self.emotion_labels)?;
        keep(&mut tensors, PERSONALITY_SCORES, &self.personality_scores)?;
        keep(&mut tensors, PERSONALITY_LABELS, &self.personality_labels)?;
        Ok(tensors)
    }

    /// Inverse of [`Predictions::to_tensors`].
    ///
    /// # Errors
    /// When a tensor has another name or shape.
    pub fn from_tensors(tensors: &BTreeMap<String, Tensor>) -> candle::Result<Self> {
        let mut predictions = Self::default();
        for (name, tensor) in tensors {
            match name.as_str() {
                EMOTION_LOGITS => predictions.emotion_logits = rows(tensor)?,
                EMOTION_LABELS => predictions.emotion_labels = rows(tensor)?,
                PERSONALITY_SCORES => predictions.personality_scores = rows(tensor)?,
                PERSONALITY_LABELS => predictions.personality_labels = rows(tensor)?,
                _ => candle::bail!("predictions have no part `{name}`"),
            }
        }
        Ok(predictions)
    }

    /// Scores of both tasks, each over the rows that have its labels.
    pub fn scores(&self) -> CorpusScores {
        CorpusScores {
            emotion: emotion_scores(&self.emotion_logits, &self.emotion_labels),
            personality: personality_scores(&self.personality_scores, &self.personality_labels),
        }
    }
}

const EMOTION_LOGITS: &str = "emotion_logits";
const EMOTION_LABELS: &str = "emotion_labels";
const PERSONALITY_SCORES: &str = "personality_scores";
const PERSONALITY_LABELS: &str = "personality_labels";

fn keep<const N: usize>(
    tensors: &mut BTreeMap<String, Tensor>,
    name: &str,
    rows: &[[f32; N]],
) -> candle::Result<()> {
    if !rows.is_empty() {
        let tensor = Tensor::from_vec(rows.concat(), (rows.len(), N), &Device::Cpu)?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(())
}

fn rows<const N: usize>(matrix: &Tensor) -> candle::Result<Vec<[f32; N]>> {
    let (_, columns) = matrix.dims2()?;
    if columns != N {
        candle::bail!("a matrix of {columns} columns instead of {N}");
    }
    let rows = matrix.to_vec2::<f32>()?;
    Ok(rows.into_iter().map(|row| std::array::from_fn(|index| row[index])).collect())
}

/// Scores on one corpus; none for a task that it has no labels of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CorpusScores {
    /// Emotion scores.
    pub emotion: Option<EmotionScores>,
    /// Trait scores.
    pub personality: Option<PersonalityScores>,
}

/// Scores on a split of one or more corpora.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation<S> {
    corpora: Vec<(String, CorpusScores)>,
    #[serde(skip)]
    split: PhantomData<S>,
}

impl<S: Split> Evaluation<S> {
    /// Collects what models scored on corpora of the split `S`.
    pub(crate) fn new(corpora: Vec<(String, CorpusScores)>) -> Self {
        Self { corpora, split: PhantomData }
    }

    /// Corpora by name, in order.
    pub fn corpora(&self) -> &[(String, CorpusScores)] {
        &self.corpora
    }

    /// Mean over all corpora's mUAR and mF1; none without emotion labels that it can be taken over.
    pub fn mean_emotion(&self, mean: EmotionMean) -> Option<f64> {
        self.emotion(mean, EmotionMeans::mean)
    }

    /// Mean over all corpora's mACC and CCC; none without trait labels.
    pub fn mean_personality(&self) -> Option<f64> {
        self.personality(PersonalityScores::mean)
    }

    /// One number for the split; none when it lacks the labels for it.
    pub fn score(&self, Selection { metric, mean }: Selection) -> Option<f64> {
        match metric {
            SelectionMetric::Combined => {
                Some((self.mean_emotion(mean)? + self.mean_personality()?) / 2.0)
            }
            SelectionMetric::MeanEmotion => self.mean_emotion(mean),
            SelectionMetric::MeanPersonality => self.mean_personality(),
            SelectionMetric::Muar => self.emotion(mean, |means| means.muar),
            SelectionMetric::Mf1 => self.emotion(mean, |means| means.mf1),
            SelectionMetric::Macc => self.personality(|scores| scores.macc),
            SelectionMetric::Ccc => self.personality(|scores| scores.ccc),
        }
    }

    /// Mean over the corpora that have the mean.
    fn emotion(&self, mean: EmotionMean, of: impl Fn(&EmotionMeans) -> f64) -> Option<f64> {
        self.mean(|scores| scores.emotion.and_then(|one| one.means(mean)).as_ref().map(&of))
    }

    /// Mean over the corpora with trait labels.
    fn personality(&self, of: impl Fn(&PersonalityScores) -> f64) -> Option<f64> {
        self.mean(|scores| scores.personality.as_ref().map(&of))
    }

    fn mean(&self, of: impl Fn(&CorpusScores) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.corpora.iter().filter_map(|(_, scores)| of(scores)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }
}

/// The number that the best epoch is best in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// The metric.
    pub metric: SelectionMetric,
    /// Emotions that its means are over.
    pub mean: EmotionMean,
}

/// Score that chooses the best epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectionMetric {
    /// Mean of the next two.
    #[serde(alias = "mean_combo")]
    Combined,
    /// Mean of mUAR and mF1.
    #[serde(rename = "mean_emo")]
    MeanEmotion,
    /// Mean of mACC and the flattened CCC.
    #[serde(rename = "mean_pkl")]
    MeanPersonality,
    /// Balanced accuracy of the emotions.
    #[serde(alias = "mUAR")]
    Muar,
    /// F1 of the emotions.
    #[serde(alias = "mF1")]
    Mf1,
    /// 1 - mean absolute error of the traits.
    #[serde(alias = "ACC", alias = "mACC")]
    Macc,
    /// Flattened concordance of the traits.
    #[serde(alias = "CCC")]
    Ccc,
}

impl SelectionMetric {
    /// The tasks whose labels a dev split must have for it.
    pub fn tasks(self) -> &'static [Task] {
        match self {
            Self::Combined => &Task::ALL,
            Self::MeanEmotion | Self::Muar | Self::Mf1 => &[Task::Emotion],
            Self::MeanPersonality | Self::Macc | Self::Ccc => &[Task::Personality],
        }
    }

    /// Finds out before a training whether its dev corpora, `names`, can give a score.
    pub(crate) fn ensure_is_possible<'a>(
        self,
        names: impl Iterator<Item = &'a str>,
        has_labels: impl Fn(Task) -> bool,
    ) -> Result<()> {
        match self.tasks().iter().all(|task| has_labels(*task)) {
            true => Ok(()),
            false => Err(Error::NothingToSelectBy {
                metric: self.name(),
                corpora: names.collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Combined => "combined",
            Self::MeanEmotion => "mean_emo",
            Self::MeanPersonality => "mean_pkl",
            Self::Muar => "muar",
            Self::Mf1 => "mf1",
            Self::Macc => "macc",
            Self::Ccc => "ccc",
        }
    }
}

/// A score that may choose between epochs: one of the dev split.
///
/// The test split cannot give one:
///
/// ```compile_fail
/// use meptr_train::data::Test;
/// use meptr_train::select::{DevScore, Evaluation, Selection};
///
/// fn peek(evaluation: &Evaluation<Test>, selection: Selection) -> DevScore {
///     DevScore::of(evaluation, selection).unwrap()
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DevScore(f64);

impl DevScore {
    /// The score to choose by; it may be NaN, which never is best.
    ///
    /// # Errors
    /// [`Error::NothingToSelectBy`] when no corpus has the labels that the metric needs.
    pub fn of(evaluation: &Evaluation<Dev>, selection: Selection) -> Result<Self> {
        let nothing = || Error::NothingToSelectBy {
            metric: selection.metric.name(),
            corpora: evaluation
                .corpora
                .iter()
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        };
        evaluation.score(selection).map(Self).ok_or_else(nothing)
    }

    /// The number.
    pub fn value(self) -> f64 {
        self.0
    }
}

/// Judgement of an epoch's dev score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The best so far.
    Best,
    /// Not the best.
    Worse,
    /// Not the best, and patience is at an end.
    Stop,
}

/// Remembers the best epoch, and stops after some without a better one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BestOnDev {
    patience_epochs: usize,
    best: Option<(usize, DevScore)>,
    epochs_without_better: usize,
}

impl BestOnDev {
    /// Stops after this many epochs in a row without a better score.
    pub fn new(patience_epochs: usize) -> Self {
        Self { patience_epochs, best: None, epochs_without_better: 0 }
    }

    /// Judges an epoch; a score that is only equal is not better.
    pub fn observe(&mut self, epoch: usize, score: DevScore) -> Verdict {
        if !score.0.is_nan() && self.best.is_none_or(|(_, best)| score > best) {
            self.best = Some((epoch, score));
            self.epochs_without_better = 0;
            return Verdict::Best;
        }
        self.epochs_without_better += 1;
        if self.is_over() { Verdict::Stop } else { Verdict::Worse }
    }

    /// Is patience at an end?
    pub fn is_over(&self) -> bool {
        self.epochs_without_better > 0 && self.epochs_without_better >= self.patience_epochs
    }

    /// The best epoch and its score.
    pub fn best(&self) -> Option<(usize, DevScore)> {
        self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_epochs_in_a_row() {
        let mut best = BestOnDev::new(2);
        let scores = [f64::NAN, 0.5, 0.4, 0.6, 0.6, f64::NAN];
        let verdicts: Vec<Verdict> =
            (1..).zip(scores).map(|(epoch, score)| best.observe(epoch, DevScore(score))).collect();
        use Verdict::{Best, Stop, Worse};
        assert_eq!(verdicts, [Worse, Best, Worse, Best, Worse, Stop]);
        assert_eq!(best.best(), Some((4, DevScore(0.6))));
    }

    fn by(metric: SelectionMetric, mean: EmotionMean) -> Selection {
        Selection { metric, mean }
    }

    #[test]
    fn a_split_without_the_needed_labels_gives_no_score() {
        let nothing = CorpusScores { emotion: None, personality: None };
        let evaluation = Evaluation::<Dev>::new(vec![("empty".into(), nothing)]);
        let selection = by(SelectionMetric::Combined, EmotionMean::Present);
        let error = DevScore::of(&evaluation, selection).unwrap_err();
        assert!(error.to_string().contains("empty"), "{error}");
    }

    /// Scores of two rows, of which both are said to be happy.
    fn happy(labels: [[f32; Emotion::COUNT]; 2]) -> CorpusScores {
        let happy = [0.0, 0.0, 0.0, 0.0, 20.0, 0.0, 0.0];
        CorpusScores { emotion: emotion_scores(&[happy; 2], &labels), personality: None }
    }

    #[test]
    fn the_mean_that_selects_is_that_of_the_setting() {
        let one = [[0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.5, 0.0, 0.0, 0.0]];
        // Happiness recalls 1 and 0, anger and fear 0 and 1; disgust, sadness, surprise nowhere.
        let evaluation = Evaluation::<Dev>::new(vec![("some".into(), happy(one))]);
        let muar =
            |evaluation: &Evaluation<Dev>, mean| evaluation.score(by(SelectionMetric::Muar, mean));
        assert_eq!(muar(&evaluation, EmotionMean::Present), Some(0.5));
        assert_eq!(muar(&evaluation, EmotionMean::Reference), Some(0.75));
        // Nothing but neutral: a corpus to leave out of the mean, not one to score as right.
        let neutral = happy([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]; 2]);
        let both = [("some".into(), happy(one)), ("calm".into(), neutral)];
        let evaluation = Evaluation::<Dev>::new(both.to_vec());
        assert_eq!(muar(&evaluation, EmotionMean::Present), Some(0.5));
        // Recall of "not happy" is 0; the other five are right.
        assert_eq!(muar(&evaluation, EmotionMean::Reference), Some((0.75 + 5.0 / 6.0) / 2.0));
        let evaluation = Evaluation::<Dev>::new(both[1..].to_vec());
        let selection = by(SelectionMetric::MeanEmotion, EmotionMean::Present);
        let error = DevScore::of(&evaluation, selection).unwrap_err();
        assert!(error.to_string().contains("calm"), "{error}");
    }

    #[test]
    fn names_in_configurations_are_as_stated() {
        for metric in [
            SelectionMetric::Combined,
            SelectionMetric::MeanEmotion,
            SelectionMetric::MeanPersonality,
            SelectionMetric::Muar,
            SelectionMetric::Mf1,
            SelectionMetric::Macc,
            SelectionMetric::Ccc,
        ] {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
        }
    }
}
