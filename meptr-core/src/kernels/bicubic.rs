//! Taps of bicubic resizing, as Pillow computes them.

use std::ops::Range;

/// Fraction bits of the weights, as in Pillow: 32 minus 8 for the pixel and 2 for overshoot.
pub(crate) const WEIGHT_BITS: u32 = 22;

/// Input pixels whose weighted sum is one output pixel, and their weights in fixed point.
#[derive(Debug)]
pub struct BicubicTaps {
    /// First input pixel.
    pub start: usize,
    /// Weights of the pixels from `start` on, in 1/2^22.
    pub weights: Vec<i32>,
}

/// Taps of the output pixels `part` of one axis that is resized from `input` to `output` pixels.
///
/// Antialiased bicubic (a = -0.5), as in `Image.resize(.., Resampling.BICUBIC)` of Pillow 11.
pub fn bicubic_taps(input: usize, output: usize, part: Range<usize>) -> Vec<BicubicTaps> {
    if input == output {
        let copied = |start| BicubicTaps { start, weights: vec![1 << WEIGHT_BITS] };
        return part.map(copied).collect(); // Pillow skips the pass
    }
    let scale = input as f64 / output as f64;
    let spread = scale.max(1.0); // the kernel widens when the image shrinks
    let support = 2.0 * spread;
    let taps = part.map(|at| {
        let centre = (at as f64 + 0.5) * scale;
        let start = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(input);
        let weight = |x: usize| cubic_kernel((x as f64 - centre + 0.5) * (1.0 / spread));
        let weights: Vec<f64> = (start..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let weights = weights.into_iter().map(|weight| to_fixed_point(weight / sum)).collect();
        BicubicTaps { start, weights }
    });
    taps.collect()
}

/// Keys' cubic convolution kernel with a = -0.5.
fn cubic_kernel(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Nearest fixed-point value, halves away from zero.
fn to_fixed_point(weight: f64) -> i32 {
    (weight * f64::from(1 << WEIGHT_BITS)).round() as i32
}
