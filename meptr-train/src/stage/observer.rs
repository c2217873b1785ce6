//! Reports of a training, and the trait that receives them.

use serde::Serialize;

use super::state::TrainingState;
use crate::Result;
use crate::data::Dev;
use crate::loss::GradNormState;
use crate::select::{CorpusScores, DevScore, Evaluation};

/// Losses and scores of an epoch.
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

/// Loss of a step.
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

/// Receives the reports of a training, to log them, to save checkpoints, to show progress or to
/// end it.
///
/// A closure over `(&EpochReport, &TrainingState)` is an observer of epochs alone.
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
