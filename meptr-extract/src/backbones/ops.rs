//! What stands between the matrix products, and the product over windows.
//!
//! On the CPU, f32 runs in parallel and vectorised, in place where that is possible; other devices
//! and types take Candle's own operations, gathered in [`plain`]. Forward only.

use candle::backend::BackendStorage;
use candle::{
    CpuStorage, CustomOp2, CustomOp3, D, DType, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result,
    Shape, Tensor,
};
use pulp::Arch;
use rayon::prelude::*;

use super::encoder::Activation;
use super::vector_math;

/// Numbers that one task handles at least, so that small tensors are not scattered over threads.
const TASK_ELEMENTS: usize = 1 << 14;

fn is_plain_cpu(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && x.is_contiguous()
}

/// `x + bias`, `x` being `(rows, width)` and `bias` `(width,)`; overwrites `x`, which must be a
/// product that nothing else holds.
pub(crate) fn add_bias(x: Tensor, bias: &Tensor) -> Result<Tensor> {
    if !is_plain_cpu(&x) {
        return plain::add_bias(&x, bias);
    }
    x.inplace_op2(bias, &AddBias)?;
    Ok(x)
}

/// `x + bias + residual`; overwrites `x` like [`add_bias`].
pub(crate) fn add_bias_and(x: Tensor, bias: &Tensor, residual: &Tensor) -> Result<Tensor> {
    if !is_plain_cpu(&x) || !residual.is_contiguous() {
        return plain::add_bias_and(&x, bias, residual);
    }
    x.inplace_op3(bias, residual, &AddBias)?;
    Ok(x)
}

/// `activation(x + bias)`; overwrites `x` like [`add_bias`].
pub(crate) fn activate(x: Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
    if !is_plain_cpu(&x) {
        return plain::activate(&x, bias, activation);
    }
    x.inplace_op2(bias, &Activate(activation))?;
    Ok(x)
}

/// `activation(x)`; overwrites `x` like [`add_bias`].
pub(crate) fn activate_alone(x: Tensor, activation: Activation) -> Result<Tensor> {
    if !is_plain_cpu(&x) {
        return plain::activated(&x, activation);
    }
    let no_bias = Tensor::zeros(x.dim(D::Minus1)?, DType::F32, x.device())?;
    activate(x, &no_bias, activation)
}

/// Softmax over the last dimension, summed in f32 at least; overwrites `x` like [`add_bias`].
pub(crate) fn softmax(x: Tensor) -> Result<Tensor> {
    if !is_plain_cpu(&x) {
        return plain::softmax(&x);
    }
    x.inplace_op1(&Softmax)?;
    Ok(x)
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension, mean and variance
/// in f32 at least.
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if is_plain_cpu(x) {
        return x.apply_op3_no_bwd(weight, bias, &LayerNorm { eps: eps as f32 });
    }
    plain::layer_norm(x, weight, bias, eps)
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
    use candle::{D, DType, Result, Tensor};

    use super::Activation;

    pub(super) fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        x.broadcast_add(bias)
    }

    pub(super) fn add_bias_and(x: &Tensor, bias: &Tensor, residual: &Tensor) -> Result<Tensor> {
        x.broadcast_add(bias)? + residual
    }

    pub(super) fn activate(x: &Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
        activated(&x.broadcast_add(bias)?, activation)
    }

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

    pub(super) fn layer_norm(
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        eps: f64,
    ) -> Result<Tensor> {
        if x.dtype() != DType::F64 {
            return candle_nn::ops::layer_norm(&x.contiguous()?, weight, bias, eps as f32);
        }
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
        normed.broadcast_mul(weight)?.broadcast_add(bias)
    }
}

/// The numbers of a contiguous tensor.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
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
fn for_rows(all: &mut [f32], width: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    let task_size = TASK_ELEMENTS.div_ceil(width) * width;
    all.par_chunks_mut(task_size)
        .enumerate()
        .for_each(|(index, rows)| task(index * task_size, rows));
}

struct AddBias;

impl InplaceOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let bias = numbers(bias, bias_layout)?;
        for_rows(numbers_mut(x, x_layout)?, bias.len(), |_, rows| {
            for row in rows.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
            }
        });
        Ok(())
    }
}

impl InplaceOp3 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias-and-residual"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<()> {
        let (bias, residual) = (numbers(bias, bias_layout)?, numbers(residual, residual_layout)?);
        let x = numbers_mut(x, x_layout)?;
        if residual.len() != x.len() {
            candle::bail!("a residual of {} for {} numbers", residual.len(), x.len());
        }
        for_rows(x, bias.len(), |start, rows| {
            let residual = residual[start..].chunks_exact(bias.len());
            for (row, residual) in rows.chunks_exact_mut(bias.len()).zip(residual) {
                let added = bias.iter().zip(residual);
                row.iter_mut().zip(added).for_each(|(x, (bias, residual))| *x += bias + residual);
            }
        });
        Ok(())
    }
}

