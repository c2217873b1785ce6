//! Stage 3: the fusion model on vectors and predictions of all modalities, both tasks at once,
//! semi-supervised.

use std::collections::BTreeMap;

use candle::{Device, Tensor, Var};
use meptr_core::models::FusionModel;
use meptr_core::nn::Mode;
use meptr_core::rng::RandomStream;
use serde::{Deserialize, Serialize};

use crate::data::{Corpus, Dev, FusionRows, Order, Split, Train};
use crate::loss::semi_supervised::Wallets;
use crate::loss::{Objective, ObjectiveConfig};
use crate::optim::{Optimiser, OptimiserConfig, ScheduleConfig, Scheduler, clip_global_norm};
use crate::select::{
    BestOnDev, CorpusScores, DevScore, Evaluation, Predictions, SelectionMetric, Verdict,
};
use crate::{Error, Result};

/// Training of the fusion model; the defaults are those of the published run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FusionTraining {
    /// What is minimised.
    pub objective: ObjectiveConfig,
    /// Update rule.
    pub optimiser: OptimiserConfig,
    /// Learning rate, above 0.
    pub learning_rate: f64,
    /// How the learning rate moves.
    pub schedule: ScheduleConfig,
    /// Longest Euclidean norm of a gradient, above 0; none = as long as it is.
    pub max_gradient_norm: Option<f32>,
    /// Videos per step, both corpora together, at least 1.
    pub batch_size: usize,
    /// Most epochs, at least 1.
    pub max_epochs: usize,
    /// Stop after this many epochs without a better dev score.
    pub patience_epochs: usize,
    /// What the best epoch is best in.
    pub selection: SelectionMetric,
}

impl Default for FusionTraining {
    fn default() -> Self {
        Self {
            objective: ObjectiveConfig::default(),
            optimiser: OptimiserConfig::Adam { weight_decay: 1e-5 },
            learning_rate: 1e-4,
            schedule: ScheduleConfig::Plateau,
            max_gradient_norm: None,
            batch_size: 32,
            max_epochs: 100,
            patience_epochs: 15,
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

/// What there is to say about an epoch.
#[derive(Debug, Clone, Serialize)]
pub struct EpochReport {
    /// Number of the epoch, from 1.
    pub epoch: usize,
    /// Learning rate at its end, before a schedule by epochs moves it.
    pub learning_rate: f64,
    /// Mean of the steps' losses, each counted by its rows.
    pub loss: f64,
    /// Scores of the outputs while training, dropout and all.
    pub train: CorpusScores,
    /// Scores at its end.
    pub dev: Evaluation<Dev>,
    /// The number that decides.
    pub dev_score: DevScore,
    /// Weights of the objective's parts at its end.
    pub wallets: Wallets,
    /// Is it the best so far?
    pub is_best: bool,
}

/// What training gives.
#[derive(Debug, Clone)]
pub struct TrainedFusion {
    /// The best epoch, from 1, with its parameters; none when no dev score was a number.
    pub best: Option<(usize, BTreeMap<String, Tensor>)>,
    /// The epochs, in order.
    pub epochs: Vec<EpochReport>,
}

/// Trains a model in place until its dev score has stopped rising.
///
/// `parameters` are the variables that `model` was loaded from; they end as the last epoch left
/// them. `dropout` is the only randomness beside that of `order`. `on_epoch` hears of each epoch.
///
/// # Errors
/// [`Error::NothingToSelectBy`] when the dev split lacks the labels that the selection needs;
/// otherwise when the device fails or the data does not fit the model.
pub fn train_fusion(
    config: &FusionTraining,
    (model, parameters): (&FusionModel, BTreeMap<String, Var>),
    data: &FusionData,
    (order, dropout): (&Order, RandomStream),
    mut on_epoch: impl FnMut(&EpochReport) -> Result<()>,
) -> Result<TrainedFusion> {
    let rows = data.train.rows.len();
    let mut course = Course::new(config, parameters, order.batches_per_epoch(rows), dropout)
        .map_err(Error::doing("preparing the training of the fusion model"))?;
    let mut best = BestOnDev::new(config.patience_epochs);
    let mut trained = TrainedFusion { best: None, epochs: Vec::new() };
    for epoch in 1..=config.max_epochs {
        let mut seen = Predictions::default();
        let mut loss = 0.0;
        for batch in order.batches(epoch, rows) {
            let doing = || Error::doing(format!("training the fusion model, epoch {epoch}"));
            let batch = data.train.rows.select(&batch).map_err(doing())?;
            loss += course.step(config, model, &batch, &mut seen).map_err(doing())?;
        }
        let learning_rate = course.scheduler.rates().learning_rate;
        let dev = evaluate(model, &data.dev, config.batch_size)?;
        let dev_score = DevScore::of(&dev, config.selection)?;
        course.scheduler.after_epoch(dev_score);
        let verdict = best.observe(epoch, dev_score);
        if verdict == Verdict::Best {
            trained.best = Some((epoch, copy_of(course.optimiser.parameters())?));
        }
        let report = EpochReport {
            epoch,
            learning_rate,
            loss: loss / rows as f64,
            train: seen.scores(),
            dev,
            dev_score,
            wallets: course.objective.wallets().clone(),
            is_best: verdict == Verdict::Best,
        };
        on_epoch(&report)?;
        trained.epochs.push(report);
        if verdict == Verdict::Stop {
            break;
        }
    }
    Ok(trained)
}

/// Everything that changes from step to step.
struct Course {
    objective: Objective,
    optimiser: Optimiser,
    scheduler: Scheduler,
    mode: Mode,
}

impl Course {
    fn new(
        config: &FusionTraining,
        parameters: BTreeMap<String, Var>,
        batches_per_epoch: usize,
        dropout: RandomStream,
    ) -> candle::Result<Self> {
        let device =
            parameters.values().next().map_or(&Device::Cpu, |parameter| parameter.device());
        let objective = Objective::new(config.objective.clone(), device)?;
        let (rate, epochs) = (config.learning_rate, config.max_epochs);
        Ok(Self {
            objective,
            optimiser: Optimiser::new(config.optimiser, parameters),
            scheduler: Scheduler::new(config.schedule, rate, epochs, batches_per_epoch),
            mode: Mode::Train(dropout),
        })
    }

    /// One step; gives the loss, summed over the batch's rows, and keeps the outputs in `seen`.
    fn step(
        &mut self,
        config: &FusionTraining,
        model: &FusionModel,
        batch: &FusionRows,
        seen: &mut Predictions,
    ) -> candle::Result<f64> {
        let output = model.forward(&batch.input, &mut self.mode)?;
        let (logits, scores) = (&output.emotion_logits, &output.personality_scores);
        let parts = self.objective.components(logits, scores, &batch.labels)?;
        let balanced = self.objective.balance(&parts, self.optimiser.parameters())?;
        let gradients = match config.max_gradient_norm {
            Some(max_norm) => clip_global_norm(balanced.gradients, max_norm)?,
            None => balanced.gradients,
        };
        self.optimiser.step(&gradients, self.scheduler.rates())?;
        self.scheduler.after_batch();
        seen.add(logits, scores, &batch.labels)?;
        Ok(f64::from(balanced.total) * batch.len() as f64)
    }
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

fn copy_of(parameters: &BTreeMap<String, Var>) -> Result<BTreeMap<String, Tensor>> {
    let copy = |(name, parameter): (&String, &Var)| Ok((name.clone(), parameter.copy()?.detach()));
    let copies = parameters.iter().map(copy).collect::<candle::Result<_>>();
    copies.map_err(Error::doing("keeping the best weights"))
}
