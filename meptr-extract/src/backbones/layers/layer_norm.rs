//! Layer norm.

use candle::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use meptr_core::weights::FrozenBuilder;
use pulp::Arch;

use super::encoder::Activation;
use super::ops::{self, for_rows, numbers};
use super::vector_math;
#[cfg(feature = "cuda")]
use crate::gpu;
use crate::product::zeros;

/// Layer norm over the last dimension, mean and variance in f32 at least.
///
/// Weights: `weight` and `bias` `(width,)`.
#[derive(Debug, Clone)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn load(width: usize, eps: f64, vb: &FrozenBuilder) -> Result<Self> {
        Ok(Self { weight: vb.get(width, "weight")?, bias: vb.get(width, "bias")?, eps })
    }

    /// `x` is `(.., width)`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None)
    }

    /// The same, and an activation.
    pub(super) fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.run(x, Some(activation))
    }

    fn run(&self, x: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
        if ops::is_plain_cpu(x) {
            let op = Norm { eps: self.eps as f32, activation };
            return x.apply_op3_no_bwd(&self.weight, &self.bias, &op);
        }
        #[cfg(feature = "cuda")]
        if gpu::takes(x) {
            return gpu::layer_norm(x, (&self.weight, &self.bias), self.eps, activation);
        }
        let normed = self.plain(x)?;
        match activation {
            None => Ok(normed),
            Some(activation) => ops::activated(normed, activation),
        }
    }

    /// In operations that Candle has for every device.
    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let Self { weight, bias, eps } = self;
        if x.dtype() != DType::F64 {
            return candle_nn::ops::layer_norm(&x.contiguous()?, weight, bias, *eps as f32);
        }
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + *eps)?.sqrt()?)?;
        normed.broadcast_mul(weight)?.broadcast_add(bias)
    }
}

struct Norm {
    eps: f32,
    activation: Option<Activation>,
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = numbers(x, x_layout)?;
        let (weight, bias) = (numbers(weight, weight_layout)?, numbers(bias, bias_layout)?);
        let (width, arch) = (weight.len(), Arch::new());
        let mut out = zeros(x.len());
        for_rows(&mut out, width, |start, rows| {
            for (row, out) in x[start..].chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
                vector_math::layer_norm_row(arch, row, out, weight, bias, self.eps);
                if let Some(activation) = self.activation {
                    vector_math::activate_row(arch, out, activation);
                }
            }
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    fn wave(shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        let values: Vec<f32> =
            (0..count).map(|i| ((i * i + 3 * i) as f32 * 0.3).sin() * 4.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn norm(width: usize, dtype: DType) -> LayerNorm {
        let (weight, bias) = (wave(&[width]), (wave(&[width]) * 0.3).unwrap());
        let of = |x: Tensor| x.to_dtype(dtype).unwrap();
        LayerNorm { weight: of(weight), bias: of(bias), eps: 1e-5 }
    }

    fn off(found: &Tensor, exact: &Tensor) -> f64 {
        let found = found.to_dtype(DType::F64).unwrap();
        (found - exact).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn every_form_equals_the_norm_in_f64() {
        for (rows, width) in [(1, 1), (3, 5), (70, 48), (5, 4099), (900, 64)] {
            let x = wave(&[rows, width]);
            for activation in [None, Some(Activation::Gelu), Some(Activation::QuickGelu)] {
                let wide =
                    norm(width, DType::F64).run(&x.to_dtype(DType::F64).unwrap(), activation);
                let (wide, norm) = (wide.unwrap(), norm(width, DType::F32));
                assert!(off(&norm.run(&x, activation).unwrap(), &wide) < 4e-6);
                // Of one number the variance is 0, and the rounding of the mean is all there is.
                // Candle sums in f32 one after another, which rounds more than sums of parts.
                if activation.is_none() && width > 1 {
                    assert!(off(&norm.plain(&x).unwrap(), &wide) < 2e-5);
                }
            }
        }
    }

    #[test]
    fn short_numbers_are_summed_in_long_ones() {
        for (dtype, step) in [(DType::F16, 2f64.powi(-11)), (DType::BF16, 2f64.powi(-8))] {
            let x = wave(&[4, 4099]).to_dtype(dtype).unwrap();
            let short = norm(4099, dtype);
            let long = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            let exact =
                LayerNorm { weight: long(&short.weight), bias: long(&short.bias), eps: 1e-5 };
            let found = short.forward(&x).unwrap();
            // Values of up to 12 may be rounded once more before the bias is added.
            assert!(off(&found, &exact.forward(&long(&x)).unwrap()) < 24.0 * step, "{dtype:?}");
        }
    }
}
