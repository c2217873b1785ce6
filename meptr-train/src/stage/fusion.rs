//! Stage 3: the fusion model on vectors and predictions of all modalities, both tasks at once.

use candle::Tensor;
use meptr_core::models::{FusionInput, FusionModel, SingleTaskModel};
use meptr_core::nn::Mode;
use meptr_core::{PerModality, Task};

use super::observer::{Control, Observer, StepReport};
use super::training_config::TrainingConfig;
use super::training_loop::{Outcome, TrainableModel, TrainingLoop, TrainingRun};
use crate::data::{Corpus, Dev, FusionRows, Split, Train};
use crate::loss::{Objective, ObjectiveConfig};
use crate::metrics::EmotionMean;
use crate::optim::OptimiserConfig;
use crate::select::{Evaluation, Predictions, Selection, SelectionMetric};
use crate::{Error, Result};

/// Training of the fusion model; the defaults are those of the published run.
#[derive(Debug, Clone, PartialEq)]
pub struct FusionTraining {
    /// Training loss.
    pub objective: ObjectiveConfig,
    /// Settings of the training loop.
    pub training: TrainingConfig,
    /// Score that chooses the best epoch.
    pub selection: Selection,
}

/// L2 decay of the published run.
pub(super) const WEIGHT_DECAY: f64 = 1e-5;

impl Default for FusionTraining {
    fn default() -> Self {
        Self {
            objective: ObjectiveConfig::default(),
            training: TrainingConfig {
                optimiser: OptimiserConfig::Adam { weight_decay: WEIGHT_DECAY },
                batch_size: 32,
                patience_epochs: 15,
                ..TrainingConfig::default()
            },
            selection: Selection {
                metric: SelectionMetric::Combined,
                mean: EmotionMean::default(),
            },
        }
    }
}

/// Train and dev data of stage 3; there is no place for a test split.
#[derive(Debug, Clone)]
pub struct FusionData {
    /// The union of the corpora.
    pub train: Corpus<Train, FusionRows>,
    /// Each corpus by itself.
    pub dev: Vec<Corpus<Dev, FusionRows>>,
}

impl FusionData {
    /// Everything that keeps a model of these input widths from being trained on the data.
    pub fn problems(&self, input_dims: &PerModality<usize>, tasks: &[Task]) -> Vec<String> {
        let mut problems = self.train.rows.problems(Train::NAME, input_dims);
        for task in tasks {
            let lacks = |rows: &FusionRows| !rows.has_labels(*task);
            let name = task.name();
            if lacks(&self.train.rows) {
                problems.push(format!("{}: no video has {name} labels", Train::NAME));
            }
            if self.dev.iter().all(|corpus| lacks(&corpus.rows)) {
                problems.push(format!("{}: no video has {name} labels", Dev::NAME));
            }
        }
        for corpus in &self.dev {
            let place = format!("{} {}", corpus.name, Dev::NAME);
            problems.extend(corpus.rows.problems(&place, input_dims));
        }
        problems
    }
}

