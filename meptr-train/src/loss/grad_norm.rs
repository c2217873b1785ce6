//! Weights of two losses under one budget, kept so that both train at a like pace (GradNorm).

use serde::{Deserialize, Serialize};

/// Settings of GradNorm for a pair of losses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GradNormConfig {
    /// Strength with which a loss that has fallen less is preferred; 0 = equal gradients.
    pub alpha: f32,
    /// Step size on the weights, above 0.
    pub learning_rate: f32,
    /// No weight falls below this before rescaling, above 0.
    pub floor: f32,
}

/// A loss value and the norm of its gradient with respect to all trainable parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The loss.
    pub loss: f32,
    /// Euclidean norm of its gradient.
    pub gradient_norm: f32,
}

/// Weights of an emotion loss and a trait loss, moved by GradNorm. The reference calls such a pair a
/// wallet.
///
/// After Chen et al. 2018, "GradNorm", <https://arxiv.org/abs/1711.02257>, with the step in closed
/// form. Over the losses a batch has, with `G_k = weight_k norm_k`, `r_k = loss_k / first loss_k`
/// and the constant targets `mean(G) (r_k / mean(r))^alpha`:
///
/// 1. `weight_k -= learning_rate sign(G_k - target_k) norm_k`, which is one gradient step on
///    `sum_k abs(G_k - target_k)`;
/// 2. weights below the floor rise to it;
/// 3. the weights of these losses are scaled to sum to the whole budget. The weight of a loss the
///    batch lacks stays as it is, so that for a while both may sum to more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GradNormWeights {
    config: GradNormConfig,
    budget: f32,
    weights: [f32; 2],
    first_losses: [Option<f32>; 2],
}

/// GradNorm weights of both pairs of losses of stage 3, for checkpoints and logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GradNormState {
    /// Losses on labelled rows.
    pub supervised: GradNormWeights,
    /// Losses on pseudo-labels.
    pub pseudo: GradNormWeights,
}

/// First losses below this count as this, so that ratios stay finite.
const LEAST_FIRST_LOSS: f32 = 1e-8;

impl GradNormWeights {
    /// Starts from weights above 0, scaled to sum to `budget`.
    pub fn new(config: GradNormConfig, budget: f32, start: [f32; 2]) -> Self {
        let mut found = Self { config, budget, weights: start, first_losses: [None; 2] };
        found.spend_budget([true; 2]);
        found
    }

    /// Weights of the emotion loss and of the trait loss.
    pub fn weights(&self) -> [f32; 2] {
        self.weights
    }

    /// First value seen of each loss.
    pub fn first_losses(&self) -> [Option<f32>; 2] {
        self.first_losses
    }

    /// Moves the weights of the losses that the batch has; these must be finite.
    pub fn update(&mut self, measured: [Option<Measured>; 2]) {
        for (first, measured) in self.first_losses.iter_mut().zip(measured) {
            *first = first.or(measured.map(|measured| measured.loss.max(LEAST_FIRST_LOSS)));
        }
        let active: Vec<Active> = (0..2)
            .filter_map(|index| {
                let Measured { loss, gradient_norm } = measured[index]?;
                let pull = self.weights[index] * gradient_norm;
                Some(Active { index, gradient_norm, pull, ratio: loss / self.first_losses[index]? })
            })
            .collect();
        if active.is_empty() {
            return;
        }
        let mean =
            |of: fn(&Active) -> f32| active.iter().map(of).sum::<f32>() / active.len() as f32;
        let (mean_pull, mean_ratio) = (mean(|loss| loss.pull), mean(|loss| loss.ratio));
        for loss in &active {
            let target = mean_pull * (loss.ratio / mean_ratio).powf(self.config.alpha);
            let step = self.config.learning_rate * sign(loss.pull - target) * loss.gradient_norm;
            let weight = &mut self.weights[loss.index];
            *weight = (*weight - step).max(self.config.floor);
        }
        self.spend_budget(measured.map(|measured| measured.is_some()));
    }

    fn spend_budget(&mut self, is_active: [bool; 2]) {
        let chosen = self.weights.iter().zip(is_active).filter(|(_, is_active)| *is_active);
        let sum: f32 = chosen.map(|(weight, _)| weight).sum();
        if sum <= 0.0 {
            return; // no budget
        }
        let scale = self.budget / sum;
        for (weight, is_active) in self.weights.iter_mut().zip(is_active) {
            if is_active {
                *weight *= scale;
            }
        }
    }
}

struct Active {
    index: usize,
    gradient_norm: f32,
    pull: f32,
    ratio: f32,
}

/// As `f32::signum`, but 0 at 0 (and at NaN).
fn sign(x: f32) -> f32 {
    f32::from(x > 0.0) - f32::from(x < 0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: GradNormConfig =
        GradNormConfig { alpha: 1.0, learning_rate: 0.005, floor: 0.001 };

    fn measured(loss: f32, gradient_norm: f32) -> Option<Measured> {
        Some(Measured { loss, gradient_norm })
    }

    #[test]
    fn the_steeper_loss_gets_less_at_first() {
        let mut weights = GradNormWeights::new(CONFIG, 2.0, [1.0, 1.0]);
        weights.update([measured(3.0, 7.0), measured(0.3, 0.5)]);
        let [emotion, personality] = weights.weights();
        assert!(emotion < 1.0 && personality > 1.0);
        assert!((emotion + personality - 2.0).abs() < 1e-6);
    }

    #[test]
    fn a_single_loss_gets_the_whole_budget_and_the_other_keeps_its_weight() {
        let mut weights = GradNormWeights::new(CONFIG, 2.0, [0.5, 1.5]);
        weights.update([None, measured(0.3, 0.5)]);
        assert_eq!(weights.weights(), [0.5, 2.0]);
        assert_eq!(weights.first_losses(), [None, Some(0.3)]);
        weights.update([None, None]);
        assert_eq!(weights.weights(), [0.5, 2.0]);
    }

    #[test]
    fn weights_without_a_budget_stay_0_and_finite() {
        let weights = GradNormWeights::new(CONFIG, 0.0, [0.0, 0.0]);
        assert_eq!(weights.weights(), [0.0, 0.0]);
    }

    proptest! {
        #[test]
        fn weights_stay_positive_and_spend_the_budget(
            steps in prop::collection::vec((1e-6f32..100.0, 0f32..100.0, 1e-6f32..100.0, 0f32..100.0), 1..30)
        ) {
            let mut weights = GradNormWeights::new(CONFIG, 0.8, [0.4, 0.4]);
            for (loss, norm, other_loss, other_norm) in steps {
                weights.update([measured(loss, norm), measured(other_loss, other_norm)]);
                let [emotion, personality] = weights.weights();
                prop_assert!(emotion > 0.0 && personality > 0.0);
                prop_assert!((emotion + personality - 0.8).abs() < 1e-5);
            }
        }
    }
}
