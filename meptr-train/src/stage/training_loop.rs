//! The training loop that all stages share. A training resumed after any step equals one that was
//! never interrupted, bit for bit.

use std::collections::BTreeMap;
use std::time::Instant;

use candle::{Device, Tensor, Var};
use meptr_core::nn::{GradientTape, Mode};
use meptr_core::rng::RandomStream;
use meptr_core::weights::Trainable;

use super::observer::{EpochReport, Observer};
use super::state::{Progress, TrainingState};
use super::training_config::TrainingConfig;
use crate::data::{Dev, Sampler};
use crate::loss::Gradients;
use crate::loss::factored_gradients::{gradients_on, sum_of};
use crate::optim::{Optimiser, Scheduler, clip_global_norm};
use crate::select::{BestOnDev, DevScore, Evaluation, Predictions, Selection, Verdict};
use crate::{Error, Result};

/// Start of a training.
#[derive(Debug)]
pub enum Start {
    /// At the first epoch, with this stream of dropout masks.
    Fresh(RandomStream),
    /// After the steps of an earlier run, which the whole then equals bit for bit.
    After(Box<TrainingState>),
}

/// A model to train, with its variables.
#[derive(Debug)]
pub struct TrainableModel<'a, M> {
    /// The model.
    pub model: &'a M,
    /// Variables that the model was loaded from, by name.
    pub parameters: BTreeMap<String, Var>,
}

impl<'a, M> TrainableModel<'a, M> {
    /// Pairs a model with the variables that it was loaded from.
    pub fn new(model: &'a M, variables: &Trainable) -> Self {
        Self { model, parameters: variables.by_name() }
    }
}

/// Batches of a training and the state that it starts from.
#[derive(Debug)]
pub struct TrainingRun<'a> {
    /// Rows of each batch; beside the dropout masks, the only randomness.
    pub sampler: &'a Sampler,
    /// State that it starts from.
    pub start: Start,
}

/// End of a training.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// State at the end.
    pub state: TrainingState,
    /// Has it come to its end, or was it stopped?
    pub is_finished: bool,
}

/// A training under way; each stage's function drives one.
pub(super) struct TrainingLoop<'a> {
    config: &'a TrainingConfig,
    selection: Selection,
    pub(super) progress: Progress,
    pub(super) train_predictions: Predictions,
    optimiser: Optimiser,
    tape: GradientTape,
    best_parameters: BTreeMap<String, Tensor>,
    clock: Instant,
}

impl<'a> TrainingLoop<'a> {
    pub(super) fn begin(
        config: &'a TrainingConfig,
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
                    train_predictions: Predictions::default(),
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
        config: &'a TrainingConfig,
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
            train_predictions: Predictions::from_tensors(&state.seen)?,
            optimiser,
            tape: GradientTape::default(),
            best_parameters: state.best_parameters,
            clock: Instant::now(),
        })
    }

    /// Device of the parameters.
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

    /// Tape on which the models that it runs leave the gradients of their weights.
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
    pub(super) fn backward_step(
        &mut self,
        loss: Option<&Tensor>,
        rows: usize,
    ) -> candle::Result<f64> {
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

    /// Ends an epoch: scores it, reports it, and prepares the next.
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
            train: std::mem::take(&mut self.train_predictions).scores(),
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
            seen: self.train_predictions.to_tensors().map_err(doing())?,
        })
    }
}

fn copy_of(parameters: &BTreeMap<String, Var>) -> Result<BTreeMap<String, Tensor>> {
    let copy = |(name, parameter): (&String, &Var)| Ok((name.clone(), parameter.copy()?.detach()));
    let copies = parameters.iter().map(copy).collect::<candle::Result<_>>();
    copies.map_err(Error::doing("copying the parameters"))
}
