//! State of a training between two steps: tensors and plain values.

use std::collections::BTreeMap;

use candle::Tensor;
use meptr_core::rng::RandomStream;
use serde::{Deserialize, Deserializer, Serialize};

use crate::loss::GradNormState;
use crate::optim::Scheduler;
use crate::select::BestOnDev;
use crate::{Error, Result};

/// Everything needed to go on after any step, or to use the best epoch.
///
/// A checkpoint is one safetensors file with [`TrainingState::to_tensors`] and `progress` as JSON
/// in its metadata; [`TrainingState::from_parts`] makes the state of the two again.
#[derive(Debug, Clone)]
pub struct TrainingState {
    /// The numbers.
    pub progress: Progress,
    /// Parameters as the last step left them.
    pub parameters: BTreeMap<String, Tensor>,
    /// Parameters of the best epoch; empty when no dev score was a number.
    pub best_parameters: BTreeMap<String, Tensor>,
    /// See [`Optimiser::state_tensors`](crate::optim::Optimiser::state_tensors).
    pub optimiser: BTreeMap<String, Tensor>,
    /// Outputs of the running epoch's steps, see
    /// [`Predictions::to_tensors`](crate::select::Predictions::to_tensors); empty between epochs.
    pub seen: BTreeMap<String, Tensor>,
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
    /// Random stream of the next dropout masks.
    pub dropout: RandomStream,
}

/// JSON has no NaN; it is written as null.
fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

const PARAMETERS: &str = "parameters";
const BEST: &str = "best";
const OPTIMISER: &str = "optimiser";
const SEEN: &str = "seen";

impl TrainingState {
    /// All tensors, by `parameters.NAME`, `best.NAME`, `optimiser.NAME` and `seen.NAME`.
    pub fn to_tensors(&self) -> BTreeMap<String, Tensor> {
        let parts = [
            (PARAMETERS, &self.parameters),
            (BEST, &self.best_parameters),
            (OPTIMISER, &self.optimiser),
            (SEEN, &self.seen),
        ];
        let named = |(part, tensors): (&str, &BTreeMap<String, Tensor>)| {
            let part = part.to_owned();
            let tensors = tensors.clone().into_iter();
            tensors.map(move |(name, tensor)| (format!("{part}.{name}"), tensor))
        };
        parts.into_iter().flat_map(named).collect()
    }

    /// The state that [`TrainingState::to_tensors`] was called on.
    ///
    /// Whether it belongs to a model shows when the model is trained from it.
    ///
    /// # Errors
    /// [`Error::NotAState`] when a tensor has another name.
    pub fn from_parts(progress: Progress, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let mut state = Self {
            progress,
            parameters: BTreeMap::new(),
            best_parameters: BTreeMap::new(),
            optimiser: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        for (full_name, tensor) in tensors {
            let part = match full_name.split_once('.') {
                Some((PARAMETERS, name)) => Some((&mut state.parameters, name)),
                Some((BEST, name)) => Some((&mut state.best_parameters, name)),
                Some((OPTIMISER, name)) => Some((&mut state.optimiser, name)),
                Some((SEEN, name)) => Some((&mut state.seen, name)),
                _ => None,
            };
            match part {
                Some((part, name)) => part.insert(name.to_owned(), tensor),
                None => return Err(Error::NotAState { name: full_name }),
            };
        }
        Ok(state)
    }
}
