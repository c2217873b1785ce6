//! Stage 3: the fusion model on vectors and predictions of all modalities, both tasks at once,
//! semi-supervised.

use std::collections::BTreeMap;

use candle::Var;
use meptr_core::models::FusionModel;
use meptr_core::nn::Mode;
use serde::{Deserialize, Serialize};

use super::course::{Control, Course, CourseConfig, Observer, Outcome, Start, StepReport};
use crate::data::{Corpus, Dev, FusionRows, Order, Split, Train};
use crate::loss::{Objective, ObjectiveConfig};
use crate::optim::OptimiserConfig;
use crate::select::{Evaluation, Predictions, SelectionMetric};
use crate::{Error, Result};

/// Training of the fusion model; the defaults are those of the published run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FusionTraining {
    /// What is minimised.
    pub objective: ObjectiveConfig,
    /// How long and how fast.
    pub course: CourseConfig,
    /// What the best epoch is best in.
    pub selection: SelectionMetric,
}

impl Default for FusionTraining {
    fn default() -> Self {
        Self {
            objective: ObjectiveConfig::default(),
            course: CourseConfig {
                optimiser: OptimiserConfig::Adam { weight_decay: 1e-5 },
                batch_size: 32,
                patience_epochs: 15,
                ..CourseConfig::default()
            },
            selection: SelectionMetric::Combined,
        }
    }
}

/// What stage 3 is trained on and chosen by; there is no place for a test split.
#[derive(Debug, Clone)]
pub struct FusionData {
    /// The union of the corpora.
    pub train: Corpus<Train, FusionRows>,
    /// Each corpus by itself.
    pub dev: Vec<Corpus<Dev, FusionRows>>,
}

/// Trains a model in place until its dev score has stopped rising.
///
/// `parameters` are the variables that `model` was loaded from. Beside the dropout masks, `order` is
/// the only randomness.
///
/// # Errors
/// [`Error::NothingToSelectBy`] when the dev split lacks the labels that the selection needs;
/// otherwise when the device fails, data or state do not fit the model, or the observer does.
pub fn train_fusion(
    config: &FusionTraining,
    (model, parameters): (&FusionModel, BTreeMap<String, Var>),
    data: &FusionData,
    (order, start): (&Order, Start),
    observer: &mut impl Observer,
) -> Result<Outcome> {
    let rows = &data.train.rows;
    let steps = order.batches_per_epoch(rows.len());
    let mut course = Course::begin(&config.course, config.selection, parameters, steps, start)?;
    let mut objective = match course.progress.wallets.clone() {
        None => Objective::new(config.objective.clone(), &course.device()),
        Some(wallets) => Objective::resume(config.objective.clone(), wallets, &course.device()),
    }
    .map_err(Error::doing("preparing the objective"))?;
    while let Some(epoch) = course.next_epoch() {
        let batches = order.batches(epoch, rows.len());
        for (number, batch) in (1..).zip(&batches).skip(course.progress.batches) {
            let loss = rows
                .select(batch)
                .and_then(|batch| step(&mut course, &mut objective, model, &batch))
                .map_err(Error::doing(format!("training the fusion model, epoch {epoch}")))?;
            let report = StepReport { epoch, batch: number, batches: batches.len(), loss };
            if observer.step(&report) == Control::Stop {
                return course.outcome(false);
            }
        }
        let dev = evaluate(model, &data.dev, config.course.batch_size)?;
        course.end_epoch(dev, observer)?;
    }
    course.outcome(true)
}

/// One step; gives its loss.
fn step(
    course: &mut Course<'_>,
    objective: &mut Objective,
    model: &FusionModel,
    batch: &FusionRows,
) -> candle::Result<f64> {
    let output = course.with_dropout(|mode| model.forward(&batch.input, mode))?;
    let (logits, scores) = (&output.emotion_logits, &output.personality_scores);
    let parts = objective.components(logits, scores, &batch.labels)?;
    let balanced = objective.balance(&parts, course.parameters())?;
    let loss = f64::from(balanced.total);
    course.step(balanced.gradients, loss, batch.len())?;
    course.progress.wallets = Some(objective.wallets().clone());
    course.seen.add(logits, scores, &batch.labels)?;
    Ok(loss)
}

/// Scores a model on each corpus of a split.
///
/// # Errors
/// When the data does not fit the model.
pub fn evaluate<S: Split>(
    model: &FusionModel,
    corpora: &[Corpus<S, FusionRows>],
    batch_size: usize,
) -> Result<Evaluation<S>> {
    let scores_of = |corpus: &Corpus<S, FusionRows>| -> candle::Result<_> {
        let mut predictions = Predictions::default();
        let rows: Vec<u32> = (0u32..).take(corpus.rows.len()).collect();
        for batch in rows.chunks(batch_size.max(1)) {
            let batch = corpus.rows.select(batch)?;
            let output = model.forward(&batch.input, &mut Mode::Eval)?;
            predictions.add(&output.emotion_logits, &output.personality_scores, &batch.labels)?;
        }
        Ok((corpus.name.clone(), predictions.scores()))
    };
    let doing = || Error::doing(format!("scoring the fusion model on the {} split", S::NAME));
    let scores = corpora.iter().map(|corpus| scores_of(corpus).map_err(doing()));
    Ok(Evaluation::new(scores.collect::<Result<_>>()?))
}
