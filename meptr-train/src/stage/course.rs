//! What the trainings of all stages share: how long and how fast, where a training stands, who
//! watches it, and how it goes on after any step as if it had never stopped.

use std::collections::BTreeMap;
use std::time::Instant;

use candle::{Device, Tensor, Var};
use meptr_core::nn::{GradientTape, Mode};
use meptr_core::rng::RandomStream;
use serde::{Deserialize, Deserializer, Serialize};

use super::state::TrainingState;
use crate::data::Dev;
use crate::loss::GradNormState;
use crate::loss::Gradients;
use crate::loss::factored_gradients::{gradients_on, sum_of};
use crate::optim::{Optimiser, OptimiserConfig, ScheduleConfig, Scheduler, clip_global_norm};
use crate::select::{
    BestOnDev, CorpusScores, DevScore, Evaluation, Predictions, Selection, Verdict,
};
use crate::settings::{by_name, by_name_if_any};
use crate::{Error, Result};

/// How long and how fast a model trains; the defaults are those of the published stages 1 and 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CourseConfig {
    /// Update rule.
    #[serde(deserialize_with = "by_name")]
    pub optimiser: OptimiserConfig,
    /// Learning rate, above 0.
    pub learning_rate: f64,
    /// How the learning rate moves.
    #[serde(deserialize_with = "by_name")]
    pub schedule: ScheduleConfig,
    /// Longest Euclidean norm of a gradient, above 0; none = as long as it is.
    pub max_gradient_norm: Option<f32>,
    /// Videos per step, at least 1.
    pub batch_size: usize,
    /// Most epochs, at least 1.
    pub max_epochs: usize,
    /// Stop after this many epochs without a better dev score, at least 1.
    pub patience_epochs: usize,
}

impl Default for CourseConfig {
    fn default() -> Self {
        Self {
            optimiser: OptimiserConfig::Adam { weight_decay: 0.0 },
            learning_rate: 1e-4,
            schedule: ScheduleConfig::Plateau,
            max_gradient_norm: None,
            batch_size: 64,
            max_epochs: 100,
            patience_epochs: 25,
        }
    }
}

impl CourseConfig {
    /// Everything that makes no sense; `place` is where the settings stand in their file.
    pub fn problems(&self, place: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |is_right: bool, key: &str, what: &str| {
            if !is_right {
                problems.push(format!("`{place}.{key}` must be {what}"));
            }
        };
        let is_above_0 = |value: f64| value > 0.0 && value.is_finite();
        require(is_above_0(self.learning_rate), "learning_rate", "above 0");
        let norm = self.max_gradient_norm.is_none_or(|norm| is_above_0(norm.into()));
        require(norm, "max_gradient_norm", "above 0");
        require(self.batch_size > 0, "batch_size", "at least 1");
        require(self.max_epochs > 0, "max_epochs", "at least 1");
        require(self.patience_epochs > 0, "patience_epochs", "at least 1");
        if let ScheduleConfig::WarmUp { ratio, .. } = self.schedule {
            require((0.0..=1.0).contains(&ratio), "schedule.ratio", "in 0 to 1");
        }
        problems.extend(self.optimiser.problems(&format!("{place}.optimiser")));
        problems
    }
}

/// Settings of a course that differ from others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // as in `CourseConfig`
pub struct CourseChange {
    #[serde(deserialize_with = "by_name_if_any")]
    pub optimiser: Option<OptimiserConfig>,
    pub learning_rate: Option<f64>,
    #[serde(deserialize_with = "by_name_if_any")]
    pub schedule: Option<ScheduleConfig>,
    pub max_gradient_norm: Option<f32>,
    pub batch_size: Option<usize>,
    pub max_epochs: Option<usize>,
    pub patience_epochs: Option<usize>,
}

impl CourseChange {
    /// Other settings with these changes.
    pub fn of(&self, other: &CourseConfig) -> CourseConfig {
        CourseConfig {
            optimiser: self.optimiser.unwrap_or(other.optimiser),
            learning_rate: self.learning_rate.unwrap_or(other.learning_rate),
            schedule: self.schedule.unwrap_or(other.schedule),
            max_gradient_norm: self.max_gradient_norm.or(other.max_gradient_norm),
            batch_size: self.batch_size.unwrap_or(other.batch_size),
            max_epochs: self.max_epochs.unwrap_or(other.max_epochs),
            patience_epochs: self.patience_epochs.unwrap_or(other.patience_epochs),
        }
    }
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
    /// GradNorm's weights at its end; only stage 3 with the published objective has them.
    pub grad_norm: Option<GradNormState>,
    /// Is it the best so far?
    pub is_best: bool,
    /// Seconds it took, with scoring; of an epoch that was resumed, those since then.
    pub seconds: f64,
}

/// What there is to say about a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepReport {
    /// Number of the epoch, from 1.
    pub epoch: usize,
    /// Number of the step in the epoch, from 1.
    pub batch: usize,
    /// Steps of an epoch.
    pub batches: usize,
    /// Loss of the step.
    pub loss: f64,
}

