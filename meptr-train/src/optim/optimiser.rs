//! An optimiser over named parameters, whose state can be saved and restored.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use candle::{DType, Device, Result, Tensor, Var};

use super::on_device::DeviceState;
use super::rules::{OptimiserConfig, ParameterState};
use super::schedule::Rates;
use crate::loss::Gradients;
use meptr_core::kernels::cpu::{parallel, slices};

/// Moves named parameters along their gradients, by the rule of its configuration.
///
/// A parameter without a gradient is left alone entirely: no decay, no step count, no state.
#[derive(Debug)]
pub struct Optimiser {
    config: OptimiserConfig,
    parameters: BTreeMap<String, Var>,
    states: BTreeMap<String, ParameterState>,
    /// States of parameters on a GPU.
    device_states: BTreeMap<String, DeviceState>,
    /// Whether parameters move where they are, by operations on tensors.
    on_device: bool,
}

const STEPS: &str = "steps";
const FIRST_MOMENT: &str = "first_moment";
const SECOND_MOMENT: &str = "second_moment";

impl Optimiser {
    /// An optimiser that has not taken a step.
    pub fn new(config: OptimiserConfig, parameters: BTreeMap<String, Var>) -> Self {
        let on_device = parameters.values().any(|parameter| !parameter.device().is_cpu());
        let (states, device_states) = (BTreeMap::new(), BTreeMap::new());
        Self { config, parameters, states, device_states, on_device }
    }

    /// The parameters it moves.
    pub fn parameters(&self) -> &BTreeMap<String, Var> {
        &self.parameters
    }

    /// One step; `rates` come from the schedule.
    ///
    /// # Errors
    /// When a gradient belongs to no parameter or has another shape.
    pub fn step(&mut self, gradients: &Gradients, rates: Rates) -> Result<()> {
        let momentum = rates.momentum.unwrap_or(self.config.momentum());
        for (name, gradient) in gradients {
            let Some(parameter) = self.parameters.get(name) else {
                candle::bail!("a gradient for `{name}`, which is no parameter");
            };
            if gradient.dims() != parameter.dims() {
                candle::bail!("the gradient of `{name}` has the shape {:?}", gradient.dims());
            }
            let (config, rate) = (&self.config, rates.learning_rate);
            if self.on_device {
                let state = self.device_states.entry(name.clone()).or_default();
                config.apply_on_device(parameter, gradient, state, rate, momentum)?;
                continue;
            }
            if !self.states.contains_key(name) {
                self.states.insert(name.clone(), ParameterState::default());
            }
        }
        if self.on_device {
            return Ok(());
        }
        let (config, rate) = (self.config, rates.learning_rate);
        let states = self.states.iter_mut();
        let moved = states.filter_map(|(name, state)| Some((name, gradients.get(name)?, state)));
        let mut moved: Vec<_> = moved.collect();
        moved.sort_by_key(|(_, gradient, _)| Reverse(gradient.elem_count()));
        let parameters = &self.parameters;
        let moves = parallel::map(moved, |(name, gradient, state)| {
            slices::read_f32(gradient, |gradient| {
                slices::update(&parameters[name], |parameter| {
                    config.apply(parameter, gradient, state, rate, momentum);
                })
            })?
        });
        moves.into_iter().collect()
    }

