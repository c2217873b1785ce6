//! Rows times weights.

use meptr_core::Precision;
use pulp::Arch;

use super::scratch::zeros;
#[cfg(target_arch = "x86_64")]
use super::tiles;
use super::{Unit, vectors};
use crate::backbones::Activation;

/// Rows below which vectors are faster than tiles, which compute with 32 at a time: on two cores and
/// weights of 768 x 3072, 16 rows 111 GFLOP/s to 74, 32 rows 138 to 151.
const FEW_ROWS: usize = 24;

/// Rows of numbers, which may overlap: row `r` starts at number `r * step`.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The numbers of all rows.
    pub numbers: &'a [f32],
    /// From the start of a row to that of the next.
    pub step: usize,
    /// The number of rows.
    pub count: usize,
}

/// Some neighbouring outputs: `scale (x W^T) + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Where the part's numbers start in each row.
    pub offset: usize,
    /// `(outputs, depth)`, row by row.
    pub weight: &'a [f32],
    /// Numbers of a row that are multiplied.
    pub depth: usize,
    /// `(outputs,)`.
    pub bias: &'a [f32],
    /// Multiplies the sum before the bias is added.
    pub scale: f32,
}

/// What follows the bias.
#[derive(Debug, Clone, Copy)]
pub enum Ending<'a> {
    /// Nothing.
    Linear,
    /// An activation.
    Activated(Activation),
    /// Numbers of the output's shape are added.
    Plus(&'a [f32]),
}

/// Products of rows with all parts, whose outputs stand side by side: `(rows.count, outputs)`, with
/// factors of this precision at least.
///
/// # Panics
/// When sizes do not fit each other; callers check shapes.
pub fn multiply(precision: Precision, rows: Rows, parts: &[Part], ending: Ending) -> Vec<f32> {
    let unit = match rows.count {
        ..FEW_ROWS => Unit::Vectors(Arch::new()),
        _ => Unit::best(precision),
    };
    multiply_on(unit, rows, parts, ending)
}

