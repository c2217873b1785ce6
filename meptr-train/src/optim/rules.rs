//! Update rules of one parameter, as PyTorch has them.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use meptr_core::kernels::cpu::slices::CHUNK;

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
        #[serde(default)]
        weight_decay: f64,
    },
    /// Loshchilov and Hutter 2019: first `p *= 1 - rate weight_decay`, then Adam on the bare `g`.
    AdamW {
        /// Decoupled decay, 0 or more.
        #[serde(default)]
        weight_decay: f64,
    },
    /// Gradient descent with momentum: `b <- momentum b + g` (at first `b = g`), `p -= rate b`.
    Sgd {
        /// L2 decay, 0 or more.
        #[serde(default)]
        weight_decay: f64,
        /// Share of the last step that carries on, 0 to below 1.
        #[serde(default = "usual_momentum")]
        momentum: f64,
    },
    /// Hinton 2012: `v <- 0.99 v + 0.01 g^2`, `p -= rate g / (sqrt(v) + 1e-8)`; with momentum,
    /// `b <- momentum b + g / (sqrt(v) + 1e-8)`, `p -= rate b`.
    RmsProp {
        /// L2 decay, 0 or more.
        #[serde(default)]
        weight_decay: f64,
        /// Share of the last step that carries on, 0 to below 1.
        #[serde(default)]
        momentum: f64,
    },
    /// Chen et al. 2023: `p *= 1 - rate weight_decay`, `p -= rate sign(b1 m + (1-b1) g)`,
    /// `m <- b2 m + (1-b2) g`.
    Lion {
        /// Decoupled decay, 0 or more.
        #[serde(default)]
        weight_decay: f64,
    },
}

fn usual_momentum() -> f64 {
    0.9
}

pub(super) const ADAM_BETAS: (f64, f64) = (0.9, 0.999);
pub(super) const LION_BETAS: (f64, f64) = (0.9, 0.99);
pub(super) const RMSPROP_ALPHA: f64 = 0.99;
pub(super) const EPSILON: f32 = 1e-8;

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

    /// Everything that makes no sense; `place` is where the rule stands in its file.
    pub fn problems(&self, place: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let (Self::Adam { weight_decay }
        | Self::AdamW { weight_decay }
        | Self::Sgd { weight_decay, .. }
        | Self::RmsProp { weight_decay, .. }
        | Self::Lion { weight_decay }) = *self;
        if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
            problems.push(format!("`{place}.weight_decay` must be 0 or more"));
        }
        if !(0.0..1.0).contains(&self.momentum()) {
            problems.push(format!("`{place}.momentum` must be in 0 to 1, and below 1"));
        }
        problems
    }

    /// Moments that the rule keeps: the first, the second.
    pub(super) fn moments(&self) -> [bool; 2] {
        match self {
            Self::Adam { .. } | Self::AdamW { .. } => [true, true],
            Self::Sgd { .. } | Self::Lion { .. } => [true, false],
            Self::RmsProp { .. } => [true, true],
        }
    }

    /// Moves one parameter and its state; all slices are of one length.
    pub(super) fn apply(
        &self,
        parameter: &mut [f32],
        gradient: &[f32],
        state: &mut ParameterState,
        rate: f64,
        momentum: f64,
    ) {
        state.steps += 1;
        let numbers = Numbers { parameter, gradient, state };
        let shrink = |decay: f64| (1.0 - rate * decay) as f32;
        match *self {
            Self::Adam { weight_decay } => adam(numbers, rate, momentum, weight_decay as f32, 1.0),
            Self::AdamW { weight_decay } => {
                adam(numbers, rate, momentum, 0.0, shrink(weight_decay));
            }
            Self::Sgd { weight_decay, .. } => {
                let (rate, momentum, decay) = (rate as f32, momentum as f32, weight_decay as f32);
                numbers.for_each(|p, g, carried, _| {
                    *carried = momentum * *carried + (g + decay * *p);
                    *p -= rate * *carried;
                });
            }
            Self::RmsProp { weight_decay, .. } => {
                rmsprop(numbers, rate as f32, momentum as f32, weight_decay as f32);
            }
            Self::Lion { weight_decay } => {
                lion(numbers, rate as f32, momentum, shrink(weight_decay));
            }
        }
    }
}

