//! Functions without weights: softmax, activations, dropout, means over real steps.

use candle::{D, Device, Result, Tensor};

use super::Mode;
use crate::kernels::cpu::autograd;

/// Far below every score, yet finite, so that a row without any real entry stays finite.
const MASKED: f64 = 1e30;

/// Softmax over the last axis, with gradient.
///
/// # Errors
/// When the last axis is empty.
pub fn softmax(scores: &Tensor) -> Result<Tensor> {
    if autograd::is_fusable(scores) {
        return autograd::softmax(scores);
    }
    // The shift only changes the range of `exp`, so it needs no gradient.
    let exp = scores.broadcast_sub(&scores.detach().max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// Softmax over the real entries of the last axis; the others get weight 0.
///
/// - `scores`: f32
/// - `mask`: broadcasts to `scores`, f32, 1 = real, 0 = absent; `None` = all real
/// - returns the shape of `scores`; all 0 where no entry is real
///
/// # Errors
/// When the shapes do not fit.
pub fn masked_softmax(scores: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let Some(mask) = mask else { return softmax(scores) };
    let mask = mask.to_dtype(scores.dtype())?;
    let shift = mask.affine(MASKED, -MASKED)?;
    softmax(&scores.broadcast_add(&shift)?)?.broadcast_mul(&mask)
}

/// `max(x, 0)`, whose gradient at 0 is 0 as in PyTorch (Candle's is 1).
///
/// # Errors
/// When the device has no memory left.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if autograd::is_fusable(x) {
        return autograd::relu_dropout(x, None, true);
    }
    x * positive(x)?
}

/// `x` where positive, else `slope * x`.
///
/// # Errors
/// When the device has no memory left.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    x * positive(x)?.affine(1.0 - slope, slope)?
}

/// `1 / (1 + exp(-x))`; its gradient, unlike that of the formula, is finite for every finite `x`.
///
/// # Errors
/// When the device has no memory left.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    candle_nn::ops::sigmoid(x)
}

/// In training, sets each element to 0 with the given probability and scales the others by
/// `1 / (1 - probability)`; in prediction, returns `x`.
///
/// # Errors
/// When the device has no memory left.
pub fn dropout(x: &Tensor, probability: f32, mode: &mut Mode) -> Result<Tensor> {
    let Some(scales) = dropout_scales(x.elem_count(), probability, mode) else {
        return Ok(x.clone());
    };
    if autograd::is_fusable(x) {
        return autograd::relu_dropout(x, Some(scales), false);
    }
    x * Tensor::from_vec(scales, x.shape(), x.device())?.to_dtype(x.dtype())?
}

/// [`dropout`] of [`relu`].
///
/// # Errors
/// When the device has no memory left.
pub fn relu_dropout(x: &Tensor, probability: f32, mode: &mut Mode) -> Result<Tensor> {
    if !autograd::is_fusable(x) {
        return dropout(&relu(x)?, probability, mode);
    }
    autograd::relu_dropout(x, dropout_scales(x.elem_count(), probability, mode), true)
}

/// Dropout's factors of `count` elements; `None` when it leaves them unchanged.
pub(super) fn dropout_scales(count: usize, probability: f32, mode: &mut Mode) -> Option<Vec<f32>> {
    let stream = mode.dropout()?;
    if probability <= 0.0 {
        return None;
    }
    let kept = if probability < 1.0 { 1.0 / (1.0 - probability) } else { 0.0 };
    // One draw of 64 bits decides two elements.
    let threshold = (f64::from(probability) * 2.0_f64.powi(32)) as u64;
    let mut scales = Vec::with_capacity(count + 1);
    while scales.len() < count {
        let bits = stream.next_u64();
        for half in [bits >> 32, bits & 0xFFFF_FFFF] {
            scales.push(if half < threshold { 0.0 } else { kept });
        }
    }
    scales.truncate(count);
    Some(scales)
}

/// Mask of the real steps of a padded batch.
///
/// - `lengths`: real steps per row; a length beyond `steps` means all of them
/// - returns `(rows, steps)`, f32, 1 = real step, 0 = padding
///
/// # Errors
/// When the device has no memory left.
pub fn length_mask(lengths: &[usize], steps: usize, device: &Device) -> Result<Tensor> {
    let row = |&length: &usize| (0..steps).map(move |step| f32::from(u8::from(step < length)));
    let mask: Vec<f32> = lengths.iter().flat_map(row).collect();
    Tensor::from_vec(mask, (lengths.len(), steps), device)
}

