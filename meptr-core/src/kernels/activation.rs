//! Activations that kernels apply while a sum is still in a register or in the cache.

use serde::Deserialize;

/// Activation between the two layers of a feed-forward block.
///
/// As JSON, `gelu` or `quick_gelu`: the names in the `config.json` of checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
}