fn multiply_on(unit: Unit, rows: Rows, parts: &[Part], ending: Ending) -> Vec<f32> {
    let width: usize = parts.iter().map(|part| part.bias.len()).sum();
    let mut out = zeros(rows.count * width);
    if out.is_empty() {
        return out;
    }
    if let Ending::Plus(residual) = ending {
        assert_eq!(residual.len(), out.len(), "a residual is of the output's shape");
    }
    match unit {
        Unit::Vectors(arch) => vectors::multiply(arch, rows, parts, ending, (&mut out, width)),
        #[cfg(target_arch = "x86_64")]
        Unit::Tiles(tiles, pieces) => {
            tiles::multiply(tiles, pieces, rows, parts, ending, (&mut out, width));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wave(count: usize, speed: f64) -> Vec<f32> {
        (0..count).map(|at| (at as f64 * at as f64 * speed + 0.3).sin() as f32).collect()
    }

    /// The same by its definition, in f64.
    fn plain(rows: Rows, parts: &[Part], ending: Ending) -> Vec<f64> {
        let mut out = Vec::new();
        for row in 0..rows.count {
            for part in parts {
                let x = &rows.numbers[row * rows.step + part.offset..][..part.depth];
                for (weight, bias) in part.weight.chunks_exact(part.depth).zip(part.bias) {
                    let products = x.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let sum = products.sum::<f64>() * f64::from(part.scale) + f64::from(*bias);
                    out.push(match ending {
                        Ending::Linear => sum,
                        Ending::Plus(residual) => sum + f64::from(residual[out.len()]),
                        Ending::Activated(Activation::QuickGelu) => {
                            sum / (1.0 + (-1.702 * sum).exp())
                        }
                        Ending::Activated(Activation::Gelu) => {
                            let x = candle::Tensor::new(sum, &candle::Device::Cpu).unwrap();
                            x.gelu_erf().unwrap().to_scalar().unwrap()
                        }
                    });
                }
            }
        }
        out
    }

    fn check(count: usize, step: usize, outputs: &[usize], depth: usize, ending: usize) {
        let numbers = wave(count * step + depth + 3, 0.37);
        let rows = Rows { numbers: &numbers, step, count };
        let width: usize = outputs.iter().sum();
        let (weight, bias) = (wave(width * depth, 0.71), wave(width, 0.13));
        let residual = wave(count * width, 0.91);
        let mut first = 0;
        let parts: Vec<Part> = outputs
            .iter()
            .enumerate()
            .map(|(number, outputs)| {
                let weight = &weight[first * depth..][..outputs * depth];
                let bias = &bias[first..first + outputs];
                first += outputs;
                let scale = if ending == 0 && number == 0 { 0.3 } else { 1.0 };
                Part { offset: number.min(3), weight, depth, bias, scale }
            })
            .collect();
        let ending = [
            Ending::Linear,
            Ending::Activated(Activation::Gelu),
            Ending::Activated(Activation::QuickGelu),
            Ending::Plus(&residual),
        ][ending];
        let expected = plain(rows, &parts, ending);
        for unit in Unit::all() {
            let found = multiply_on(unit, rows, &parts, ending);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                let off = (f64::from(*found) - expected).abs();
                assert!(off < 2e-6 * (depth as f64).sqrt().max(1.0), "{found} is not {expected}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn products_equal_their_definition(
            count in 0usize..60,
            step in 1usize..90,
            outputs in prop::collection::vec(1usize..140, 1..4),
            depth in 1usize..70,
            ending in 0usize..4,
        ) {
            check(count, step, &outputs, depth, ending);
        }
    }

    #[test]
    fn long_sums_and_many_rows_equal_their_definition() {
        check(5, 700, &[40], 700, 0);
        check(192 * rayon::current_num_threads() + 7, 9, &[33, 3], 20, 3);
        check(150, 2100, &[40], 2100, 1); // more depths than tiles add up at a time
        check(1400, 3, &[33], 2100, 3); // more rows than tiles lay out at a time
    }

    /// Against f64, tiles err no more than the vectors do, also where numbers of a row are a million
    /// times as large as others.
    #[test]
    fn every_unit_is_as_exact_as_sums_in_f32() {
        let spread = |count: usize, speed: f64| -> Vec<f32> {
            let sizes = wave(count, speed * 0.61);
            wave(count, speed)
                .into_iter()
                .zip(sizes)
                .map(|(x, size)| x * 1000_f32.powf(size))
                .collect()
        };
        let (numbers, weight, bias) =
            (spread(64 * 768, 0.37), spread(96 * 768, 0.71), vec![0.0; 96]);
        let rows = Rows { numbers: &numbers, step: 768, count: 64 };
        let part = [Part { offset: 0, weight: &weight, depth: 768, bias: &bias, scale: 1.0 }];
        let exact = plain(rows, &part, Ending::Linear);
        let error = |unit| {
            let found = multiply_on(unit, rows, &part, Ending::Linear);
            let squares =
                found.iter().zip(&exact).map(|(x, exact)| (f64::from(*x) - exact).powi(2));
            (squares.sum::<f64>() / exact.iter().map(|x| x * x).sum::<f64>()).sqrt()
        };
        let of_vectors = error(Unit::Vectors(Arch::new()));
        for unit in Unit::all() {
            let off = error(unit);
            assert!(off < 1.2 * of_vectors, "{unit:?}: {off:e}, vectors {of_vectors:e}");
        }
    }

    /// One piece gives what the definition gives for factors that are rounded before.
    #[test]
    fn products_of_bf16_are_those_of_rounded_factors() {
        let unit = Unit::best(Precision::Bf16);
        if !crate::product::has_bf16() {
            return;
        }
        let rounded = |numbers: &[f32]| -> Vec<f32> {
            let nearest = |x: &f32| f32::from_bits((x.to_bits() + 0x8000) & 0xFFFF_0000);
            numbers.iter().map(nearest).collect()
        };
        let (numbers, weight, bias) = (wave(40 * 90, 0.37), wave(50 * 90, 0.71), wave(50, 0.13));
        let of = |weight| [Part { offset: 0, weight, depth: 90, bias: &bias, scale: 1.0 }];
        let rows = Rows { numbers: &numbers, step: 90, count: 40 };
        let found = multiply_on(unit, rows, &of(&weight), Ending::Linear);
        let (numbers, weight) = (rounded(&numbers), rounded(&weight));
        let rows = Rows { numbers: &numbers, step: 90, count: 40 };
        for (found, expected) in found.iter().zip(plain(rows, &of(&weight), Ending::Linear)) {
            assert!((f64::from(*found) - expected).abs() < 2e-5, "{found} is not {expected}");
        }
    }

    #[test]
    fn what_is_no_number_stays_in_its_row() {
        let mut numbers = wave(40, 0.2);
        numbers[13] = f32::NAN;
        let rows = Rows { numbers: &numbers, step: 8, count: 5 };
        let (weight, bias) = (wave(24, 0.5), vec![0.0; 3]);
        let part = Part { offset: 0, weight: &weight, depth: 8, bias: &bias, scale: 1.0 };
        for unit in Unit::all() {
            let found = multiply_on(unit, rows, &[part], Ending::Activated(Activation::Gelu));
            for (row, line) in found.chunks_exact(3).enumerate() {
                assert!(line.iter().all(|x| x.is_nan() == (row == 1)), "row {row}: {line:?}");
            }
        }
    }
}
