//! GEMM: rows times weights, with bias and epilogue.

use pulp::Arch;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::gemm_args::{Epilogue, GemmArgs};
use super::isa::Isa;
use super::scratch::zeros;
use super::simd;
use crate::Precision;

/// Row count below which SIMD is faster than AMX, whose tiles hold 32 rows: on two cores and
/// weights of 768 x 3072, 16 rows run at 111 GFLOP/s with SIMD and 74 with AMX, 32 rows at 138 and
/// 151.
const MIN_AMX_ROWS: usize = 24;

/// Multiplies rows with weights: `epilogue(scale (x W^T) + bias)`.
///
/// - `precision`: least precision of the factors; sums are f32
/// - returns `(args.rows.count, args.outputs())`, row-major
///
/// # Panics
/// When sizes do not fit each other; callers check shapes.
pub fn gemm(precision: Precision, args: GemmArgs) -> Vec<f32> {
    let isa = match args.rows.count {
        ..MIN_AMX_ROWS => Isa::Simd(Arch::new()),
        _ => Isa::best(precision),
    };
    gemm_on(isa, args)
}

fn gemm_on(isa: Isa, args: GemmArgs) -> Vec<f32> {
    let mut out = zeros(args.rows.count * args.outputs());
    if out.is_empty() {
        return out;
    }
    if let Epilogue::Residual(residual) = args.epilogue {
        assert_eq!(residual.len(), out.len(), "the residual has the output's shape");
    }
    match isa {
        Isa::Simd(arch) => simd::gemm(arch, args, &mut out),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(amx, terms) => amx::gemm(amx, terms, args, &mut out),
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::gemm_args::{GemmRows, GemmWeights};
    use super::*;
    use crate::kernels::Activation;

    fn wave(count: usize, speed: f64) -> Vec<f32> {
        (0..count).map(|at| (at as f64 * at as f64 * speed + 0.3).sin() as f32).collect()
    }

    /// GEMM by its definition, in f64.
    fn reference(args: GemmArgs) -> Vec<f64> {
        let GemmArgs { rows, weights, epilogue } = args;
        let mut out = Vec::new();
        for row in 0..rows.count {
            for part in weights {
                let x = &rows.values[row * rows.stride + part.offset..][..part.depth];
                for (weight, bias) in part.weight.chunks_exact(part.depth).zip(part.bias) {
                    let products = x.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let sum = products.sum::<f64>() * f64::from(part.scale) + f64::from(*bias);
                    out.push(match epilogue {
                        Epilogue::Identity => sum,
                        Epilogue::Residual(residual) => sum + f64::from(residual[out.len()]),
                        Epilogue::Activation(Activation::QuickGelu) => {
                            sum / (1.0 + (-1.702 * sum).exp())
                        }
                        Epilogue::Activation(Activation::Gelu) => {
                            let x = candle::Tensor::new(sum, &candle::Device::Cpu).unwrap();
                            x.gelu_erf().unwrap().to_scalar().unwrap()
                        }
                    });
                }
            }
        }
        out
    }

    fn check(count: usize, stride: usize, outputs: &[usize], depth: usize, epilogue: usize) {
        let values = wave(count * stride + depth + 3, 0.37);
        let rows = GemmRows { values: &values, stride, count };
        let width: usize = outputs.iter().sum();
        let (weight, bias) = (wave(width * depth, 0.71), wave(width, 0.13));
        let residual = wave(count * width, 0.91);
        let mut first = 0;
        let weights: Vec<GemmWeights> = outputs
            .iter()
            .enumerate()
            .map(|(number, outputs)| {
                let weight = &weight[first * depth..][..outputs * depth];
                let bias = &bias[first..first + outputs];
                first += outputs;
                let scale = if epilogue == 0 && number == 0 { 0.3 } else { 1.0 };
                GemmWeights { offset: number.min(3), weight, depth, bias, scale }
            })
            .collect();
        let epilogue = [
            Epilogue::Identity,
            Epilogue::Activation(Activation::Gelu),
            Epilogue::Activation(Activation::QuickGelu),
            Epilogue::Residual(&residual),
        ][epilogue];
        let args = GemmArgs { rows, weights: &weights, epilogue };
        let expected = reference(args);
        for isa in Isa::all() {
            let found = gemm_on(isa, args);
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
        fn gemm_equals_its_definition(
            count in 0usize..60,
            stride in 1usize..90,
            outputs in prop::collection::vec(1usize..140, 1..4),
            depth in 1usize..70,
            epilogue in 0usize..4,
        ) {
            check(count, stride, &outputs, depth, epilogue);
        }
    }

    #[test]
    fn long_sums_and_many_rows_equal_their_definition() {
        check(5, 700, &[40], 700, 0);
        check(192 * rayon::current_num_threads() + 7, 9, &[33, 3], 20, 3);
        check(150, 2100, &[40], 2100, 1); // deeper than one AMX chain
        check(1400, 3, &[33], 2100, 3); // more rows than AMX packs at a time
    }

    /// Against f64, AMX errs no more than SIMD, also where some values of a row are a million times
    /// as large as others.
    #[test]
    fn every_isa_is_as_exact_as_sums_in_f32() {
        let spread = |count: usize, speed: f64| -> Vec<f32> {
            let sizes = wave(count, speed * 0.61);
            wave(count, speed)
                .into_iter()
                .zip(sizes)
                .map(|(x, size)| x * 1000_f32.powf(size))
                .collect()
        };
        let (values, weight, bias) =
            (spread(64 * 768, 0.37), spread(96 * 768, 0.71), vec![0.0; 96]);
        let rows = GemmRows { values: &values, stride: 768, count: 64 };
        let weights =
            [GemmWeights { offset: 0, weight: &weight, depth: 768, bias: &bias, scale: 1.0 }];
        let args = GemmArgs { rows, weights: &weights, epilogue: Epilogue::Identity };
        let exact = reference(args);
        let error = |isa| {
            let found = gemm_on(isa, args);
            let squares =
                found.iter().zip(&exact).map(|(x, exact)| (f64::from(*x) - exact).powi(2));
            (squares.sum::<f64>() / exact.iter().map(|x| x * x).sum::<f64>()).sqrt()
        };
        let of_simd = error(Isa::Simd(Arch::new()));
        for isa in Isa::all() {
            let off = error(isa);
            assert!(off < 1.2 * of_simd, "{isa:?}: {off:e}, SIMD {of_simd:e}");
        }
    }

    /// With one bf16 term per factor, the result is that of factors rounded to bf16.
    #[test]
    fn gemm_in_bf16_is_that_of_rounded_factors() {
        let isa = Isa::best(Precision::Bf16);
        if !crate::kernels::cpu::has_bf16() {
            return;
        }
        let rounded = |values: &[f32]| -> Vec<f32> {
            let nearest = |x: &f32| f32::from_bits((x.to_bits() + 0x8000) & 0xFFFF_0000);
            values.iter().map(nearest).collect()
        };
        let (values, weight, bias) = (wave(40 * 90, 0.37), wave(50 * 90, 0.71), wave(50, 0.13));
        let of = |weight| [GemmWeights { offset: 0, weight, depth: 90, bias: &bias, scale: 1.0 }];
        let (epilogue, exact_weights) = (Epilogue::Identity, of(&weight));
        let rows = GemmRows { values: &values, stride: 90, count: 40 };
        let found = gemm_on(isa, GemmArgs { rows, weights: &exact_weights, epilogue });
        let (values, weight) = (rounded(&values), rounded(&weight));
        let (rows, weights) = (GemmRows { values: &values, ..rows }, of(&weight));
        let expected = reference(GemmArgs { rows, weights: &weights, epilogue });
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 2e-5, "{found} is not {expected}");
        }
    }

    #[test]
    fn nan_stays_in_its_row() {
        let mut values = wave(40, 0.2);
        values[13] = f32::NAN;
        let rows = GemmRows { values: &values, stride: 8, count: 5 };
        let (weight, bias) = (wave(24, 0.5), vec![0.0; 3]);
        let weights =
            [GemmWeights { offset: 0, weight: &weight, depth: 8, bias: &bias, scale: 1.0 }];
        let epilogue = Epilogue::Activation(Activation::Gelu);
        for isa in Isa::all() {
            let found = gemm_on(isa, GemmArgs { rows, weights: &weights, epilogue });
            for (row, line) in found.chunks_exact(3).enumerate() {
                assert!(line.iter().all(|x| x.is_nan() == (row == 1)), "row {row}: {line:?}");
            }
        }
    }
}
