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

/// Everything needed to go on after an epoch, or to use the best one.
#[derive(Debug, Clone)]
pub struct FusionState {
    /// The numbers.
    pub progress: Progress,
    /// Parameters as the last epoch left them.
    pub parameters: BTreeMap<String, Tensor>,
    /// Parameters of the best epoch; empty when no dev score was a number.
    pub best_parameters: BTreeMap<String, Tensor>,
    /// See [`Optimiser::state_tensors`].
    pub optimiser: BTreeMap<String, Tensor>,
}

/// The part of a [`FusionState`] that is no tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs done.
    pub epochs: usize,
    /// Weights of the objective's parts.
    pub wallets: Wallets,
    /// Place in the schedule.
    pub scheduler: Scheduler,
    /// The best epoch, and how long ago it was.
    pub best: BestOnDev,
    /// Where the next dropout masks come from.
    pub dropout: RandomStream,
}

/// Where a training starts.
#[derive(Debug)]
pub enum Start {
    /// At the first epoch, with this stream of dropout masks.
    Fresh(RandomStream),
    /// After the epochs of an earlier run, which the whole then equals bit for bit.
    After(Box<FusionState>),
}

/// Trains a model in place until its dev score has stopped rising.
///
/// `parameters` are the variables that `model` was loaded from. Beside the dropout masks, `order` is
/// the only randomness. `on_epoch` gets each epoch's report and state, to log and to save them; the
/// last state is returned.
///
/// # Errors
/// [`Error::NothingToSelectBy`] when the dev split lacks the labels that the selection needs;
/// otherwise when the device fails or data or state do not fit the model.
pub fn train_fusion(
    config: &FusionTraining,
    (model, parameters): (&FusionModel, BTreeMap<String, Var>),
    data: &FusionData,
    (order, start): (&Order, Start),
    mut on_epoch: impl FnMut(&EpochReport, &FusionState) -> Result<()>,
) -> Result<FusionState> {
    let rows = data.train.rows.len();
    let doing = || Error::doing("preparing the training of the fusion model");
    let mut course = match start {
        Start::Fresh(dropout) => {
            Course::fresh(config, parameters, order.batches_per_epoch(rows), dropout)
        }
        Start::After(state) => Course::after(config, parameters, *state),
    }
    .map_err(doing())?;
    while course.epochs < config.max_epochs && !course.best.is_over() {
        let epoch = course.epochs + 1;
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
        let is_best = course.end_epoch(dev_score)?;
        let report = EpochReport {
            epoch,
            learning_rate,
            loss: loss / rows as f64,
            train: seen.scores(),
            dev,
            dev_score,
            wallets: course.objective.wallets().clone(),
            is_best,
        };
        on_epoch(&report, &course.state()?)?;
    }
    course.state()
}

/// Everything that changes in the course of a training.
struct Course {
    epochs: usize,
    objective: Objective,
    optimiser: Optimiser,
    scheduler: Scheduler,
    best: BestOnDev,
    best_parameters: BTreeMap<String, Tensor>,
    dropout: RandomStream,
}

impl Course {
    fn fresh(
        config: &FusionTraining,
        parameters: BTreeMap<String, Var>,
        batches_per_epoch: usize,
        dropout: RandomStream,
    ) -> candle::Result<Self> {
        let (rate, epochs) = (config.learning_rate, config.max_epochs);
        Ok(Self {
            epochs: 0,
            objective: Objective::new(config.objective.clone(), device_of(&parameters))?,
            optimiser: Optimiser::new(config.optimiser, parameters),
            scheduler: Scheduler::new(config.schedule, rate, epochs, batches_per_epoch),
            best: BestOnDev::new(config.patience_epochs),
            best_parameters: BTreeMap::new(),
            dropout,
        })
    }

    fn after(
        config: &FusionTraining,
        parameters: BTreeMap<String, Var>,
        state: FusionState,
    ) -> candle::Result<Self> {
        let Progress { epochs, wallets, scheduler, best, dropout } = state.progress;
        if !parameters.keys().eq(state.parameters.keys()) {
            candle::bail!("the state is that of another model");
        }
        for (name, parameter) in &parameters {
            parameter.set(&state.parameters[name].to_device(parameter.device())?)?;
        }
        let device = device_of(&parameters).clone();
        let mut optimiser = Optimiser::new(config.optimiser, parameters);
        optimiser.restore(&state.optimiser)?;
        let objective = Objective::resume(config.objective.clone(), wallets, &device)?;
        let best_parameters = state.best_parameters;
        Ok(Self { epochs, objective, optimiser, scheduler, best, best_parameters, dropout })
    }

    fn state(&self) -> Result<FusionState> {
        let doing = || Error::doing("keeping the state of the training");
        Ok(FusionState {
            progress: Progress {
                epochs: self.epochs,
                wallets: self.objective.wallets().clone(),
                scheduler: self.scheduler.clone(),
                best: self.best.clone(),
                dropout: self.dropout.clone(),
            },
            parameters: copy_of(self.optimiser.parameters())?,
            best_parameters: self.best_parameters.clone(),
            optimiser: self.optimiser.state_tensors().map_err(doing())?,
        })
    }

    /// Says whether the epoch was the best so far.
    fn end_epoch(&mut self, dev_score: DevScore) -> Result<bool> {
        self.epochs += 1;
        self.scheduler.after_epoch(dev_score);
        let is_best = self.best.observe(self.epochs, dev_score) == Verdict::Best;
        if is_best {
            self.best_parameters = copy_of(self.optimiser.parameters())?;
        }
        Ok(is_best)
    }

    /// One step; gives the loss, summed over the batch's rows, and keeps the outputs in `seen`.
    fn step(
        &mut self,
        config: &FusionTraining,
        model: &FusionModel,
        batch: &FusionRows,
        seen: &mut Predictions,
    ) -> candle::Result<f64> {
        let mut mode = Mode::Train(self.dropout.clone());
        let output = model.forward(&batch.input, &mut mode)?;
        if let Mode::Train(dropout) = mode {
            self.dropout = dropout;
        }
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

fn device_of(parameters: &BTreeMap<String, Var>) -> &Device {
    parameters.values().next().map_or(&Device::Cpu, |parameter| parameter.device())
}

fn copy_of(parameters: &BTreeMap<String, Var>) -> Result<BTreeMap<String, Tensor>> {
    let copy = |(name, parameter): (&String, &Var)| Ok((name.clone(), parameter.copy()?.detach()));
    let copies = parameters.iter().map(copy).collect::<candle::Result<_>>();
    copies.map_err(Error::doing("copying the parameters"))
}