/// State of an update rule for one parameter; a moment it does not have stays empty.
#[derive(Debug, Clone, Default)]
pub(super) struct ParameterState {
    /// Steps taken with a gradient.
    pub(super) steps: u32,
    /// Running mean of gradients, or what carries on by momentum.
    pub(super) first_moment: Vec<f32>,
    /// Running mean of squared gradients.
    pub(super) second_moment: Vec<f32>,
}

struct Numbers<'a> {
    parameter: &'a mut [f32],
    gradient: &'a [f32],
    state: &'a mut ParameterState,
}

impl Numbers<'_> {
    /// Calls `rule(parameter, gradient, first moment, second moment)` for each number, on all
    /// cores; moments start as 0.
    fn for_each(self, rule: impl Fn(&mut f32, f32, &mut f32, &mut f32) + Sync) {
        let count = self.parameter.len();
        self.state.first_moment.resize(count, 0.0);
        self.state.second_moment.resize(count, 0.0);
        type Chunk<'a> = (((&'a mut [f32], &'a [f32]), &'a mut [f32]), &'a mut [f32]);
        let change = |(((parameter, gradient), first), second): Chunk| {
            let moments = first.iter_mut().zip(second);
            for ((p, g), (first, second)) in parameter.iter_mut().zip(gradient).zip(moments) {
                rule(p, *g, first, second);
            }
        };
        let ParameterState { first_moment, second_moment, .. } = self.state;
        if count <= CHUNK {
            return change((((self.parameter, self.gradient), first_moment), second_moment));
        }
        self.parameter
            .par_chunks_mut(CHUNK)
            .zip(self.gradient.par_chunks(CHUNK))
            .zip(first_moment.par_chunks_mut(CHUNK))
            .zip(second_moment.par_chunks_mut(CHUNK))
            .for_each(change);
    }
}

/// `decay` is coupled, `shrink` what the parameter is multiplied with beforehand.
fn adam(numbers: Numbers, rate: f64, beta1: f64, decay: f32, shrink: f32) {
    let beta2 = ADAM_BETAS.1;
    let steps = f64::from(numbers.state.steps);
    let rate = (rate / (1.0 - beta1.powf(steps))) as f32;
    let root_scale = (1.0 - beta2.powf(steps)).sqrt() as f32;
    let (new1, new2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
    let (beta1, beta2) = (beta1 as f32, beta2 as f32);
    numbers.for_each(|p, g, mean, square| {
        *p *= shrink;
        let g = g + decay * *p;
        *mean = beta1 * *mean + new1 * g;
        *square = beta2 * *square + new2 * g * g;
        *p -= rate * (*mean / (square.sqrt() / root_scale + EPSILON));
    });
}

fn rmsprop(numbers: Numbers, rate: f32, momentum: f32, decay: f32) {
    let (keep, new) = (RMSPROP_ALPHA as f32, (1.0 - RMSPROP_ALPHA) as f32);
    numbers.for_each(|p, g, carried, square| {
        let g = g + decay * *p;
        *square = keep * *square + new * g * g;
        *carried = momentum * *carried + g / (square.sqrt() + EPSILON);
        *p -= rate * *carried;
    });
}

fn lion(numbers: Numbers, rate: f32, beta1: f64, shrink: f32) {
    let beta2 = LION_BETAS.1;
    let (new1, new2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
    let (beta1, beta2) = (beta1 as f32, beta2 as f32);
    numbers.for_each(|p, g, mean, _| {
        let direction = beta1 * *mean + new1 * g;
        let sign = f32::from(direction > 0.0) - f32::from(direction < 0.0);
        *p = *p * shrink - rate * sign;
        *mean = beta2 * *mean + new2 * g;
    });
}
