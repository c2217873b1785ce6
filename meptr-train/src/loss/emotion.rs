//! Classification losses for the seven emotions.

use candle::{D, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::personality::absolute;

/// Loss between emotion logits and labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EmotionLoss {
    /// [`cross_entropy_soft`] or [`cross_entropy_index`]: one emotion, or shares of several.
    #[serde(rename = "CE", alias = "ce", alias = "cross_entropy")]
    CrossEntropy,
    /// [`binary_cross_entropy`]: each emotion there or not.
    #[serde(rename = "BCE", alias = "bce", alias = "binary_cross_entropy")]
    BinaryCrossEntropy,
}

/// Class weights of stage 3, as published: those of [`class_weights`] on CMU-MOSEI's training split.
/// They obey `sum 1 / (1 + weight) = 1`, which only shares that sum to 1 per row give.
pub const STAGE_3_CLASS_WEIGHTS: [f32; 7] =
    [5.890161, 7.534918, 11.228363, 27.722221, 1.3049748, 5.6189237, 26.639517];

/// Class weights of stages 1 and 2: `(rows - sum of shares) / sum of shares` per emotion, 1 for an
/// emotion that no row has a share of.
///
/// - `shares`: one row of shares per labelled clip, in the order of `Emotion::ALL`
pub fn class_weights(shares: impl IntoIterator<Item = [f32; 7]>) -> [f32; 7] {
    let (mut rows, mut sums) = (0.0f64, [0.0f64; 7]);
    for row in shares {
        rows += 1.0;
        for (sum, share) in sums.iter_mut().zip(row) {
            *sum += f64::from(share);
        }
    }
    sums.map(|sum| if sum > 0.0 { ((rows - sum) / sum) as f32 } else { 1.0 })
}

/// Targets of a batch of emotion logits.
#[derive(Debug, Clone)]
pub enum EmotionTargets {
    /// `(batch, 7)`, f32: the share of each class; rows need not sum to 1.
    Shares(Tensor),
    /// `(batch,)`, u32: the class of each row.
    Classes(Tensor),
}

/// Cross-entropy of the softmax with shares of classes, mean over the batch.
///
/// `-sum_c weight_c target_c ln softmax(logits)_c`, summed over rows, divided by their number (not
/// by the weights, as PyTorch does).
///
/// - `logits`, `targets`: `(batch, classes)`, f32; a NaN target makes the loss NaN
/// - `class_weights`: `(classes,)`, f32
/// - returns a scalar; NaN for no rows
///
/// # Errors
/// When a shape differs from the above.
pub fn cross_entropy_soft(
    logits: &Tensor,
    targets: &Tensor,
    class_weights: Option<&Tensor>,
) -> Result<Tensor> {
    let per_class = weighted((log_softmax(logits)? * targets)?, class_weights)?;
    per_class.sum_all()?.neg()? / logits.dim(0)? as f64
}

/// Cross-entropy of the softmax with one class per row, weighted mean over the batch.
///
/// `-sum_b weight_(class_b) ln softmax(logits_b)_(class_b) / sum_b weight_(class_b)`.
///
/// - `logits`: `(batch, classes)`, f32
/// - `classes`: `(batch,)`, u32
/// - `class_weights`: `(classes,)`, f32
/// - returns a scalar; NaN for no rows
///
/// # Errors
/// When a shape differs from the above or a class does not exist.
pub fn cross_entropy_index(
    logits: &Tensor,
    classes: &Tensor,
    class_weights: Option<&Tensor>,
) -> Result<Tensor> {
    let log_probability = log_softmax(logits)?.gather(&classes.unsqueeze(1)?, 1)?.squeeze(1)?;
    match class_weights {
        None => log_probability.neg()?.mean_all(),
        Some(class_weights) => {
            let weights = class_weights.index_select(classes, 0)?; // (batch,)
            (log_probability * &weights)?.sum_all()?.neg()? / weights.sum_all()?
        }
    }
}