impl FusionData {
    /// Maps the rows of each corpus by `of`.
    ///
    /// # Errors
    /// The first of `of`.
    pub fn try_map(
        &self,
        of: impl Fn(&FusionRows) -> candle::Result<FusionRows>,
    ) -> candle::Result<Self> {
        let dev = self.dev.iter().map(|one| Ok(Corpus::new(one.name.clone(), of(&one.rows)?)));
        Ok(Self {
            train: Corpus::new(self.train.name.clone(), of(&self.train.rows)?),
            dev: dev.collect::<candle::Result<_>>()?,
        })
    }

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

/// A model of stage 3: of both tasks, or of one.
pub trait FusesModalities {
    /// Fuses a batch.
    ///
    /// - returns emotion logits `(rows, 7)` and trait scores `(rows, 5)`, f32, of the tasks that
    ///   the model has
    ///
    /// # Errors
    /// When the input does not fit the model.
    fn predict(
        &self,
        input: &FusionInput,
        mode: &mut Mode,
    ) -> candle::Result<(Option<Tensor>, Option<Tensor>)>;
}

impl FusesModalities for FusionModel {
    fn predict(
        &self,
        input: &FusionInput,
        mode: &mut Mode,
    ) -> candle::Result<(Option<Tensor>, Option<Tensor>)> {
        let output = self.forward(input, mode)?;
        Ok((Some(output.emotion_logits), Some(output.personality_scores)))
    }
}

impl FusesModalities for SingleTaskModel {
    fn predict(
        &self,
        input: &FusionInput,
        mode: &mut Mode,
    ) -> candle::Result<(Option<Tensor>, Option<Tensor>)> {
        let answer = Some(self.forward(input, mode)?);
        Ok(match self.task() {
            Task::Emotion => (answer, None),
            Task::Personality => (None, answer),
        })
    }
}

/// Trains a model in place until its dev score has stopped rising.
///
/// Beside the dropout masks, the sampler is the only randomness.
///
/// # Errors
/// [`Error::NothingToSelectBy`] when the dev split lacks the labels that the selection needs;
/// otherwise when the device fails, data or state do not fit the model, or the observer does.
pub fn train_fusion(
    config: &FusionTraining,
    trainee: TrainableModel<'_, impl FusesModalities>,
    data: &FusionData,
    run: TrainingRun<'_>,
    observer: &mut (impl Observer + ?Sized),
) -> Result<Outcome> {
    let TrainableModel { model, parameters } = trainee;
    let TrainingRun { sampler, start } = run;
    data.ensure_selects(config.selection.metric)?;
    let rows = &data.train.rows;
    let steps = sampler.batches_per_epoch(rows.len());
    let mut training =
        TrainingLoop::begin(&config.training, config.selection, parameters, steps, start)?;
    let mut objective = Objective::new(&config.objective, &training.device())
        .map_err(Error::doing("preparing the objective"))?
        .resumed(training.progress.grad_norm.clone());
    while let Some(epoch) = training.next_epoch() {
        let batches = sampler.batches(epoch, rows.len());
        for (number, batch) in (1..).zip(&batches).skip(training.progress.batches) {
            let loss = rows
                .select(batch)
                .and_then(|batch| step(&mut training, &mut objective, model, &batch))
                .map_err(Error::doing(format!("training the fusion model, epoch {epoch}")))?;
            let report = StepReport { epoch, batch: number, batches: batches.len(), loss };
            if observer.step(&report) == Control::Stop {
                return training.outcome(false);
            }
        }
        let dev = evaluate(model, &data.dev, config.training.batch_size)?;
        training.end_epoch(dev, observer)?;
    }
    training.outcome(true)
}

/// One step; gives its loss, NaN when the batch has no part of the objective.
fn step(
    training: &mut TrainingLoop<'_>,
    objective: &mut Objective,
    model: &impl FusesModalities,
    batch: &FusionRows,
) -> candle::Result<f64> {
    let (logits, scores) = training.with_dropout(|mode| model.predict(&batch.input, mode))?;
    let parts = objective.components_of(logits.as_ref(), scores.as_ref(), &batch.labels)?;
    let balanced = objective.balance(&parts, training.parameters(), training.tape())?;
    training.progress.grad_norm = objective.grad_norm().cloned();
    add_predictions(&mut training.train_predictions, (logits, scores), batch)?;
    if balanced.losses.is_empty() {
        training.skip();
        return Ok(f64::NAN);
    }
    let loss = f64::from(balanced.total);
    training.step(balanced.gradients, loss, batch.len())?;
    Ok(loss)
}

/// Adds the outputs of a batch to the predictions.
fn add_predictions(
    predictions: &mut Predictions,
    (logits, scores): (Option<Tensor>, Option<Tensor>),
    batch: &FusionRows,
) -> candle::Result<()> {
    if let Some(logits) = logits {
        predictions.add_emotion(&logits, &batch.labels.emotion)?;
    }
    if let Some(scores) = scores {
        predictions.add_personality(&scores, &batch.labels.personality)?;
    }
    Ok(())
}

/// Scores a model on each corpus of a split.
///
/// # Errors
/// When the data does not fit the model.
pub fn evaluate<S: Split>(
    model: &impl FusesModalities,
    corpora: &[Corpus<S, FusionRows>],
    batch_size: usize,
) -> Result<Evaluation<S>> {
    let scores_of = |corpus: &Corpus<S, FusionRows>| -> candle::Result<_> {
        let mut predictions = Predictions::default();
        let rows: Vec<u32> = (0u32..).take(corpus.rows.len()).collect();
        for batch in rows.chunks(batch_size.max(1)) {
            let batch = corpus.rows.select(batch)?;
            let outputs = model.predict(&batch.input, &mut Mode::Eval)?;
            add_predictions(&mut predictions, outputs, &batch)?;
        }
        Ok((corpus.name.clone(), predictions.scores()))
    };
    let doing = || Error::doing(format!("scoring the fusion model on the {} split", S::NAME));
    let scores = corpora.iter().map(|corpus| scores_of(corpus).map_err(doing()));
    Ok(Evaluation::new(scores.collect::<Result<_>>()?))
}
