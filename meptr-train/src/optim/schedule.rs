//! Learning rates over the course of a training, as PyTorch and Transformers have them.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::select::DevScore;

/// Learning-rate schedule; `base` is the configured rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// Always `base`.
    None,
    /// Halved (down to 1e-7) when the dev score has not risen by a factor above 1.0001 for more
    /// than 2 epochs.
    Plateau,
    /// Once down a cosine from `base` to 1e-6, by epochs.
    Cosine,
    /// Smith and Topin 2018, by batches: up a cosine from `base / 25` to `base` over the first
    /// 30 %, then down to `base / 250000`; the optimiser's momentum goes 0.95, 0.85, 0.95.
    #[serde(rename = "onecycle")]
    OneCycle,
    /// By batches: up a line from 0 over the first part, then on as `decay` says.
    WarmUp {
        /// Batches that the way up takes, as a part of all, 0 to 1.
        #[serde(default = "tenth")]
        ratio: f64,
        /// The way from there.
        #[serde(default)]
        decay: Decay,
    },
}

fn tenth() -> f64 {
    0.1
}

/// Decay of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Stays.
    Constant,
    /// Down a line to 0.
    #[default]
    Linear,
    /// Down a cosine to 0.
    Cosine,
    /// As [`Self::Cosine`], with one cycle, so that a restart comes only after the last batch.
    CosineWithRestarts,
    /// Down a line to 1e-7: the polynomial has power 1.
    Polynomial,
}

/// Rates that the optimiser uses for a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub learning_rate: f64,
    /// Momentum or first beta; none = the optimiser's own.
    pub momentum: Option<f64>,
}

/// A schedule with its place in the course.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scheduler {
    config: ScheduleConfig,
    base: f64,
    epochs: usize,
    batches_per_epoch: usize,
    batch: usize,
    epoch: usize,
    plateau: Plateau,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Plateau {
    rate: f64,
    best: Option<f64>,
    epochs_without_rise: usize,
}

const PLATEAU_FACTOR: f64 = 0.5;
const PLATEAU_PATIENCE: usize = 2;
const PLATEAU_THRESHOLD: f64 = 1e-4;
const PLATEAU_FLOOR: f64 = 1e-7;
/// Smaller changes of the rate are not made.
const PLATEAU_LEAST_CHANGE: f64 = 1e-8;
const COSINE_FLOOR: f64 = 1e-6;
const ONE_CYCLE_RISE: f64 = 0.3;
const ONE_CYCLE_START: f64 = 1.0 / 25.0;
const ONE_CYCLE_END: f64 = 1e-4;
const ONE_CYCLE_MOMENTUM: (f64, f64) = (0.95, 0.85);
const POLYNOMIAL_END: f64 = 1e-7;

impl Scheduler {
    /// At the first batch of a course of `epochs` times `batches_per_epoch` steps.
    pub fn new(config: ScheduleConfig, base: f64, epochs: usize, batches_per_epoch: usize) -> Self {
        let plateau = Plateau { rate: base, best: None, epochs_without_rise: 0 };
        Self { config, base, epochs, batches_per_epoch, batch: 0, epoch: 0, plateau }
    }

    /// For the next step.
    pub fn rates(&self) -> Rates {
        let batches = self.epochs * self.batches_per_epoch;
        let mut momentum = None;
        let learning_rate = match self.config {
            ScheduleConfig::None => self.base,
            ScheduleConfig::Plateau => self.plateau.rate,
            ScheduleConfig::Cosine => {
                eased(self.base, COSINE_FLOOR, self.epoch as f64 / self.epochs as f64)
            }
            ScheduleConfig::OneCycle => {
                let (rate, cycled) = one_cycle(self.base, self.batch, batches);
                momentum = Some(cycled);
                rate
            }
            ScheduleConfig::WarmUp { ratio, decay } => {
                let warm_up = (batches as f64 * ratio) as usize;
                self.base * after_warm_up(self.base, decay, self.batch, warm_up, batches)
            }
        };
        Rates { learning_rate, momentum }
    }

    /// After each step of the optimiser.
    pub fn after_batch(&mut self) {
        self.batch += 1;
    }

    /// After each epoch, with its dev score.
    pub fn after_epoch(&mut self, score: DevScore) {
        let score = score.value();
        self.epoch += 1;
        let plateau = &mut self.plateau;
        let is_rise = |best: f64| score > best * (1.0 + PLATEAU_THRESHOLD);
        if !score.is_nan() && plateau.best.is_none_or(is_rise) {
            plateau.best = Some(score);
            plateau.epochs_without_rise = 0;
            return;
        }
        plateau.epochs_without_rise += 1;
        if plateau.epochs_without_rise > PLATEAU_PATIENCE {
            plateau.epochs_without_rise = 0;
            let lower = (plateau.rate * PLATEAU_FACTOR).max(PLATEAU_FLOOR);
            if plateau.rate - lower > PLATEAU_LEAST_CHANGE {
                plateau.rate = lower;
            }
        }
    }
}