/// Whether a training goes on after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// It does.
    Continue,
    /// It ends here, to be resumed from the state it returns.
    Stop,
}

/// Watches a training: logs, saves, shows progress, ends it.
///
/// A closure over `(&EpochReport, &TrainingState)` is one that hears of epochs alone.
pub trait Observer {
    /// After each step.
    fn step(&mut self, _step: &StepReport) -> Control {
        Control::Continue
    }

    /// After each epoch, with everything needed to go on from there.
    ///
    /// # Errors
    /// Any error ends the training.
    fn epoch(&mut self, report: &EpochReport, state: &TrainingState) -> Result<()>;
}

impl<F: FnMut(&EpochReport, &TrainingState) -> Result<()>> Observer for F {
    fn epoch(&mut self, report: &EpochReport, state: &TrainingState) -> Result<()> {
        self(report, state)
    }
}

/// Where a training starts.
#[derive(Debug)]
pub enum Start {
    /// At the first epoch, with this stream of dropout masks.
    Fresh(RandomStream),
    /// After the steps of an earlier run, which the whole then equals bit for bit.
    After(Box<TrainingState>),
}

/// How a training ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Where it stands.
    pub state: TrainingState,
    /// Has it come to its end, or was it stopped?
    pub is_finished: bool,
}

/// The part of a [`TrainingState`] that is no tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs done.
    pub epochs: usize,
    /// Steps done in the epoch after these.
    pub batches: usize,
    /// Sum of the losses of these steps, each times its rows.
    #[serde(deserialize_with = "number_or_nan")]
    pub loss_sum: f64,
    /// Rows of these steps.
    pub rows: usize,
    /// GradNorm's weights; only stage 3 with the published objective has them.
    pub grad_norm: Option<GradNormState>,
    /// Place in the schedule.
    pub scheduler: Scheduler,
    /// The best epoch, and how long ago it was.
    pub best: BestOnDev,
    /// Where the next dropout masks come from.
    pub dropout: RandomStream,
}

/// JSON has no NaN; it is written as null.
fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// A training under way; each stage's function drives one.
pub(super) struct Course<'a> {
    config: &'a CourseConfig,
    selection: Selection,
    pub(super) progress: Progress,
    pub(super) seen: Predictions,
    optimiser: Optimiser,
    tape: GradientTape,
    best_parameters: BTreeMap<String, Tensor>,
    clock: Instant,
}

impl<'a> Course<'a> {
    pub(super) fn begin(
        config: &'a CourseConfig,
        selection: Selection,
        parameters: BTreeMap<String, Var>,
        batches_per_epoch: usize,
        start: Start,
    ) -> Result<Self> {
        if batches_per_epoch == 0 {
            let problems = vec!["there is no video to train on".to_owned()];
            return Err(Error::UnfitData { problems });
        }
        let begin = || match start {
            Start::Fresh(dropout) => {
                let (rate, epochs) = (config.learning_rate, config.max_epochs);
                Ok(Self {
                    config,
                    selection,
                    progress: Progress {
                        epochs: 0,
                        batches: 0,
                        loss_sum: 0.0,
                        rows: 0,
                        grad_norm: None,
                        scheduler: Scheduler::new(config.schedule, rate, epochs, batches_per_epoch),
                        best: BestOnDev::new(config.patience_epochs),
                        dropout,
                    },
                    seen: Predictions::default(),
                    optimiser: Optimiser::new(config.optimiser, parameters),
                    tape: GradientTape::default(),
                    best_parameters: BTreeMap::new(),
                    clock: Instant::now(),
                })
            }
            Start::After(state) => Self::after(config, selection, parameters, *state),
        };
        begin().map_err(Error::doing("preparing the training"))
    }

    fn after(
        config: &'a CourseConfig,
        selection: Selection,
        parameters: BTreeMap<String, Var>,
        state: TrainingState,
    ) -> candle::Result<Self> {
        if !parameters.keys().eq(state.parameters.keys()) {
            candle::bail!("the state is that of another model");
        }
        for (name, parameter) in &parameters {
            parameter.set(&state.parameters[name].to_device(parameter.device())?)?;
        }
        let mut optimiser = Optimiser::new(config.optimiser, parameters);
        optimiser.restore(&state.optimiser)?;
        Ok(Self {
            config,
            selection,
            progress: state.progress,
            seen: Predictions::from_tensors(&state.seen)?,
            optimiser,
            tape: GradientTape::default(),
            best_parameters: state.best_parameters,
            clock: Instant::now(),
        })
    }

    /// Where the parameters are.
    pub(super) fn device(&self) -> Device {
        let first = self.parameters().values().next();
        first.map_or(Device::Cpu, |parameter| parameter.device().clone())
    }

    pub(super) fn parameters(&self) -> &BTreeMap<String, Var> {
        self.optimiser.parameters()
    }

