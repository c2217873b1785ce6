//! Operations between the GEMMs of frozen networks, on any device.
//!
//! Contiguous f32 on the CPU runs in parallel and vectorised, NVIDIA GPUs have kernels of their own,
//! and other tensors take Candle's operations. Forward only: no result carries gradients.

use candle::{CpuStorage, CustomOp3, D, DType, InplaceOp1, Layout, Result, Shape, Tensor};
use pulp::Arch;
use rayon::prelude::*;

use super::Activation;
use super::cpu::row_ops::{self, LayerNormWeights};
use super::cpu::zeros;
#[cfg(feature = "cuda")]
use super::cuda;

/// Least number of values of a task, so that small tensors are not scattered over threads.
const MIN_VALUES_PER_TASK: usize = 1 << 14;

/// Whether the CPU kernels support a tensor: contiguous f32 on the CPU.
pub fn is_contiguous_cpu_f32(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && x.is_contiguous()
}

/// Applies an activation; overwrites `x`, which must be a fresh result without other owners.
///
/// # Errors
/// When the device fails.
pub fn activate_inplace(x: Tensor, activation: Activation) -> Result<Tensor> {
    if !is_contiguous_cpu_f32(&x) {
        return candle_activation(&x, activation);
    }
    x.inplace_op1(&ActivateInplace(activation))?;
    Ok(x)
}

/// `activation(x + bias)`; may overwrite `x` like [`activate_inplace`].
///
/// - `x`: `(.., width)`
/// - `bias`: `(width,)`
///
/// # Errors
/// When the shapes do not fit or the device fails.
pub fn add_bias(x: Tensor, bias: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::supports(&x) {
        return cuda::add_bias(x, bias, activation);
    }
    let sum = x.broadcast_add(bias)?;
    match activation {
        None => Ok(sum),
        Some(activation) => activate_inplace(sum, activation),
    }
}

/// `x + bias + residual`; may overwrite `x` like [`activate_inplace`].
///
/// - `x`, `residual`: `(.., width)`
/// - `bias`: `(width,)`
///
/// # Errors
/// When the shapes do not fit or the device fails.
pub fn add_bias_residual(x: Tensor, bias: &Tensor, residual: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::supports(&x) {
        return cuda::add_bias_residual(x, bias, residual);
    }
    x.broadcast_add(bias)? + residual
}

/// Transposes the two middle dimensions: `(outer, first, second, inner)` to
/// `(outer, second, first, inner)`, contiguous.
///
/// # Errors
/// When `x` has other dimensions or the device fails.
pub fn transpose_12(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::supports(x) {
        return cuda::transpose_12(x);
    }
    x.transpose(1, 2)?.contiguous()
}

/// im2col of a contiguous sequence: copies the windows of a 1D convolution.
///
/// - `x`: `(steps, channels)`
/// - returns `(groups, windows, kernel * channels / groups)`
///
/// # Errors
/// When `x` is shorter than the kernel, `groups` does not divide the channels, or the device fails.
pub fn im2col_1d(x: &Tensor, groups: usize, kernel: usize, stride: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::supports(x) {
        return cuda::im2col_1d(x, groups, kernel, stride);
    }
    let (steps, channels) = x.dims2()?;
    if steps < kernel || !channels.is_multiple_of(groups) {
        candle::bail!("{:?} has no {groups} groups of windows of {kernel}", x.dims());
    }
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

/// Softmax over the last dimension, without gradient, summed in f32 at least; may overwrite `x` like
/// [`activate_inplace`].
///
/// # Errors
/// When the device fails.
pub fn softmax_inplace(x: Tensor) -> Result<Tensor> {
    if !is_contiguous_cpu_f32(&x) {
        return candle_softmax(&x);
    }
    x.inplace_op1(&SoftmaxInplace)?;
    Ok(x)
}

/// Layer norm over the last dimension, mean and variance in f32 at least, and an activation.
///
/// `activation((x - mean) / sqrt(variance + eps) * weight + bias)`, population variance.
///
/// - `x`: `(.., width)`
/// - `weight`, `bias`: `(width,)`
///
/// # Errors
/// When the shapes do not fit or the device fails.
pub fn layer_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Option<Activation>,
) -> Result<Tensor> {
    if is_contiguous_cpu_f32(x) {
        return x.apply_op3_no_bwd(weight, bias, &LayerNormForward { eps: eps as f32, activation });
    }
    #[cfg(feature = "cuda")]
    if cuda::supports(x) {
        return cuda::layer_norm(x, [weight, bias], eps, activation);
    }
    let normed = candle_layer_norm(x, weight, bias, eps)?;
    match activation {
        None => Ok(normed),
        Some(activation) => activate_inplace(normed, activation),
    }
}

