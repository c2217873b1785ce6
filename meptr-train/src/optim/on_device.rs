//! The update rules as operations on tensors, for parameters on a GPU: no number comes to the host.
//!
//! They are those of [`super::rules`], term by term, and equal them up to the rounding of single
//! operations.

use candle::{Result, Tensor, Var};

use super::rules::{ADAM_BETAS, EPSILON, LION_BETAS, OptimiserConfig, RMSPROP_ALPHA};

/// State of an update rule for one parameter, on the parameter's device.
#[derive(Debug, Clone, Default)]
pub(super) struct DeviceState {
    pub(super) steps: u32,
    pub(super) first_moment: Option<Tensor>,
    pub(super) second_moment: Option<Tensor>,
}

impl DeviceState {
    fn moment(moment: &Option<Tensor>, parameter: &Tensor) -> Result<Tensor> {
        moment.clone().map_or_else(|| parameter.zeros_like(), Ok)
    }
}

impl OptimiserConfig {
    /// Moves one parameter and its state, as [`OptimiserConfig::apply`] does.
    pub(super) fn apply_on_device(
        &self,
        parameter: &Var,
        gradient: &Tensor,
        state: &mut DeviceState,
        rate: f64,
        momentum: f64,
    ) -> Result<()> {
        state.steps += 1;
        let p = parameter.as_detached_tensor();
        let first = DeviceState::moment(&state.first_moment, &p)?;
        let (g, shrunk) = match *self {
            Self::AdamW { weight_decay } | Self::Lion { weight_decay } => {
                (gradient.clone(), (&p * (1.0 - rate * weight_decay))?)
            }
            Self::Adam { weight_decay }
            | Self::Sgd { weight_decay, .. }
            | Self::RmsProp { weight_decay, .. } => ((gradient + (&p * weight_decay)?)?, p.clone()),
        };
        let moved = match self {
            Self::Adam { .. } | Self::AdamW { .. } => {
                let (beta1, beta2, steps) = (momentum, ADAM_BETAS.1, f64::from(state.steps));
                let mean = blend(&first, beta1, &g)?;
                let second = DeviceState::moment(&state.second_moment, &p)?;
                let square = blend(&second, beta2, &g.sqr()?)?;
                let root_scale = 1.0 / (1.0 - beta2.powf(steps)).sqrt();
                let root = square.sqrt()?.affine(root_scale, f64::from(EPSILON))?;
                let step = ((&mean / root)? * (rate / (1.0 - beta1.powf(steps))))?;
                (state.first_moment, state.second_moment) = (Some(mean), Some(square));
                (shrunk - step)?
            }
            Self::Sgd { .. } => {
                let carried = ((first * momentum)? + g)?;
                let moved = (shrunk - (&carried * rate)?)?;
                state.first_moment = Some(carried);
                moved
            }
            Self::RmsProp { .. } => {
                let second = DeviceState::moment(&state.second_moment, &p)?;
                let square = blend(&second, RMSPROP_ALPHA, &g.sqr()?)?;
                let root = (square.sqrt()? + f64::from(EPSILON))?;
                let carried = ((first * momentum)? + (g / root)?)?;
                let moved = (shrunk - (&carried * rate)?)?;
                (state.first_moment, state.second_moment) = (Some(carried), Some(square));
                moved
            }
            Self::Lion { .. } => {
                let direction = blend(&first, momentum, &g)?.sign()?;
                state.first_moment = Some(blend(&first, LION_BETAS.1, &g)?);
                (shrunk - (direction * rate)?)?
            }
        };
        parameter.set(&moved)
    }
}

/// `keep * old + (1 - keep) * new`.
fn blend(old: &Tensor, keep: f64, new: &Tensor) -> Result<Tensor> {
    (old * keep)? + (new * (1.0 - keep))?
}