    /// Everything needed to go on later, for a safetensors file.
    ///
    /// Names are `PARAMETER.steps` (`(1,)`, u32), `PARAMETER.first_moment` and
    /// `PARAMETER.second_moment` (f32, of the parameter's shape), the latter two where the rule has
    /// them.
    ///
    /// # Errors
    /// When the device fails.
    pub fn state_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (name, state) in &self.device_states {
            let steps = Tensor::new(&[state.steps], &Device::Cpu)?;
            tensors.insert(format!("{name}.{STEPS}"), steps);
            let moments =
                [(FIRST_MOMENT, &state.first_moment), (SECOND_MOMENT, &state.second_moment)];
            for (kind, moment) in moments {
                if let Some(moment) = moment {
                    tensors.insert(format!("{name}.{kind}"), moment.to_device(&Device::Cpu)?);
                }
            }
        }
        for (name, state) in &self.states {
            let steps = Tensor::new(&[state.steps], &Device::Cpu)?;
            tensors.insert(format!("{name}.{STEPS}"), steps);
            let moments =
                [(FIRST_MOMENT, &state.first_moment), (SECOND_MOMENT, &state.second_moment)];
            let shape = self.parameters[name].shape();
            for ((kind, moment), has_it) in moments.into_iter().zip(self.config.moments()) {
                if has_it {
                    let moment = Tensor::from_slice(moment, shape, &Device::Cpu)?;
                    tensors.insert(format!("{name}.{kind}"), moment);
                }
            }
        }
        Ok(tensors)
    }

    /// Goes on from what [`Self::state_tensors`] gave.
    ///
    /// # Errors
    /// When a tensor belongs to no parameter or has another shape or type than it must have; the
    /// optimiser then is as before.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut states: BTreeMap<String, ParameterState> = BTreeMap::new();
        for (full_name, tensor) in tensors {
            let parts = full_name.rsplit_once('.');
            let Some((name, kind)) = parts.filter(|(name, _)| self.parameters.contains_key(*name))
            else {
                candle::bail!("optimiser state `{full_name}` belongs to no parameter");
            };
            let parameter = &self.parameters[name];
            let state = states.entry(name.to_owned()).or_default();
            match kind {
                STEPS => state.steps = tensor.reshape(())?.to_scalar()?,
                FIRST_MOMENT | SECOND_MOMENT => {
                    if tensor.dims() != parameter.dims() || tensor.dtype() != DType::F32 {
                        candle::bail!("optimiser state `{full_name}` is {tensor:?}");
                    }
                    let moment = slices::read_f32(tensor, <[f32]>::to_vec)?;
                    if kind == FIRST_MOMENT {
                        state.first_moment = moment;
                    } else {
                        state.second_moment = moment;
                    }
                }
                _ => candle::bail!("optimiser state `{full_name}` is unknown"),
            }
        }
        if !self.on_device {
            self.states = states;
            return Ok(());
        }
        let state_of = |(name, state): (String, ParameterState)| {
            let parameter = &self.parameters[&name];
            let moment = |values: Vec<f32>| -> Result<Option<Tensor>> {
                let has_it = !values.is_empty();
                let moment = || Tensor::from_vec(values, parameter.shape(), parameter.device());
                has_it.then(moment).transpose()
            };
            let state = DeviceState {
                steps: state.steps,
                first_moment: moment(state.first_moment)?,
                second_moment: moment(state.second_moment)?,
            };
            Ok((name, state))
        };
        self.device_states = states.into_iter().map(state_of).collect::<Result<_>>()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [OptimiserConfig; 6] = [
        OptimiserConfig::Adam { weight_decay: 0.1 },
        OptimiserConfig::AdamW { weight_decay: 0.1 },
        OptimiserConfig::Sgd { weight_decay: 0.1, momentum: 0.9 },
        OptimiserConfig::RmsProp { weight_decay: 0.1, momentum: 0.0 },
        OptimiserConfig::RmsProp { weight_decay: 0.1, momentum: 0.5 },
        OptimiserConfig::Lion { weight_decay: 0.1 },
    ];
    const RATES: Rates = Rates { learning_rate: 0.05, momentum: None };

    fn start() -> BTreeMap<String, Var> {
        let var = |values: &[f32]| Var::new(values, &Device::Cpu).unwrap();
        BTreeMap::from([("used".into(), var(&[1.0, -2.0])), ("unused".into(), var(&[3.0]))])
    }

    fn step(optimiser: &mut Optimiser) -> Vec<f32> {
        let used = optimiser.parameters()["used"].as_detached_tensor();
        optimiser.step(&Gradients::from([("used".into(), used.sin().unwrap())]), RATES).unwrap();
        optimiser.parameters()["used"].to_vec1().unwrap()
    }

    #[test]
    fn a_parameter_without_gradient_is_left_alone() {
        for rule in RULES {
            let mut optimiser = Optimiser::new(rule, start());
            step(&mut optimiser);
            assert_eq!(optimiser.parameters()["unused"].to_vec1::<f32>().unwrap(), [3.0]);
            let state = optimiser.state_tensors().unwrap();
            assert!(state.keys().all(|name| name.starts_with("used.")));
        }
    }

    #[test]
    fn restored_state_goes_on_bit_for_bit() {
        for rule in RULES {
            let mut whole = Optimiser::new(rule, start());
            step(&mut whole);
            step(&mut whole);
            let parameters = whole.parameters().iter();
            let copy = parameters
                .map(|(name, var)| (name.clone(), Var::from_tensor(&var.copy().unwrap())));
            let copy = copy.map(|(name, var)| (name, var.unwrap())).collect();
            let mut resumed = Optimiser::new(rule, copy);
            resumed.restore(&whole.state_tensors().unwrap()).unwrap();
            assert_eq!(step(&mut whole), step(&mut resumed), "{rule:?}");
        }
    }

    /// Reference: PyTorch 2.6, f32, from 1, -2, 0.5 with the gradient `sin(step w)` and decay 0.01.
    #[test]
    fn momentum_and_decay_act_as_in_pytorch() {
        let rules = [
            (
                OptimiserConfig::Adam { weight_decay: 0.01 },
                [0.974_874_7, -1.993_002_3, 0.463_429_24],
            ),
            (
                OptimiserConfig::RmsProp { weight_decay: 0.01, momentum: 0.9 },
                [0.300_443_68, -1.834_892_2, -0.185_916_98],
            ),
            (
                OptimiserConfig::Sgd { weight_decay: 0.01, momentum: 0.9 },
                [0.947_570_1, -1.983_04, 0.431_922_82],
            ),
        ];
        for (rule, expected) in rules {
            let w = Var::new(&[1.0f32, -2.0, 0.5], &Device::Cpu).unwrap();
            let mut optimiser = Optimiser::new(rule, BTreeMap::from([("w".into(), w.clone())]));
            // A one-cycle schedule moves Adam's first beta from step to step.
            for (step, beta1) in [(1.0, 0.95), (2.0, 0.9), (3.0, 0.85), (4.0, 0.9)] {
                let is_adam = matches!(rule, OptimiserConfig::Adam { .. });
                let rates = Rates { learning_rate: 0.01, momentum: is_adam.then_some(beta1) };
                let gradient = (w.as_detached_tensor() * step).unwrap().sin().unwrap();
                optimiser.step(&Gradients::from([("w".into(), gradient)]), rates).unwrap();
            }
            for (found, expected) in w.to_vec1::<f32>().unwrap().into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{rule:?}: {found} is not {expected}");
            }
        }
    }

    /// Computes on the CPU what a GPU would.
    #[test]
    fn rules_on_tensors_equal_those_on_numbers() {
        let values: Vec<f32> = (0..600).map(|i| (i as f32 * 0.7).sin() * 2.0).collect();
        for rule in RULES {
            let run = |on_device: bool| {
                let w = Var::from_vec(values.clone(), (20, 30), &Device::Cpu).unwrap();
                let parameters = BTreeMap::from([("w".to_owned(), w.clone())]);
                let fresh = || Optimiser { on_device, ..Optimiser::new(rule, parameters.clone()) };
                let mut optimiser = fresh();
                for step in 1..=6 {
                    if step == 4 {
                        let state = optimiser.state_tensors().unwrap();
                        optimiser = fresh();
                        optimiser.restore(&state).unwrap();
                    }
                    let gradient = (w.as_detached_tensor() * f64::from(step)).unwrap();
                    let gradients = Gradients::from([("w".into(), gradient.sin().unwrap())]);
                    let rates = Rates { learning_rate: 0.003, momentum: None };
                    optimiser.step(&gradients, rates).unwrap();
                }
                let w = w.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                (w, optimiser.state_tensors().unwrap())
            };
            let ((numbers, state), (tensors, device_state)) = (run(false), run(true));
            for (expected, found) in numbers.iter().zip(&tensors) {
                assert!((expected - found).abs() < 2e-6, "{rule:?}: {found} is not {expected}");
            }
            assert!(state.keys().eq(device_state.keys()), "{rule:?}");
        }
    }

    #[test]
    fn foreign_state_is_refused() {
        let mut optimiser = Optimiser::new(RULES[0], start());
        let state = |name: &str, values: &[f32]| {
            BTreeMap::from([(name.to_owned(), Tensor::new(values, &Device::Cpu).unwrap())])
        };
        assert!(optimiser.restore(&state("other.first_moment", &[1.0])).is_err());
        assert!(optimiser.restore(&state("used.first_moment", &[1.0])).is_err());
        assert!(optimiser.restore(&state("used.third_moment", &[1.0, 2.0])).is_err());
        assert!(optimiser.restore(&state("used.steps", &[1.0])).is_err());
    }
}