/// Mean over the middle axis.
///
/// - `x`: `(rows, steps, width)`, f32
/// - `mask`: `(rows, steps)`, f32, 1 = real step, 0 = absent; `None` = all real
/// - returns `(rows, width)`; 0 in rows without a real step
///
/// # Errors
/// When the shapes do not fit.
pub fn masked_mean(x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let Some(mask) = mask else { return x.mean(1) };
    let mask = mask.to_dtype(x.dtype())?;
    let sum = x.broadcast_mul(&mask.unsqueeze(2)?)?.sum(1)?;
    let count = mask.sum_keepdim(1)?.maximum(1.0)?; // (rows, 1)
    sum.broadcast_div(&count)
}

/// 1 where `x` is above 0, else 0; without gradient.
fn positive(x: &Tensor) -> Result<Tensor> {
    x.detach().gt(0.0)?.to_dtype(x.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SeedStreams;
    use candle::{DType, Var};

    fn training(seed: u64) -> Mode {
        Mode::Train(SeedStreams::new(seed).stream("dropout"))
    }

    #[test]
    fn dropout_repeats_by_seed_and_keeps_the_expected_value() -> Result<()> {
        let ones = Tensor::ones((100, 201), DType::F32, &Device::Cpu)?;
        let first = dropout(&ones, 0.3, &mut training(1))?.flatten_all()?.to_vec1::<f32>()?;
        let again = dropout(&ones, 0.3, &mut training(1))?.flatten_all()?.to_vec1::<f32>()?;
        let other = dropout(&ones, 0.3, &mut training(2))?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(first, again);
        assert_ne!(first, other);
        assert!(first.iter().all(|&x| x == 0.0 || x == 1.0 / (1.0 - 0.3)));
        let dropped = first.iter().filter(|&&x| x == 0.0).count() as f64 / first.len() as f64;
        assert!((dropped - 0.3).abs() < 0.02, "{dropped}");
        Ok(())
    }

    #[test]
    fn one_stream_gives_a_new_mask_each_time_and_eval_none() -> Result<()> {
        let ones = Tensor::ones(64, DType::F32, &Device::Cpu)?;
        let mut mode = training(1);
        let first = dropout(&ones, 0.5, &mut mode)?.to_vec1::<f32>()?;
        assert_ne!(first, dropout(&ones, 0.5, &mut mode)?.to_vec1::<f32>()?);
        assert_eq!(dropout(&ones, 0.5, &mut Mode::Eval)?.to_vec1::<f32>()?, [1.0; 64]);
        assert_eq!(dropout(&ones, 1.0, &mut mode)?.to_vec1::<f32>()?, [0.0; 64]);
        Ok(())
    }

    #[test]
    fn masked_softmax_equals_softmax_without_the_masked_entries() -> Result<()> {
        let scores = Tensor::new(&[[1.0_f32, 50.0, -2.0], [3.0, 4.0, 5.0]], &Device::Cpu)?;
        let mask = Tensor::new(&[[1.0_f32, 0.0, 1.0], [0.0, 0.0, 0.0]], &Device::Cpu)?;
        let found = masked_softmax(&scores, Some(&mask))?.to_vec2::<f32>()?;
        let alone = softmax(&Tensor::new(&[1.0_f32, -2.0], &Device::Cpu)?)?.to_vec1::<f32>()?;
        assert_eq!(found, [[alone[0], 0.0, alone[1]], [0.0; 3]]);
        Ok(())
    }

    #[test]
    fn means_count_real_steps_only() -> Result<()> {
        let x = Tensor::arange(0_f32, 12.0, &Device::Cpu)?.reshape((3, 4, 1))?;
        let mask = length_mask(&[9, 2, 0], 4, &Device::Cpu)?;
        let found = masked_mean(&x, Some(&mask))?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(found, [1.5, 4.5, 0.0]);
        Ok(())
    }

    #[test]
    fn extreme_inputs_stay_finite() -> Result<()> {
        let x = Var::new(&[-1e4_f32, -100.0, 0.0, 100.0, 1e4], &Device::Cpu)?;
        let probability = sigmoid(&x)?;
        assert_eq!(probability.to_vec1::<f32>()?, [0.0, 0.0, 0.5, 1.0, 1.0]);
        let gradients = probability.backward()?;
        let gradient = gradients.get(&x).expect("sigmoid has a gradient");
        assert_eq!(gradient.to_vec1::<f32>()?, [0.0, 0.0, 0.25, 0.0, 0.0]);
        assert_eq!(softmax(&x)?.to_vec1::<f32>()?, [0.0, 0.0, 0.0, 0.0, 1.0]);
        Ok(())
    }
}