/// From `start` to `end` along half a cosine, `way` from 0 to 1.
fn eased(start: f64, end: f64, way: f64) -> f64 {
    end + (start - end) / 2.0 * (1.0 + (PI * way).cos())
}

/// Learning rate and momentum of a batch.
fn one_cycle(base: f64, batch: usize, batches: usize) -> (f64, f64) {
    let peak = ONE_CYCLE_RISE * batches as f64 - 1.0;
    let last = batches as f64 - 1.0;
    let batch = batch as f64;
    let start = base * ONE_CYCLE_START;
    let (calm, quick) = ONE_CYCLE_MOMENTUM;
    if batch <= peak {
        let way = batch / peak;
        (eased(start, base, way), eased(calm, quick, way))
    } else {
        let way = (batch - peak) / (last - peak);
        (eased(base, start * ONE_CYCLE_END, way), eased(quick, calm, way))
    }
}

/// Part of the base rate that a batch has.
fn after_warm_up(base: f64, decay: Decay, batch: usize, warm_up: usize, batches: usize) -> f64 {
    if batch < warm_up {
        return batch as f64 / warm_up as f64;
    }
    let way = (batch - warm_up) as f64 / batches.saturating_sub(warm_up).max(1) as f64;
    let end = POLYNOMIAL_END / base;
    match decay {
        Decay::Constant => 1.0,
        Decay::Linear => (1.0 - way).max(0.0),
        Decay::Cosine => eased(1.0, 0.0, way).max(0.0),
        Decay::CosineWithRestarts => {
            if way >= 1.0 {
                0.0
            } else {
                eased(1.0, 0.0, way)
            }
        }
        Decay::Polynomial => end + (1.0 - end) * (1.0 - way).max(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(config: ScheduleConfig, epochs: usize, batches_per_epoch: usize) -> Vec<Rates> {
        let mut scheduler = Scheduler::new(config, 0.01, epochs, batches_per_epoch);
        let mut rates = Vec::new();
        for _ in 0..epochs {
            for _ in 0..batches_per_epoch {
                rates.push(scheduler.rates());
                scheduler.after_batch();
            }
            scheduler.after_epoch(serde_json::from_str("0.5").unwrap());
        }
        rates
    }

    /// Reference: PyTorch's `OneCycleLR(max_lr=0.01, total_steps=20)` on Adam.
    #[test]
    fn one_cycle_moves_the_first_beta_as_pytorch_does() {
        let rates = rates(ScheduleConfig::OneCycle, 5, 4);
        let expected =
            [(0, 0.95), (1, 0.940_451), (4, 0.859_549), (5, 0.85), (12, 0.9), (18, 0.948_746)];
        for (batch, expected) in expected {
            let found = rates[batch].momentum.unwrap();
            assert!((found - expected).abs() < 1e-6, "{batch}: {found} is not {expected}");
        }
    }

    #[test]
    fn one_cycle_moves_the_momentum_against_the_rate() {
        let rates = rates(ScheduleConfig::OneCycle, 10, 10);
        let momenta: Vec<f64> = rates.iter().filter_map(|rates| rates.momentum).collect();
        assert!((momenta[0] - 0.95).abs() < 1e-12 && (momenta[99] - 0.95).abs() < 1e-12);
        assert!(
            (momenta[29] - 0.85).abs() < 1e-12 && (rates[29].learning_rate - 0.01).abs() < 1e-12
        );
    }

    /// Reference: the formula of Transformers' `get_polynomial_decay_schedule_with_warmup`, by hand.
    #[test]
    fn polynomial_decay_ends_just_above_its_floor() {
        let config = ScheduleConfig::WarmUp { ratio: 0.1, decay: Decay::Polynomial };
        let rates = rates(config, 10, 2);
        assert_eq!(rates[0].learning_rate, 0.0);
        assert!((rates[2].learning_rate - 0.01).abs() < 1e-12);
        assert!((rates[11].learning_rate - ((0.01 - 1e-7) * 0.5 + 1e-7)).abs() < 1e-12);
        assert!((rates[19].learning_rate - ((0.01 - 1e-7) / 18.0 + 1e-7)).abs() < 1e-12);
    }

    #[test]
    fn rates_are_finite_and_in_range_whatever_the_length() {
        let decays = [
            Decay::Constant,
            Decay::Linear,
            Decay::Cosine,
            Decay::CosineWithRestarts,
            Decay::Polynomial,
        ];
        let warm_ups = decays.map(|decay| ScheduleConfig::WarmUp { ratio: 0.1, decay });
        let others = [
            ScheduleConfig::None,
            ScheduleConfig::Plateau,
            ScheduleConfig::Cosine,
            ScheduleConfig::OneCycle,
        ];
        for config in warm_ups.into_iter().chain(others) {
            for (epochs, batches) in [(1, 1), (1, 2), (2, 1), (1, 10), (7, 3), (30, 1)] {
                for Rates { learning_rate, .. } in rates(config, epochs, batches) {
                    assert!((0.0..=0.01 + 1e-12).contains(&learning_rate), "{config:?}");
                }
            }
        }
    }
}