/// Matmul with sums in f32. On the CPU, Candle has none for bf16, and its matmul of f16 rounds
/// between blocks of a sum.
///
/// # Errors
/// When the shapes do not fit or the device fails.
pub fn matmul_f32_sums(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() && matches!(x.dtype(), DType::BF16 | DType::F16) {
        return x.to_dtype(DType::F32)?.matmul(&y.to_dtype(DType::F32)?)?.to_dtype(x.dtype());
    }
    x.matmul(y)
}

/// [`activate_inplace`] in Candle's operations, which every device has.
fn candle_activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Gelu => x.gelu_erf(),
        Activation::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
    }
}

/// [`softmax_inplace`] in Candle's operations.
fn candle_softmax(x: &Tensor) -> Result<Tensor> {
    let is_16_bit = matches!(x.dtype(), DType::F16 | DType::BF16);
    if is_16_bit && x.device().is_cpu() {
        // Candle's GPU kernel sums in f32 by itself.
        let exact = candle_nn::ops::softmax_last_dim(&x.to_dtype(DType::F32)?)?;
        return exact.to_dtype(x.dtype());
    }
    candle_nn::ops::softmax_last_dim(x)
}

/// [`layer_norm`] in Candle's operations.
fn candle_layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if x.dtype() != DType::F64 {
        return candle_nn::ops::layer_norm(&x.contiguous()?, weight, bias, eps as f32);
    }
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    normed.broadcast_mul(weight)?.broadcast_add(bias)
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle::bail!("a contiguous tensor is needed"),
    }
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&mut all[start..end]),
        _ => candle::bail!("a contiguous f32 tensor is needed"),
    }
}

/// Calls `task` in parallel with several whole rows each, and with the index of their first value.
fn for_each_rows(all: &mut [f32], width: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    let task_size = MIN_VALUES_PER_TASK.div_ceil(width) * width;
    all.par_chunks_mut(task_size)
        .enumerate()
        .for_each(|(index, rows)| task(index * task_size, rows));
}

struct ActivateInplace(Activation);

impl InplaceOp1 for ActivateInplace {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let arch = Arch::new();
        for_each_rows(values_mut(x, layout)?, 1, |_, values| {
            row_ops::activate_row(arch, values, self.0);
        });
        Ok(())
    }
}

struct SoftmaxInplace;

impl InplaceOp1 for SoftmaxInplace {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let width = layout.dims().last().copied().unwrap_or(1);
        let arch = Arch::new();
        for_each_rows(values_mut(x, layout)?, width, |_, rows| {
            rows.chunks_exact_mut(width).for_each(|row| row_ops::softmax_row(arch, row));
        });
        Ok(())
    }
}

struct LayerNormForward {
    eps: f32,
    activation: Option<Activation>,
}

