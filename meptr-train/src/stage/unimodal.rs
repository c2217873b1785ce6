//! Stage 1: one modality, one task.

use candle::{Device, Tensor};
use meptr_core::models::{UnimodalConfig, UnimodalModel};
use meptr_core::nn::Mode;
use meptr_core::{Modality, Task};

use super::observer::{Control, Observer, StepReport};
use super::training_config::TrainingConfig;
use super::training_loop::{Outcome, TrainableModel, TrainingLoop, TrainingRun};
use crate::data::sequences::unlike;
use crate::data::{Corpus, Dev, Labels, SequenceBatch, SequenceRows, Split, Train};
use crate::loss::{FixedLossConfig, MultiTaskLoss};
use crate::metrics::EmotionMean;
use crate::select::{Evaluation, Predictions, Selection, SelectionMetric};
use crate::{Error, Result};

/// Training of a stage-1 model.
#[derive(Debug, Clone, PartialEq)]
pub struct UnimodalTraining {
    /// Task that the model predicts.
    pub task: Task,
    /// Training loss; of its two parts, that of the task.
    pub loss: FixedLossConfig,
    /// Settings of the training loop.
    pub training: TrainingConfig,
    /// Emotions that the means are over which the best epoch is best in.
    pub selection_mean: EmotionMean,
}

/// Train and dev data of stage 1; there is no place for a test split.
#[derive(Debug, Clone)]
pub struct UnimodalData {
    /// Videos with labels of the task, of all corpora together.
    pub train: Corpus<Train, SequenceRows>,
    /// Each corpus by itself.
    pub dev: Vec<Corpus<Dev, SequenceRows>>,
}

impl UnimodalData {
    /// Everything that keeps a model from being trained on the data, the numbers themselves aside:
    /// see [`SequenceRows::damaged`] for these.
    pub fn problems(&self, config: &UnimodalConfig, task: Task) -> Vec<String> {
        let width = config.input_width();
        let mut problems = self.train.rows.problems(Train::NAME, width, &[task]);
        problems.extend(dev_problems(&self.dev, width, &[task]));
        let dev = self.dev.iter().flat_map(|corpus| corpus.rows.sources());
        problems.extend(unlike(&self.train.rows.sources().iter().chain(dev).collect::<Vec<_>>()));
        problems
    }
}

/// Problems of a dev split, which needs rows in one of its corpora only.
pub(super) fn dev_problems(
    corpora: &[Corpus<Dev, SequenceRows>],
    width: usize,
    tasks: &[Task],
) -> Vec<String> {
    let is_empty = corpora.iter().all(|corpus| corpus.rows.is_empty());
    let checked = corpora.iter().filter(|corpus| is_empty || !corpus.rows.is_empty());
    let mut problems: Vec<String> = checked
        .flat_map(|corpus| {
            corpus.rows.problems(&format!("{} {}", corpus.name, Dev::NAME), width, tasks)
        })
        .collect();
    if corpora.is_empty() {
        problems.push("there is no dev split to select by".to_owned());
    }
    problems
}

/// Score that chooses the best epoch of a stage-1 model.
pub(super) fn selection(task: Task) -> SelectionMetric {
    match task {
        Task::Emotion => SelectionMetric::MeanEmotion,
        Task::Personality => SelectionMetric::MeanPersonality,
    }
}

