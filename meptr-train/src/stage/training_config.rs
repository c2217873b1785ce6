//! Hyperparameters of a training: update rule, learning rate, batches and epochs.

use serde::{Deserialize, Serialize};

use crate::optim::{OptimiserConfig, ScheduleConfig};
use crate::settings::{by_name, by_name_if_any};

/// Settings of a training loop; the defaults are those of the published stages 1 and 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainingConfig {
    /// Update rule.
    #[serde(deserialize_with = "by_name")]
    pub optimiser: OptimiserConfig,
    /// Learning rate, above 0.
    pub learning_rate: f64,
    /// Learning-rate schedule.
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

impl Default for TrainingConfig {
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

impl TrainingConfig {
    /// Everything that makes no sense; `path` is the key of the table in its file.
    pub fn problems(&self, path: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |is_right: bool, key: &str, requirement: &str| {
            if !is_right {
                problems.push(format!("`{path}.{key}` must be {requirement}"));
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
        problems.extend(self.optimiser.problems(&format!("{path}.optimiser")));
        problems
    }
}

/// Settings of a training that replace those of another; none keeps the other's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // as in `TrainingConfig`
pub struct TrainingOverrides {
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

impl TrainingOverrides {
    /// Other settings with these changes.
    pub fn applied_to(&self, other: &TrainingConfig) -> TrainingConfig {
        TrainingConfig {
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