    /// Number of the epoch to do next, from 1; none when the training has come to its end.
    pub(super) fn next_epoch(&self) -> Option<usize> {
        let is_over =
            self.progress.epochs >= self.config.max_epochs || self.progress.best.is_over();
        (!is_over).then_some(self.progress.epochs + 1)
    }

    /// Where the weights of the models that it runs leave their gradients.
    pub(super) fn tape(&self) -> &GradientTape {
        &self.tape
    }

    /// Runs a model with the next dropout masks.
    pub(super) fn with_dropout<T>(
        &mut self,
        forward: impl FnOnce(&mut Mode) -> candle::Result<T>,
    ) -> candle::Result<T> {
        let mut mode = Mode::Taped(self.progress.dropout.clone(), self.tape.clone());
        let output = forward(&mut mode)?;
        if let Some(dropout) = mode.dropout() {
            self.progress.dropout = dropout.clone();
        }
        Ok(output)
    }

    /// One step down the gradient of `loss`, the mean over `rows` rows; gives its value. Without a
    /// loss, or with one that is not finite, the step counts but changes nothing: it would end the
    /// training (for instance `ccc` on a batch of one row).
    pub(super) fn descend(&mut self, loss: Option<&Tensor>, rows: usize) -> candle::Result<f64> {
        let value: f64 = loss.map_or(Ok(f32::NAN), |loss| loss.to_scalar())?.into();
        match loss {
            Some(loss) if value.is_finite() => {
                let gradients = gradients_on(&self.tape, loss, self.parameters())?;
                let gradients = sum_of(&[(1.0, gradients)], self.parameters())?;
                self.step(gradients, value, rows)?;
            }
            _ => self.skip(),
        }
        Ok(value)
    }

    /// A step that has no loss to descend.
    pub(super) fn skip(&mut self) {
        self.progress.batches += 1;
        self.progress.scheduler.after_batch();
    }

    /// One step along given gradients.
    pub(super) fn step(
        &mut self,
        gradients: Gradients,
        loss: f64,
        rows: usize,
    ) -> candle::Result<()> {
        let gradients = match self.config.max_gradient_norm {
            Some(max_norm) => clip_global_norm(gradients, max_norm)?,
            None => gradients,
        };
        self.optimiser.step(&gradients, self.progress.scheduler.rates())?;
        self.progress.scheduler.after_batch();
        self.progress.batches += 1;
        self.progress.loss_sum += loss * rows as f64;
        self.progress.rows += rows;
        Ok(())
    }

    /// Ends an epoch: judges it, tells of it, makes ready for the next.
    ///
    /// # Errors
    /// [`Error::NoLoss`] when no step had a loss and nothing was learned before; that a model which
    /// was good has run away is no error.
    pub(super) fn end_epoch(
        &mut self,
        dev: Evaluation<Dev>,
        observer: &mut (impl Observer + ?Sized),
    ) -> Result<()> {
        let progress = &mut self.progress;
        if progress.rows == 0 && progress.best.best().is_none() {
            return Err(Error::NoLoss { epoch: progress.epochs + 1 });
        }
        let dev_score = DevScore::of(&dev, self.selection)?;
        let learning_rate = progress.scheduler.rates().learning_rate;
        let loss = progress.loss_sum / progress.rows as f64;
        progress.epochs += 1;
        (progress.batches, progress.loss_sum, progress.rows) = (0, 0.0, 0);
        progress.scheduler.after_epoch(dev_score);
        let is_best = progress.best.observe(progress.epochs, dev_score) == Verdict::Best;
        let report = EpochReport {
            epoch: progress.epochs,
            learning_rate,
            loss,
            train: std::mem::take(&mut self.seen).scores(),
            dev,
            dev_score,
            grad_norm: progress.grad_norm.clone(),
            is_best,
            seconds: self.clock.elapsed().as_secs_f64(),
        };
        self.clock = Instant::now();
        if is_best {
            self.best_parameters = copy_of(self.parameters())?;
        }
        observer.epoch(&report, &self.state()?)
    }

    pub(super) fn outcome(&self, is_finished: bool) -> Result<Outcome> {
        Ok(Outcome { state: self.state()?, is_finished })
    }

    fn state(&self) -> Result<TrainingState> {
        let doing = || Error::doing("keeping the state of the training");
        Ok(TrainingState {
            progress: self.progress.clone(),
            parameters: copy_of(self.parameters())?,
            best_parameters: self.best_parameters.clone(),
            optimiser: self.optimiser.state_tensors().map_err(doing())?,
            seen: self.seen.to_tensors().map_err(doing())?,
        })
    }
}

fn copy_of(parameters: &BTreeMap<String, Var>) -> Result<BTreeMap<String, Tensor>> {
    let copy = |(name, parameter): (&String, &Var)| Ok((name.clone(), parameter.copy()?.detach()));
    let copies = parameters.iter().map(copy).collect::<candle::Result<_>>();
    copies.map_err(Error::doing("copying the parameters"))
}
