//! Stage 2: one modality, both tasks, around two stage-1 models that stay as they are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use meptr_core::models::{CrossTaskModel, HeadConfig, UnimodalModel};
use meptr_core::nn::Mode;
use meptr_core::weights::Trainable;
use meptr_core::{Modality, Task};
use serde::{Deserialize, Serialize};

use super::observer::{Control, Observer, StepReport};
use super::training_config::TrainingConfig;
use super::training_loop::{Outcome, TrainableModel, TrainingLoop, TrainingRun};
use super::unimodal::{dev_problems, evaluate_in_batches};
use crate::data::sequences::unlike;
use crate::data::{Corpus, Dev, Sampler, SequenceRows, Split, StoredClips, Train};
use crate::loss::{FixedLossConfig, MultiTaskLoss};
use crate::select::{Evaluation, Selection, SelectionMetric};
use crate::{Error, Result};

/// Videos that the two branches see in a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// The emotion branch sees videos with emotion labels, the trait branch others with trait
    /// labels, as the published models were trained. An epoch has as many steps as there are
    /// batches for the emotion branch; the other branch begins anew, in another order, when it has
    /// no more. The shorter of two batches repeats its last row.
    #[default]
    CrossCorpus,
    /// Both branches see the same video, as in prediction; each row counts for the tasks it has
    /// labels of.
    SameClip,
}

/// Training of a stage-2 model.
#[derive(Debug, Clone, PartialEq)]
pub struct CrossTaskTraining {
    /// Training loss.
    pub loss: FixedLossConfig,
    /// Settings of the training loop.
    pub training: TrainingConfig,
    /// Score that chooses the best epoch.
    pub selection: Selection,
}

/// Train and dev data of stage 2; there is no place for a test split.
#[derive(Debug, Clone)]
pub struct CrossTaskData {
    /// All corpora together.
    pub train: Corpus<Train, PairedRows>,
    /// Each corpus by itself; both branches see the same video.
    pub dev: Vec<Corpus<Dev, SequenceRows>>,
}

/// Videos for the two branches.
#[derive(Debug, Clone)]
pub struct PairedRows {
    pairing: Pairing,
    emotion: SequenceRows,
    /// Rows of the trait branch; those of `emotion` when both branches see the same video.
    personality: SequenceRows,
}

impl PairedRows {
    /// The videos, of one split of any number of corpora, that each branch sees.
    pub fn of(pairing: Pairing, sources: &[Arc<StoredClips>], modality: Modality) -> Self {
        let rows = |tasks: &[Task]| SequenceRows::of(sources, modality, tasks);
        let (emotion, personality) = match pairing {
            Pairing::CrossCorpus => (rows(&[Task::Emotion]), rows(&[Task::Personality])),
            Pairing::SameClip => (rows(&Task::ALL), rows(&Task::ALL)),
        };
        Self { pairing, emotion, personality }
    }

    /// The rows of each branch: emotion, personality.
    pub fn branches(&self) -> [&SequenceRows; 2] {
        [&self.emotion, &self.personality]
    }

    fn batches_per_epoch(&self, sampler: &Sampler) -> usize {
        sampler.batches_per_epoch(self.emotion.len())
    }

    /// The batches of an epoch, for the emotion branch and for the trait branch, of equal lengths.
    fn batches(&self, sampler: &Sampler, epoch: usize) -> Vec<(Vec<u32>, Vec<u32>)> {
        let emotion = sampler.batches(epoch, self.emotion.len());
        if self.pairing == Pairing::SameClip {
            return emotion.into_iter().map(|batch| (batch.clone(), batch)).collect();
        }
        let pass = |pass: usize| {
            sampler.pass(&format!("order {epoch} traits {pass}"), self.personality.len())
        };
        paired(emotion, pass)
    }
}

/// Batches of both branches, as many as for emotions and with as many rows in each two: the passes
/// over the trait rows follow one another, and the shorter batch repeats its last row.
fn paired(
    emotion: Vec<Vec<u32>>,
    personality: impl Fn(usize) -> Vec<Vec<u32>>,
) -> Vec<(Vec<u32>, Vec<u32>)> {
    let passes = 0..emotion.len(); // enough, as each has a batch at least
    let pairs = emotion.into_iter().zip(passes.flat_map(personality));
    pairs
        .map(|(mut emotion, mut personality)| {
            let rows = emotion.len().max(personality.len());
            for batch in [&mut emotion, &mut personality] {
                batch.resize(rows, batch.last().copied().unwrap_or(0));
            }
            (emotion, personality)
        })
        .collect()
}