struct Activate(Activation);

impl InplaceOp2 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let (bias, arch) = (numbers(bias, bias_layout)?, Arch::new());
        for_rows(numbers_mut(x, x_layout)?, bias.len(), |_, rows| {
            for row in rows.chunks_exact_mut(bias.len()) {
                vector_math::activate_row(arch, row, bias, self.0);
            }
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

struct LayerNorm {
    eps: f32,
}

impl CustomOp3 for LayerNorm {
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
        let (width, arch, eps) = (weight.len(), Arch::new(), self.eps);
        let mut out = vec![0.0; x.len()];
        for_rows(&mut out, width, |start, rows| {
            for (row, out) in x[start..].chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
                vector_math::layer_norm_row(arch, row, out, weight, bias, eps);
            }
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

/// A convolution along the steps of a sequence, as one matrix product over its windows.
///
/// - `x`: `(groups, steps, channels)`, contiguous
/// - `weight`: `(groups, outputs, kernel * channels)`, contiguous
/// - returns `(groups, (steps - kernel) / stride + 1, outputs)`
///
/// The windows of a contiguous sequence are rows that overlap in memory, so the CPU multiplies
/// them where they lie; elsewhere they are copied out first.
pub(crate) fn windows_matmul(
    x: &Tensor,
    weight: &Tensor,
    kernel: usize,
    stride: usize,
) -> Result<Tensor> {
    let op = WindowsMatmul { kernel, stride };
    if x.device().is_cpu() && x.dtype() != DType::BF16 {
        return x.apply_op2_no_bwd(weight, &op);
    }
    op.copying(x, weight)
}

struct WindowsMatmul {
    kernel: usize,
    stride: usize,
}

impl WindowsMatmul {
    /// Numbers copied at a time: 256 MB of f32.
    const MAX_COPIED: usize = 1 << 26;

    fn copying(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (groups, steps, channels) = x.dims3()?;
        let windows = (steps - self.kernel) / self.stride + 1;
        let width = self.kernel * channels;
        let at_once = (Self::MAX_COPIED / (groups * width)).max(1);
        let within = Tensor::arange(0, self.kernel as u32, x.device())?.unsqueeze(0)?;
        let product = |start: usize| -> Result<Tensor> {
            let end = windows.min(start + at_once);
            let starts = Tensor::arange(start as u32, end as u32, x.device())?;
            let starts = (starts * self.stride as f64)?.unsqueeze(1)?;
            let rows = starts.broadcast_add(&within)?.flatten_all()?; // (windows * kernel,)
            let copied = x.index_select(&rows, 1)?.reshape((groups, end - start, width))?;
            matmul(&copied, &weight.t()?)
        };
        let blocks: Result<Vec<Tensor>> = (0..windows).step_by(at_once).map(product).collect();
        match blocks?.as_slice() {
            [all] => Ok(all.clone()),
            blocks => Tensor::cat(blocks, 1),
        }
    }
}

impl CustomOp2 for WindowsMatmul {
    fn name(&self) -> &'static str {
        "windows-matmul"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (groups, steps, channels) = x_layout.shape().dims3()?;
        let (weight_groups, outputs, width) = weight_layout.shape().dims3()?;
        let fits = weight_groups == groups && width == self.kernel * channels;
        if !fits || steps < self.kernel || !x_layout.is_contiguous() {
            candle::bail!(
                "{:?} has no windows for kernels {:?}",
                x_layout.shape(),
                weight_layout.shape()
            );
        }
        let windows = (steps - self.kernel) / self.stride + 1;
        let rows = Layout::new(
            Shape::from((groups, windows, width)),
            vec![steps * channels, self.stride * channels, 1],
            x_layout.start_offset(),
        );
        let product = x.matmul(
            weight,
            (groups, windows, outputs, width),
            &rows,
            &weight_layout.transpose(1, 2)?,
        )?;
        Ok((product, Shape::from((groups, windows, outputs))))
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
    fn assert_equal(fast: &Tensor, plain: &Tensor) {
        assert_within(2e-6, fast, plain);
    }

    fn assert_within(tolerance: f64, fast: &Tensor, plain: &Tensor) {
        let fast = fast.to_dtype(DType::F64).unwrap();
        let off = (fast - plain).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        assert!(off.to_scalar::<f64>().unwrap() < tolerance, "off by {off}");
    }

    #[test]
    fn the_fast_forms_equal_the_plain_ones() {
        let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
        for (rows, width) in [(1, 1), (3, 5), (70, 48), (5, 4099), (900, 64)] {
            let (x, y) = (wave(&[rows, width]), wave(&[rows, width]));
            let (weight, bias) = (wave(&[width]), (wave(&[width]) * 0.3).unwrap());
            let fresh = || x.copy().unwrap();
            let added = add_bias(fresh(), &bias).unwrap();
            assert_equal(&added, &add_bias(wide(&x), &wide(&bias)).unwrap());
            let added = add_bias_and(fresh(), &bias, &y).unwrap();
            assert_equal(&added, &add_bias_and(wide(&x), &wide(&bias), &wide(&y)).unwrap());
            for activation in [Activation::Gelu, Activation::QuickGelu] {
                let active = activate(fresh(), &bias, activation).unwrap();
                assert_equal(&active, &activate(wide(&x), &wide(&bias), activation).unwrap());
            }
            assert_equal(&softmax(fresh()).unwrap(), &softmax(wide(&x)).unwrap());
            let exact = layer_norm(&wide(&x), &wide(&weight), &wide(&bias), 1e-5).unwrap();
            assert_equal(&layer_norm(&x, &weight, &bias, 1e-5).unwrap(), &exact);
        }
    }

    /// What a GPU computes, computed here.
    #[test]
    fn the_forms_for_other_devices_equal_the_fast_ones() {
        for (rows, width) in [(1, 1), (3, 5), (70, 48), (5, 4099)] {
            let (x, y) = (wave(&[rows, width]), wave(&[rows, width]));
            let (weight, bias) = (wave(&[width]), (wave(&[width]) * 0.3).unwrap());
            let fresh = || x.copy().unwrap();
            // Candle sums in f32 one after another, which rounds more than sums of parts.
            let equal = |fast: Tensor, plain: Tensor| {
                assert_within(2e-5, &fast, &plain.to_dtype(DType::F64).unwrap());
            };
            equal(add_bias(fresh(), &bias).unwrap(), plain::add_bias(&x, &bias).unwrap());
            equal(
                add_bias_and(fresh(), &bias, &y).unwrap(),
                plain::add_bias_and(&x, &bias, &y).unwrap(),
            );
            for activation in [Activation::Gelu, Activation::QuickGelu] {
                let fast = activate(fresh(), &bias, activation).unwrap();
                equal(fast, plain::activate(&x, &bias, activation).unwrap());
            }
            equal(softmax(fresh()).unwrap(), plain::softmax(&x).unwrap());
            let fast = layer_norm(&x, &weight, &bias, 1e-5).unwrap();
            let plain = plain::layer_norm(&x, &weight, &bias, 1e-5).unwrap();
            if width > 1 {
                // Of one number the variance is 0, and the rounding of the mean is all there is.
                equal(fast, plain);
            }
        }
    }

    #[test]
    fn short_numbers_are_summed_in_long_ones() {
        for dtype in [DType::F16, DType::BF16] {
            let short = |x: &Tensor| x.to_dtype(dtype).unwrap();
            let long = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            let x = short(&wave(&[4, 4099]));
            let (weight, bias) = (short(&wave(&[4099])), short(&wave(&[4099])));
            let step = if dtype == DType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
            let check = |found: &Tensor, exact: &Tensor, sums: f64| {
                let off = (long(found) - exact).unwrap().abs().unwrap();
                let allowed = ((exact.abs().unwrap() * step).unwrap() + sums).unwrap();
                let over = off.gt(&allowed).unwrap().to_dtype(DType::F64).unwrap();
                assert_eq!(over.sum_all().unwrap().to_scalar::<f64>().unwrap(), 0.0, "{dtype:?}");
            };
            check(&softmax(x.clone()).unwrap(), &softmax(long(&x)).unwrap(), 1e-6);
            let normed = layer_norm(&x, &weight, &bias, 1e-5).unwrap();
            let exact = layer_norm(&long(&x), &long(&weight), &long(&bias), 1e-5).unwrap();
            // Values of up to 12 may be rounded once more before the bias is added.
            check(&normed, &exact, 12.0 * step);
            let product = matmul(&x, &x.t().unwrap()).unwrap();
            // 4099 products of up to 16, added in f32.
            check(&product, &long(&x).matmul(&long(&x).t().unwrap()).unwrap(), 0.02);
        }
    }

    #[test]
    fn windows_are_multiplied_as_if_copied_out() {
        for (groups, steps, channels, kernel, stride) in [(1, 9, 3, 3, 2), (4, 12, 2, 5, 1)] {
            let x = wave(&[groups, steps, channels]);
            let weight = wave(&[groups, 6, kernel * channels]);
            let found = windows_matmul(&x, &weight, kernel, stride).unwrap();
            let copied = WindowsMatmul { kernel, stride }.copying(&x, &weight).unwrap();
            assert_eq!(found.dims(), copied.dims());
            let off = (found - copied).unwrap().abs().unwrap().sum_all().unwrap();
            assert!(off.to_scalar::<f32>().unwrap() < 1e-3, "off by {off}");
        }
        assert!(windows_matmul(&wave(&[1, 2, 1]), &wave(&[1, 1, 3]), 3, 1).is_err());
    }
}
