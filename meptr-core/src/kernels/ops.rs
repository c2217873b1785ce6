//! What stands between the matrix products.
//!
//! On the CPU, f32 runs in parallel and vectorised; NVIDIA GPUs have kernels of their own; what is
//! left takes Candle's operations. Forward only.

use candle::{CpuStorage, DType, InplaceOp1, Layout, Result, Tensor};
use pulp::Arch;
use rayon::prelude::*;

use super::encoder::Activation;
use super::vector_math;
#[cfg(feature = "cuda")]
use crate::gpu;

/// Numbers that one task handles at least, so that small tensors are not scattered over threads.
const TASK_ELEMENTS: usize = 1 << 14;

/// Whether our own loops can work on a tensor.
pub(super) fn is_plain_cpu(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && x.is_contiguous()
}

/// `activation(x)`; overwrites `x`, which must be a product that nothing else holds.
pub(crate) fn activated(x: Tensor, activation: Activation) -> Result<Tensor> {
    if !is_plain_cpu(&x) {
        return plain::activated(&x, activation);
    }
    x.inplace_op1(&Activate(activation))?;
    Ok(x)
}

/// `activation(x + bias)`; overwrites `x` like [`activated`].
///
/// `x` is `(.., width)`, `bias` `(width,)`.
pub(super) fn biased(x: Tensor, bias: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if gpu::takes(&x) {
        return gpu::add_bias(x, bias, activation);
    }
    let sum = x.broadcast_add(bias)?;
    match activation {
        None => Ok(sum),
        Some(activation) => activated(sum, activation),
    }
}

/// `x + bias + residual`; overwrites `x` like [`activated`], whose shape `residual` has.
pub(super) fn biased_plus(x: Tensor, bias: &Tensor, residual: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if gpu::takes(&x) {
        return gpu::add_residual(x, bias, residual);
    }
    x.broadcast_add(bias)? + residual
}

/// `(outer, first, second, inner)` to `(outer, second, first, inner)`, contiguous.
pub(super) fn swap_middle(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if gpu::takes(x) {
        return gpu::swap_middle(x);
    }
    x.transpose(1, 2)?.contiguous()
}

/// Windows of a contiguous sequence `(steps, channels)`:
/// `(groups, windows, kernel * channels / groups)`.
pub(super) fn windows(x: &Tensor, groups: usize, kernel: usize, stride: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if gpu::takes(x) {
        return gpu::windows(x, groups, kernel, stride);
    }
    let (steps, channels) = x.dims2()?;
    let windows = (steps - kernel) / stride + 1;
    let within = Tensor::arange(0, kernel as u32, x.device())?.unsqueeze(0)?;
    let starts = (Tensor::arange(0, windows as u32, x.device())? * stride as f64)?;
    let rows = starts.unsqueeze(1)?.broadcast_add(&within)?.flatten_all()?; // (windows * kernel,)
    x.reshape((steps, groups, channels / groups))?
        .transpose(0, 1)?
        .contiguous()?
        .index_select(&rows, 1)?
        .reshape((groups, windows, kernel * channels / groups))
}

/// Softmax over the last dimension, summed in f32 at least; overwrites `x` like [`activated`].
pub(crate) fn softmax(x: Tensor) -> Result<Tensor> {
    if !is_plain_cpu(&x) {
        return plain::softmax(&x);
    }
    x.inplace_op1(&Softmax)?;
    Ok(x)
}

/// The matrix product. On the CPU Candle has none of bf16, and that of f16 rounds between blocks of
/// a sum; this one sums in f32 as a GPU does.
pub(super) fn matmul(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() && matches!(x.dtype(), DType::BF16 | DType::F16) {
        return x.to_dtype(DType::F32)?.matmul(&y.to_dtype(DType::F32)?)?.to_dtype(x.dtype());
    }
    x.matmul(y)
}

/// The same in operations that Candle has for every device; each of them runs there in one or a
/// few kernels.
mod plain {
    use candle::{DType, Result, Tensor};

    use super::Activation;

    pub(super) fn activated(x: &Tensor, activation: Activation) -> Result<Tensor> {
        match activation {
            Activation::Gelu => x.gelu_erf(),
            Activation::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
        }
    }

