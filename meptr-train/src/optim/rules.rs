//! How one parameter moves: the update rules, as PyTorch has them.

use candle::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// Update rule with its constants; the learning rate belongs to the optimiser.
///
/// With `p` the parameter, `g` its gradient, `t` the count of its steps, and in all but AdamW and
/// Lion `g` standing for `g + weight_decay p`:
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimiserConfig {
    /// Kingma and Ba 2015, with L2 decay: `m <- b1 m + (1-b1) g`, `v <- b2 v + (1-b2) g^2`,
    /// `p -= rate / (1-b1^t) m / (sqrt(v) / sqrt(1-b2^t) + 1e-8)`.
    Adam {
        /// L2 decay, 0 or more.
        weight_decay: f64,
    },
    /// Loshchilov and Hutter 2019: first `p *= 1 - rate weight_decay`, then Adam on the bare `g`.
    AdamW {
        /// Decoupled decay, 0 or more.
        weight_decay: f64,
    },
    /// Gradient descent with momentum: `b <- momentum b + g` (at first `b = g`), `p -= rate b`.
    Sgd {
        /// L2 decay, 0 or more.
        weight_decay: f64,
        /// Share of the last step that carries on, 0 to below 1.
        momentum: f64,
    },
    /// Hinton 2012: `v <- 0.99 v + 0.01 g^2`, `p -= rate g / (sqrt(v) + 1e-8)`; with momentum,
    /// `b <- momentum b + g / (sqrt(v) + 1e-8)`, `p -= rate b`.
    RmsProp {
        /// L2 decay, 0 or more.
        weight_decay: f64,
        /// Share of the last step that carries on, 0 to below 1.
        #[serde(default)]
        momentum: f64,
    },
    /// Chen et al. 2023: `p *= 1 - rate weight_decay`, `p -= rate sign(b1 m + (1-b1) g)`,
    /// `m <- b2 m + (1-b2) g`.
    Lion {
        /// Decoupled decay, 0 or more.
        weight_decay: f64,
    },
}

const ADAM_BETAS: (f64, f64) = (0.9, 0.999);
const LION_BETAS: (f64, f64) = (0.9, 0.99);
const RMSPROP_ALPHA: f64 = 0.99;
const EPSILON: f64 = 1e-8;

impl OptimiserConfig {
    /// Momentum to start with, and the one that a one-cycle schedule moves: the momentum of SGD and
    /// RMSprop, the first beta of the others.
    pub fn momentum(&self) -> f64 {
        match self {
            Self::Adam { .. } | Self::AdamW { .. } => ADAM_BETAS.0,
            Self::Lion { .. } => LION_BETAS.0,
            Self::Sgd { momentum, .. } | Self::RmsProp { momentum, .. } => *momentum,
        }
    }

    /// Moves one parameter and its state.
    ///
    /// # Errors
    /// When the shapes differ.
    pub(super) fn apply(
        &self,
        parameter: &Tensor,
        gradient: &Tensor,
        state: &mut ParameterState,
        rate: f64,
        momentum: f64,
    ) -> Result<Tensor> {
        state.steps += 1;
        let coupled = |decay: f64| with_l2(parameter, gradient, decay);
        let decayed = |decay: f64| shrunk(parameter, rate * decay);
        match *self {
            Self::Adam { weight_decay } => {
                adam(parameter, &coupled(weight_decay)?, state, rate, momentum)
            }
            Self::AdamW { weight_decay } => {
                adam(&decayed(weight_decay)?, gradient, state, rate, momentum)
            }
            Self::Sgd { weight_decay, .. } => {
                sgd(parameter, coupled(weight_decay)?, state, rate, momentum)
            }
            Self::RmsProp { weight_decay, .. } => {
                rmsprop(parameter, &coupled(weight_decay)?, state, rate, momentum)
            }
            Self::Lion { weight_decay } => {
                lion(&decayed(weight_decay)?, gradient, state, rate, momentum)
            }
        }
    }
}

/// What a rule remembers of one parameter; tensors have the parameter's shape.
#[derive(Debug, Clone, Default)]
pub(super) struct ParameterState {
    /// Steps taken with a gradient.
    pub(super) steps: u32,
    /// Running mean of gradients, or the momentum buffer.
    pub(super) first_moment: Option<Tensor>,
    /// Running mean of squared gradients.
    pub(super) second_moment: Option<Tensor>,
}

fn with_l2(parameter: &Tensor, gradient: &Tensor, decay: f64) -> Result<Tensor> {
    if decay == 0.0 { Ok(gradient.clone()) } else { gradient + (parameter * decay)? }
}

fn shrunk(parameter: &Tensor, decay: f64) -> Result<Tensor> {
    if decay == 0.0 { Ok(parameter.clone()) } else { parameter * (1.0 - decay) }
}

/// `keep * mean + (1 - keep) * new`, from 0.
fn running_mean(mean: &mut Option<Tensor>, new: &Tensor, keep: f64) -> Result<Tensor> {
    let share = (new * (1.0 - keep))?;
    let next = match mean.take() {
        None => share,
        Some(mean) => ((mean * keep)? + share)?,
    };
    *mean = Some(next.clone());
    Ok(next)
}

fn adam(
    parameter: &Tensor,
    gradient: &Tensor,
    state: &mut ParameterState,
    rate: f64,
    beta1: f64,
) -> Result<Tensor> {
    let beta2 = ADAM_BETAS.1;
    let mean = running_mean(&mut state.first_moment, gradient, beta1)?;
    let square = running_mean(&mut state.second_moment, &gradient.sqr()?, beta2)?;
    let steps = f64::from(state.steps);
    let rate = rate / (1.0 - beta1.powf(steps));
    let root = (square.sqrt()? / (1.0 - beta2.powf(steps)).sqrt())?;
    parameter - ((mean / (root + EPSILON)?)? * rate)?
}

fn sgd(
    parameter: &Tensor,
    gradient: Tensor,
    state: &mut ParameterState,
    rate: f64,
    momentum: f64,
) -> Result<Tensor> {
    parameter - (carried_on(gradient, state, momentum)? * rate)?
}

fn rmsprop(
    parameter: &Tensor,
    gradient: &Tensor,
    state: &mut ParameterState,
    rate: f64,
    momentum: f64,
) -> Result<Tensor> {
    let square = running_mean(&mut state.second_moment, &gradient.sqr()?, RMSPROP_ALPHA)?;
    let scaled = (gradient / (square.sqrt()? + EPSILON)?)?;
    parameter - (carried_on(scaled, state, momentum)? * rate)?
}

fn carried_on(step: Tensor, state: &mut ParameterState, momentum: f64) -> Result<Tensor> {
    if momentum == 0.0 {
        return Ok(step);
    }
    let next = match state.first_moment.take() {
        None => step,
        Some(last) => ((last * momentum)? + step)?,
    };
    state.first_moment = Some(next.clone());
    Ok(next)
}

fn lion(
    parameter: &Tensor,
    gradient: &Tensor,
    state: &mut ParameterState,
    rate: f64,
    beta1: f64,
) -> Result<Tensor> {
    let direction = match &state.first_moment {
        None => (gradient * (1.0 - beta1))?,
        Some(mean) => ((mean * beta1)? + (gradient * (1.0 - beta1))?)?,
    };
    running_mean(&mut state.first_moment, gradient, LION_BETAS.1)?;
    parameter - (direction.sign()? * rate)?
}