impl CustomOp3 for LayerNormForward {
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
        let x = values(x, x_layout)?;
        let (weight, bias) = (values(weight, weight_layout)?, values(bias, bias_layout)?);
        let (width, arch) = (weight.len(), Arch::new());
        let weights = LayerNormWeights { weight, bias, eps: self.eps };
        let mut out = zeros(x.len());
        for_each_rows(&mut out, width, |start, rows| {
            for (row, out) in x[start..].chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
                row_ops::layer_norm_row(arch, row, out, weights);
                if let Some(activation) = self.activation {
                    row_ops::activate_row(arch, out, activation);
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

    /// f64 takes Candle's operations, so it is the reference of the kernels.
    fn assert_within(tolerance: f64, fast: &Tensor, exact: &Tensor) {
        let fast = fast.to_dtype(DType::F64).unwrap();
        let off = (fast - exact).unwrap().abs().unwrap().max_all().unwrap();
        assert!(off.to_scalar::<f64>().unwrap() < tolerance, "off by {off}");
    }

    #[test]
    fn cpu_kernels_and_candles_operations_equal_f64() {
        for (rows, width) in [(1, 1), (3, 5), (70, 48), (5, 4099), (900, 64)] {
            let x = wave(&[rows, width]);
            let (wide, fresh) = (x.to_dtype(DType::F64).unwrap(), || x.copy().unwrap());
            for activation in [Activation::Gelu, Activation::QuickGelu] {
                let exact = candle_activation(&wide, activation).unwrap();
                assert_within(2e-6, &activate_inplace(fresh(), activation).unwrap(), &exact);
                assert_within(2e-6, &candle_activation(&x, activation).unwrap(), &exact);
            }
            let exact = candle_softmax(&wide).unwrap();
            assert_within(2e-6, &softmax_inplace(fresh()).unwrap(), &exact);
            assert_within(2e-5, &candle_softmax(&x).unwrap(), &exact);
        }
    }

    #[test]
    fn sixteen_bit_values_are_summed_in_f32() {
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
            let exact = softmax_inplace(long(&x)).unwrap();
            check(&softmax_inplace(x.clone()).unwrap(), &exact, 1e-6);
            let product = matmul_f32_sums(&x, &x.t().unwrap()).unwrap();
            // Sums of 4099 products of up to 16, in f32.
            check(&product, &long(&x).matmul(&long(&x).t().unwrap()).unwrap(), 0.02);
        }
    }

    #[test]
    fn layer_norm_equals_f64() {
        for (rows, width) in [(1, 1), (3, 5), (70, 48), (5, 4099), (900, 64)] {
            let x = wave(&[rows, width]);
            let (weight, bias) = (wave(&[width]), (wave(&[width]) * 0.3).unwrap());
            let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            for activation in [None, Some(Activation::Gelu), Some(Activation::QuickGelu)] {
                let exact =
                    layer_norm(&wide(&x), &wide(&weight), &wide(&bias), 1e-5, activation).unwrap();
                let found = layer_norm(&x, &weight, &bias, 1e-5, activation).unwrap();
                assert_within(4e-6, &found, &exact);
                // With one value the variance is 0, and only the rounding of the mean remains.
                // Candle sums in f32 one after another, which rounds more than sums of parts.
                if activation.is_none() && width > 1 {
                    let candle = candle_layer_norm(&x, &weight, &bias, 1e-5).unwrap();
                    assert_within(2e-5, &candle, &exact);
                }
            }
        }
    }

    #[test]
    fn layer_norm_of_16_bit_values_sums_in_f32() {
        for (dtype, step) in [(DType::F16, 2f64.powi(-11)), (DType::BF16, 2f64.powi(-8))] {
            let short = |shape: &[usize]| wave(shape).to_dtype(dtype).unwrap();
            let long = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            let (x, weight) = (short(&[4, 4099]), short(&[4099]));
            let bias = (wave(&[4099]) * 0.3).unwrap().to_dtype(dtype).unwrap();
            let found = layer_norm(&x, &weight, &bias, 1e-5, None).unwrap();
            let exact = layer_norm(&long(&x), &long(&weight), &long(&bias), 1e-5, None).unwrap();
            // Values of up to 12 may be rounded once more before the bias is added.
            assert_within(24.0 * step, &found, &exact);
        }
    }
}