impl CrossTaskData {
    /// Everything that keeps a model from being trained on the data, the numbers themselves aside:
    /// see [`SequenceRows::damaged`] for these.
    pub fn problems(&self, config: &HeadConfig) -> Vec<String> {
        let width = config.input_width();
        let PairedRows { pairing, emotion, personality } = &self.train.rows;
        let mut problems = match pairing {
            Pairing::CrossCorpus => {
                let mut problems = emotion.problems(Train::NAME, width, &[Task::Emotion]);
                problems.extend(personality.problems(Train::NAME, width, &[Task::Personality]));
                problems
            }
            Pairing::SameClip => emotion.problems(Train::NAME, width, &Task::ALL),
        };
        problems.extend(dev_problems(&self.dev, width, &Task::ALL));
        problems.sort();
        problems.dedup(); // both branches may read one corpus
        let train = [emotion, personality].into_iter().flat_map(SequenceRows::sources);
        let dev = self.dev.iter().flat_map(|corpus| corpus.rows.sources());
        problems.extend(unlike(&train.chain(dev).collect::<Vec<_>>()));
        problems
    }
}

impl CrossTaskData {
    /// Whether the dev split can give the score that the best epoch is chosen by.
    ///
    /// # Errors
    /// [`Error::NothingToSelectBy`] when it lacks labels for that.
    pub fn ensure_selects(&self, selection: SelectionMetric) -> Result<()> {
        let names = self.dev.iter().map(|corpus| corpus.name.as_str());
        let has_labels = |task| self.dev.iter().any(|corpus| corpus.rows.has_labels(task));
        selection.ensure_is_possible(names, has_labels)
    }
}

/// The stage-1 models' tensors, by the names that stage 1 gave them: emotion, personality.
pub type StageOneTensors<'a> = [&'a BTreeMap<String, Tensor>; 2];

/// A stage-2 model whose own part comes from `trainable`, around stage-1 models that are no
/// variables, so that nothing can train them.
///
/// # Errors
/// When the tensors do not fit the configuration.
pub fn load_around(
    config: &HeadConfig,
    [emotion, personality]: StageOneTensors<'_>,
    trainable: &Trainable,
    device: &Device,
) -> candle::Result<CrossTaskModel> {
    let frozen = |tensors: &BTreeMap<String, Tensor>| {
        let copies = tensors
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), tensor.to_device(device)?.detach())));
        let copies = copies.collect::<candle::Result<HashMap<_, _>>>()?;
        Ok::<_, candle::Error>(VarBuilder::from_tensors(copies, DType::F32, device))
    };
    let emotion = UnimodalModel::load(&config.emotion, Task::Emotion, frozen(emotion)?)?;
    let personality =
        UnimodalModel::load(&config.personality, Task::Personality, frozen(personality)?)?;
    CrossTaskModel::around(config, emotion, personality, trainable.builder(device))
}

/// All tensors of a stage-2 model, by the names they have in a bundle.
pub fn whole_head(
    config: &HeadConfig,
    [emotion, personality]: StageOneTensors<'_>,
    stage_two: &BTreeMap<String, Tensor>,
) -> BTreeMap<String, Tensor> {
    let (emotion_prefix, personality_prefix) = config.frozen_prefixes();
    let mut tensors = stage_two.clone();
    for (prefix, frozen) in [(emotion_prefix, emotion), (personality_prefix, personality)] {
        let named = frozen.iter().map(|(name, one)| (format!("{prefix}.{name}"), one.clone()));
        tensors.extend(named);
    }
    tensors
}

/// Trains a model in place until its dev score has stopped rising.
///
/// The variables are those of [`load_around`]. Beside the dropout masks, the sampler is
/// the only randomness. Dropout acts inside the frozen stage-1 models, too, as in the reference, which puts
/// the whole model into training mode and only takes their weights from the optimiser.
///
/// # Errors
/// [`Error::NothingToSelectBy`] when the dev split lacks the labels that the selection needs;
/// otherwise when features cannot be read, the device fails, data or state do not fit the model, or
/// the observer does.
pub fn train_cross_task(
    config: &CrossTaskTraining,
    trainee: TrainableModel<'_, CrossTaskModel>,
    data: &CrossTaskData,
    run: TrainingRun<'_>,
    observer: &mut (impl Observer + ?Sized),
) -> Result<Outcome> {
    let TrainableModel { model, parameters } = trainee;
    let TrainingRun { sampler, start } = run;
    data.ensure_selects(config.selection.metric)?;
    let rows = &data.train.rows;
    let settings = &config.training;
    let steps = rows.batches_per_epoch(sampler);
    let mut training = TrainingLoop::begin(settings, config.selection, parameters, steps, start)?;
    let device = training.device();
    let loss = config.loss.on(&rows.emotion, &device)?;
    while let Some(epoch) = training.next_epoch() {
        let batches = rows.batches(sampler, epoch);
        for (number, batch) in (1..).zip(&batches).skip(training.progress.batches) {
            let value = match rows.pairing {
                Pairing::CrossCorpus => step_apart(&mut training, &loss, model, (rows, batch))?,
                Pairing::SameClip => step_together(&mut training, &loss, model, (rows, &batch.0))?,
            };
            let report = StepReport { epoch, batch: number, batches: batches.len(), loss: value };
            if observer.step(&report) == Control::Stop {
                return training.outcome(false);
            }
        }
        let dev = evaluate_cross_task(model, &data.dev, settings.batch_size, &device)?;
        training.end_epoch(dev, observer)?;
    }
    training.outcome(true)
}

