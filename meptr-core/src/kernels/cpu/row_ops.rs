//! Activations, softmax and layer norm on rows of f32, in loops that the compiler vectorises.
//!
//! Functions that take an `Arch` dispatch to the instructions of the CPU; the others inline into a
//! caller that has done so. Differences from the exact functions stay below 5e-7 for values of the
//! order of 1.

use pulp::{Arch, Simd, WithSimd};

use crate::kernels::Activation;

/// Lanes of a row's sums, so that they vectorise and round less.
const LANES: usize = 16;

/// Applies an activation to a row in place.
pub(crate) fn activate_row(arch: Arch, row: &mut [f32], activation: Activation) {
    match activation {
        Activation::Gelu => arch.dispatch(MapRow { row, function: gelu::<false> }),
        Activation::QuickGelu => arch.dispatch(MapRow { row, function: quick_gelu::<false> }),
    }
}

struct MapRow<'a, F> {
    row: &'a mut [f32],
    function: F,
}

impl<F: Fn(f32) -> f32> WithSimd for MapRow<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for x in self.row.iter_mut() {
            *x = (self.function)(*x);
        }
    }
}

/// Softmax of a row in place.
pub(crate) fn softmax_row(arch: Arch, row: &mut [f32]) {
    arch.dispatch(SoftmaxRow(row));
}

struct SoftmaxRow<'a>(&'a mut [f32]);

impl WithSimd for SoftmaxRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        softmax_inline(self.0);
    }
}

/// Softmax of a row in place, with the instructions of the caller.
#[inline(always)]
pub(super) fn softmax_inline(row: &mut [f32]) {
    let largest = fold_lanes(row, f32::NEG_INFINITY, |max, x| if x > max { x } else { max });
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    for x in row.iter_mut() {
        *x = exp::<false>(*x - largest);
    }
    let sum: f32 = fold_lanes(row, 0.0, |sum, x| sum + x).into_iter().sum();
    let scale = 1.0 / sum;
    for x in row.iter_mut() {
        *x *= scale;
    }
}

/// Weights of a layer norm, `(width,)` each, and its epsilon, which is added to the variance.
#[derive(Clone, Copy)]
pub(crate) struct LayerNormWeights<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) eps: f32,
}

/// `out = (row - mean) / sqrt(variance + eps) * weight + bias`.
pub(crate) fn layer_norm_row(arch: Arch, row: &[f32], out: &mut [f32], weights: LayerNormWeights) {
    arch.dispatch(LayerNormRow { row, out, weights });
}

struct LayerNormRow<'a> {
    row: &'a [f32],
    out: &'a mut [f32],
    weights: LayerNormWeights<'a>,
}

impl WithSimd for LayerNormRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.row.len() as f32;
        let LayerNormWeights { weight, bias, eps } = self.weights;
        let mean = fold_lanes(self.row, 0.0, |sum, x| sum + x).into_iter().sum::<f32>() / width;
        let squares = fold_lanes(self.row, 0.0, |sum, x| sum + (x - mean) * (x - mean));
        let scale = 1.0 / (squares.into_iter().sum::<f32>() / width + eps).sqrt();
        let parameters = weight.iter().zip(bias);
        for ((out, x), (weight, bias)) in self.out.iter_mut().zip(self.row).zip(parameters) {
            *out = (x - mean) * scale * weight + bias;
        }
    }
}

/// Folds every [`LANES`]th value of a row into one lane.
#[inline(always)]
fn fold_lanes(row: &[f32], start: f32, fold: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut lanes = [start; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = fold(*lane, *x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = fold(*lane, *x);
    }
    lanes
}

/// `a b + c`; with `FUSED` as one instruction, for code dispatched to a CPU that has it.
#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `x (1 + erf(x / sqrt(2))) / 2`.
#[inline(always)]
pub(crate) fn gelu<const FUSED: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<FUSED>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `x sigmoid(1.702 x)`.
#[inline(always)]
pub(crate) fn quick_gelu<const FUSED: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FUSED>(-1.702 * x))
}

/// `x sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp::<false>(-x))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp::<false>(-x))
}

/// Abramowitz and Stegun 7.1.26, within 1.5e-7.
#[inline(always)]
fn erf<const FUSED: bool>(x: f32) -> f32 {
    let positive = x.abs();
    let t = 1.0 / multiply_add::<FUSED>(0.327_591_1, positive, 1.0);
    let series = multiply_add::<FUSED>(1.061_405_4, t, -1.453_152_1);
    let series = multiply_add::<FUSED>(series, t, 1.421_413_8);
    let series = multiply_add::<FUSED>(series, t, -0.284_496_72);
    let series = multiply_add::<FUSED>(series, t, 0.254_829_6);
    (1.0 - series * t * exp::<FUSED>(-positive * positive)).copysign(x)
}

/// `e^x`, 0 below -87 and a large finite value above 88: `2^n` by the exponent's bits, times the
/// Taylor series of the remainder, at most ln(2) / 2.
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves a whole number in the low bits
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > 88.0 { 88.0 } else { x };
    let is_zero = x < -87.0;
    let shifted = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = multiply_add::<FUSED>(-whole, LN_2_HIGH, x);
    let rest = multiply_add::<FUSED>(-whole, LN_2_LOW, rest);
    let series = multiply_add::<FUSED>(1.0 / 720.0, rest, 1.0 / 120.0);
    let series = multiply_add::<FUSED>(series, rest, 1.0 / 24.0);
    let series = multiply_add::<FUSED>(series, rest, 1.0 / 6.0);
    let series = multiply_add::<FUSED>(series, rest, 0.5);
    let series = multiply_add::<FUSED>(series, rest, 1.0);
    let series = multiply_add::<FUSED>(series, rest, 1.0);
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if is_zero { 0.0 } else { series * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_equal_the_exact_ones() {
        check::<false>();
        check::<true>();
    }

    fn check<const FUSED: bool>() {
        for step in -9000..9000 {
            let x = step as f32 * 0.01;
            let exact = f64::from(x).exp();
            let found = f64::from(exp::<FUSED>(x));
            assert!(
                !(-86.9..=88.0).contains(&x) || (found - exact).abs() <= 4e-7 * exact,
                "exp {x}"
            );
            let logistic = f64::from(x) / (1.0 + (-1.702 * f64::from(x)).exp());
            let found = f64::from(quick_gelu::<FUSED>(x));
            assert!((found - logistic).abs() < 1e-6 * logistic.abs().max(1.0));
            let smooth = candle_gelu(x);
            let found = gelu::<FUSED>(x);
            assert!((found - smooth).abs() < 5e-7 * smooth.abs().max(1.0), "gelu {x}");
        }
        assert!(exp::<FUSED>(f32::NAN).is_nan() && gelu::<FUSED>(f32::NAN).is_nan());
    }

    fn candle_gelu(x: f32) -> f32 {
        let x = candle::Tensor::new(f64::from(x), &candle::Device::Cpu).unwrap();
        x.gelu_erf().unwrap().to_scalar::<f64>().unwrap() as f32
    }
}