/// Binary cross-entropy of each class's logit, mean over all cells.
///
/// `weight_c (max(z, 0) - z y + ln(1 + exp(-|z|)))`, finite for every finite `z`; the mean is not
/// divided by the weights.
///
/// - `logits`: `(batch, classes)`, f32, before the sigmoid
/// - `targets`: `(batch, classes)`, f32, 0 or 1; a NaN target makes the loss NaN
/// - `class_weights`: `(classes,)`, f32
/// - returns a scalar; NaN for no rows
///
/// # Errors
/// When a shape differs from the above.
pub fn binary_cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    class_weights: Option<&Tensor>,
) -> Result<Tensor> {
    let distance = absolute(logits)?;
    let positive_part = ((logits + &distance)? / 2.0)?;
    let tail = (distance.neg()?.exp()? + 1.0)?.log()?;
    let per_cell = ((positive_part - (logits * targets)?)? + tail)?;
    weighted(per_cell, class_weights)?.mean_all()
}

/// Logarithm of the softmax over the last axis, with a gradient.
fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let highest = logits.detach().max_keepdim(D::Minus1)?;
    let shifted = logits.broadcast_sub(&highest)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    shifted.broadcast_sub(&log_sum)
}

fn weighted(per_class: Tensor, class_weights: Option<&Tensor>) -> Result<Tensor> {
    match class_weights {
        Some(class_weights) => per_class.broadcast_mul(class_weights),
        None => Ok(per_class),
    }
}

#[cfg(test)]
mod tests {
    use candle::{Device, Var};
    use proptest::prelude::*;

    use super::*;

    const START: [[f32; 3]; 2] = [[0.3, -1.2, 2.0], [-0.4, 0.9, 0.1]];

    fn losses(logits: &Tensor) -> Result<Vec<Tensor>> {
        let device = &Device::Cpu;
        let weights = Tensor::new(&[0.5f32, 2.0, 3.0], device)?;
        let shares = Tensor::new(&[[0.2f32, 0.8, 0.0], [1.0, 0.0, 1.0]], device)?;
        let classes = Tensor::new(&[2u32, 0], device)?;
        let present = Tensor::new(&[[0.0f32, 1.0, 0.0], [1.0, 0.0, 1.0]], device)?;
        let mut losses = Vec::new();
        for weights in [None, Some(&weights)] {
            losses.push(cross_entropy_soft(logits, &shares, weights)?);
            losses.push(cross_entropy_index(logits, &classes, weights)?);
            losses.push(binary_cross_entropy(logits, &present, weights)?);
        }
        Ok(losses)
    }

    /// Four clips, two of them of several emotions. Shares of Anger sum to 1 + 1/2 + 1/4 = 7/4, so
    /// its weight is (4 - 7/4) / (7/4) = 9/7; of Sadness to 3/4, so (13/4) / (3/4) = 13/3.
    #[test]
    fn class_weights_count_shares_and_not_rows() {
        let found = class_weights([
            [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.25, 0.0, 0.0, 0.0, 0.75, 0.0],
            [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ]);
        let expected = [3.0, 9.0 / 7.0, 7.0, 1.0, 1.0, 13.0 / 3.0, 1.0];
        assert!(
            found.iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
        let sum: f32 = STAGE_3_CLASS_WEIGHTS.iter().map(|weight| 1.0 / (1.0 + weight)).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }

    #[test]
    fn gradients_are_those_of_finite_differences() -> Result<()> {
        let logits = Var::new(&START, &Device::Cpu)?;
        for (kind, loss) in losses(&logits)?.iter().enumerate() {
            let gradients = loss.backward()?;
            let gradient: Vec<Vec<f32>> = gradients.get(&logits).unwrap().to_vec2()?;
            for (row, column) in (0..2).flat_map(|row| (0..3).map(move |column| (row, column))) {
                let moved = |step: f32| -> Result<f32> {
                    let mut start = START;
                    start[row][column] += step;
                    losses(&Tensor::new(&start, &Device::Cpu)?)?[kind].to_scalar()
                };
                let difference = (moved(0.01)? - moved(-0.01)?) / 0.02;
                assert!((gradient[row][column] - difference).abs() < 1e-3);
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn finite_logits_give_finite_losses_and_gradients(
            values in prop::collection::vec(-1e30f32..1e30, 6)
        ) {
            let logits = Var::from_vec(values, (2, 3), &Device::Cpu).unwrap();
            for loss in losses(&logits).unwrap() {
                let found: f32 = loss.to_scalar().unwrap();
                prop_assert!(found.is_finite(), "{found}");
                let gradients = loss.backward().unwrap();
                let gradient: Vec<f32> =
                    gradients.get(&logits).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                prop_assert!(gradient.iter().all(|slope| slope.is_finite()));
            }
        }
    }
}