/// Trains a model in place until its dev score has stopped rising: the mean of mUAR and mF1, or of
/// mACC and CCC.
///
/// Beside the dropout masks, the sampler is the only randomness. Sequences are padded to the longest
/// of their batch, and padding takes part in nothing (the reference counts padded frames as real ones; a single clip is the same to both).
///
/// # Errors
/// [`Error::NothingToSelectBy`] when the dev split lacks labels of the task; otherwise when features
/// cannot be read, the device fails, data or state do not fit the model, or the observer does.
pub fn train_unimodal(
    config: &UnimodalTraining,
    trainee: TrainableModel<'_, UnimodalModel>,
    data: &UnimodalData,
    run: TrainingRun<'_>,
    observer: &mut (impl Observer + ?Sized),
) -> Result<Outcome> {
    let TrainableModel { model, parameters } = trainee;
    let TrainingRun { sampler, start } = run;
    let UnimodalTraining { task, training: settings, selection_mean, .. } = config;
    let selection = Selection { metric: selection(*task), mean: *selection_mean };
    let rows = &data.train.rows;
    let doing = |epoch: usize| format!("training the {} model, epoch {epoch}", rows.modality());
    let steps = sampler.batches_per_epoch(rows.len());
    let mut training = TrainingLoop::begin(settings, selection, parameters, steps, start)?;
    let device = training.device();
    let loss = config.loss.on(rows, &device)?;
    while let Some(epoch) = training.next_epoch() {
        let batches = sampler.batches(epoch, rows.len());
        for (number, batch) in (1..).zip(&batches).skip(training.progress.batches) {
            let batch = rows.batch(batch, &device)?;
            let loss = step(&mut training, &loss, (model, *task), &batch)
                .map_err(Error::doing(doing(epoch)))?;
            let report = StepReport { epoch, batch: number, batches: batches.len(), loss };
            if observer.step(&report) == Control::Stop {
                return training.outcome(false);
            }
        }
        let dev = evaluate_unimodal((model, *task), &data.dev, settings.batch_size, &device)?;
        training.end_epoch(dev, observer)?;
    }
    training.outcome(true)
}

/// One step; gives its loss.
fn step(
    training: &mut TrainingLoop<'_>,
    loss: &MultiTaskLoss,
    (model, task): (&UnimodalModel, Task),
    SequenceBatch { features, lengths, labels }: &SequenceBatch,
) -> candle::Result<f64> {
    let output = training.with_dropout(|mode| model.forward(features, Some(lengths), mode))?;
    let found = &output.prediction;
    let loss = match task {
        Task::Emotion => loss.of_labelled(Some(found), None, labels)?,
        Task::Personality => loss.of_labelled(None, Some(found), labels)?,
    };
    let value = training.backward_step(loss.as_ref(), features.dim(0)?)?;
    add(&mut training.train_predictions, task, found, labels)?;
    Ok(value)
}

fn add(
    predictions: &mut Predictions,
    task: Task,
    found: &Tensor,
    labels: &Labels,
) -> candle::Result<()> {
    match task {
        Task::Emotion => predictions.add_emotion(found, &labels.emotion),
        Task::Personality => predictions.add_personality(found, &labels.personality),
    }
}

/// Scores a stage-1 model on each corpus of a split.
///
/// # Errors
/// When features cannot be read or do not fit the model.
pub fn evaluate_unimodal<S: Split>(
    (model, task): (&UnimodalModel, Task),
    corpora: &[Corpus<S, SequenceRows>],
    batch_size: usize,
    device: &Device,
) -> Result<Evaluation<S>> {
    evaluate_in_batches(corpora, batch_size, device, |predictions, batch| {
        let lengths = Some(&batch.lengths);
        let output = model.forward(&batch.features, lengths, &mut Mode::Eval)?;
        add(predictions, task, &output.prediction, &batch.labels)
    })
}

/// Runs a model over every corpus of a split.
pub(super) fn evaluate_in_batches<S: Split>(
    corpora: &[Corpus<S, SequenceRows>],
    batch_size: usize,
    device: &Device,
    run: impl Fn(&mut Predictions, &SequenceBatch) -> candle::Result<()>,
) -> Result<Evaluation<S>> {
    let scores_of = |corpus: &Corpus<S, SequenceRows>| {
        let modality: Modality = corpus.rows.modality();
        let mut predictions = Predictions::default();
        let rows: Vec<u32> = (0u32..).take(corpus.rows.len()).collect();
        for batch in rows.chunks(batch_size.max(1)) {
            let batch = corpus.rows.batch(batch, device)?;
            let what = format!("scoring the {modality} model on the {} split", S::NAME);
            run(&mut predictions, &batch).map_err(Error::doing(what))?;
        }
        Ok((corpus.name.clone(), predictions.scores()))
    };
    Ok(Evaluation::new(corpora.iter().map(scores_of).collect::<Result<_>>()?))
}