    pub(super) fn softmax(x: &Tensor) -> Result<Tensor> {
        let is_short = matches!(x.dtype(), DType::F16 | DType::BF16);
        if is_short && x.device().is_cpu() {
            // A GPU's kernel sums in f32 by itself.
            let exact = candle_nn::ops::softmax_last_dim(&x.to_dtype(DType::F32)?)?;
            return exact.to_dtype(x.dtype());
        }
        candle_nn::ops::softmax_last_dim(x)
    }
}

/// The numbers of a contiguous tensor.
pub(super) fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle::bail!("a contiguous tensor is needed"),
    }
}

fn numbers_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&mut all[start..end]),
        _ => candle::bail!("a contiguous f32 tensor is needed"),
    }
}

/// Whole rows, several to a task; the number is where a task's rows start.
pub(super) fn for_rows(all: &mut [f32], width: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    let task_size = TASK_ELEMENTS.div_ceil(width) * width;
    all.par_chunks_mut(task_size)
        .enumerate()
        .for_each(|(index, rows)| task(index * task_size, rows));
}

struct Activate(Activation);

impl InplaceOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let arch = Arch::new();
        for_rows(numbers_mut(x, layout)?, 1, |_, numbers| {
            vector_math::activate_row(arch, numbers, self.0);
        });
        Ok(())
    }
}

struct Softmax;

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let width = layout.dims().last().copied().unwrap_or(1);
        let arch = Arch::new();
        for_rows(numbers_mut(x, layout)?, width, |_, rows| {
            rows.chunks_exact_mut(width).for_each(|row| vector_math::softmax_row(arch, row));
        });
        Ok(())
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

    /// f64 takes Candle's own operations, so it is the reference of the other forms.
    fn assert_within(tolerance: f64, fast: &Tensor, exact: &Tensor) {
        let fast = fast.to_dtype(DType::F64).unwrap();
        let off = (fast - exact).unwrap().abs().unwrap().max_all().unwrap();
        assert!(off.to_scalar::<f64>().unwrap() < tolerance, "off by {off}");
    }

    #[test]
    fn the_fast_forms_and_those_for_other_devices_equal_the_exact_ones() {
        for (rows, width) in [(1, 1), (3, 5), (70, 48), (5, 4099), (900, 64)] {
            let x = wave(&[rows, width]);
            let (wide, fresh) = (x.to_dtype(DType::F64).unwrap(), || x.copy().unwrap());
            for activation in [Activation::Gelu, Activation::QuickGelu] {
                let exact = plain::activated(&wide, activation).unwrap();
                assert_within(2e-6, &activated(fresh(), activation).unwrap(), &exact);
                assert_within(2e-6, &plain::activated(&x, activation).unwrap(), &exact);
            }
            let exact = plain::softmax(&wide).unwrap();
            assert_within(2e-6, &softmax(fresh()).unwrap(), &exact);
            assert_within(2e-5, &plain::softmax(&x).unwrap(), &exact);
        }
    }

    #[test]
    fn short_numbers_are_summed_in_long_ones() {
        for dtype in [DType::F16, DType::BF16] {
            let long = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            let x = wave(&[4, 4099]).to_dtype(dtype).unwrap();
            let step = if dtype == DType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
            let check = |found: &Tensor, exact: &Tensor, sums: f64| {
                let off = (long(found) - exact).unwrap().abs().unwrap();
                let allowed = ((exact.abs().unwrap() * step).unwrap() + sums).unwrap();
                let over = off.gt(&allowed).unwrap().to_dtype(DType::F64).unwrap();
                assert_eq!(over.sum_all().unwrap().to_scalar::<f64>().unwrap(), 0.0, "{dtype:?}");
            };
            check(&softmax(x.clone()).unwrap(), &softmax(long(&x)).unwrap(), 1e-6);
            let product = matmul(&x, &x.t().unwrap()).unwrap();
            // 4099 products of up to 16, added in f32.
            check(&product, &long(&x).matmul(&long(&x).t().unwrap()).unwrap(), 0.02);
        }
    }
}