/// One step on different videos; gives its loss.
fn step_apart(
    training: &mut TrainingLoop<'_>,
    loss: &MultiTaskLoss,
    model: &CrossTaskModel,
    (rows, batch): (&PairedRows, &(Vec<u32>, Vec<u32>)),
) -> Result<f64> {
    let device = training.device();
    let emotion = rows.emotion.batch(&batch.0, &device)?;
    let traits = rows.personality.batch(&batch.1, &device)?;
    let mut step = || {
        let output = training.with_dropout(|mode| {
            let emotion = (&emotion.features, Some(&emotion.lengths));
            model.forward_pair(emotion, (&traits.features, Some(&traits.lengths)), mode)
        })?;
        let labels = emotion.labels.with_personality_of(&traits.labels);
        let (logits, scores) = (&output.emotion_logits, &output.personality_scores);
        let loss = loss.of_labelled(Some(logits), Some(scores), &labels)?;
        let value = training.backward_step(loss.as_ref(), batch.0.len())?;
        training.train_predictions.add(logits, scores, &labels)?;
        Ok(value)
    };
    step().map_err(doing(rows))
}

/// One step on videos that both branches see; gives its loss.
fn step_together(
    training: &mut TrainingLoop<'_>,
    loss: &MultiTaskLoss,
    model: &CrossTaskModel,
    (rows, batch): (&PairedRows, &[u32]),
) -> Result<f64> {
    let batch = rows.emotion.batch(batch, &training.device())?;
    let mut step = || {
        let lengths = Some(&batch.lengths);
        let output = training.with_dropout(|mode| model.forward(&batch.features, lengths, mode))?;
        let (logits, scores) = (&output.emotion_logits, &output.personality_scores);
        let loss = loss.of_labelled(Some(logits), Some(scores), &batch.labels)?;
        let value = training.backward_step(loss.as_ref(), batch.labels.has_emotion.len())?;
        training.train_predictions.add(logits, scores, &batch.labels)?;
        Ok(value)
    };
    step().map_err(doing(rows))
}

fn doing(rows: &PairedRows) -> impl FnOnce(candle::Error) -> Error {
    Error::doing(format!("training the {} model of both tasks", rows.emotion.modality()))
}

/// Scores a stage-2 model on each corpus of a split; both branches see the same video.
///
/// # Errors
/// When features cannot be read or do not fit the model.
pub fn evaluate_cross_task<S: Split>(
    model: &CrossTaskModel,
    corpora: &[Corpus<S, SequenceRows>],
    batch_size: usize,
    device: &Device,
) -> Result<Evaluation<S>> {
    evaluate_in_batches(corpora, batch_size, device, |predictions, batch| {
        let output = model.forward(&batch.features, Some(&batch.lengths), &mut Mode::Eval)?;
        predictions.add(&output.emotion_logits, &output.personality_scores, &batch.labels)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_corpus_begins_anew_and_the_shorter_batch_repeats_its_last_row() {
        let emotion = vec![vec![0, 1], vec![2, 3], vec![4, 5], vec![6]];
        let pass = |pass: usize| vec![vec![10 * pass as u32, 1], vec![2]];
        let expected = [
            (vec![0, 1], vec![0, 1]),
            (vec![2, 3], vec![2, 2]),
            (vec![4, 5], vec![10, 1]),
            (vec![6], vec![2]),
        ];
        assert_eq!(paired(emotion.clone(), pass), expected);
        let long = paired(vec![vec![7]], |_| vec![vec![1, 2, 3]]);
        assert_eq!(long, [(vec![7, 7, 7], vec![1, 2, 3])]);
        assert!(paired(emotion, |_| Vec::new()).is_empty());
    }
}
