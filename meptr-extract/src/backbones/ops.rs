//! Element-wise steps between the matrix products.

use candle::backend::BackendStorage;
use candle::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};

use super::encoder::Activation;

/// `x + bias`, `x` being `(rows, width)` and `bias` `(width,)`.
pub(super) fn add_bias(x: Tensor, bias: &Tensor) -> Result<Tensor> {
    x.broadcast_add(bias)
}

/// `x + bias + residual`.
pub(super) fn add_bias_and(x: Tensor, bias: &Tensor, residual: &Tensor) -> Result<Tensor> {
    x.broadcast_add(bias)? + residual
}

/// `activation(x + bias)`.
pub(super) fn activate(x: Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
    let x = x.broadcast_add(bias)?;
    match activation {
        Activation::Gelu => x.gelu_erf(),
        Activation::QuickGelu => &x * candle_nn::ops::sigmoid(&(&x * 1.702)?)?,
    }
}

/// Softmax over the last dimension.
pub(super) fn softmax(x: Tensor) -> Result<Tensor> {
    candle_nn::ops::softmax_last_dim(&x)
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension.
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    normed.broadcast_mul(weight)?.broadcast_add(bias)
}

/// A convolution along the steps of a sequence, as one matrix product over its windows.
///
/// - `x`: `(groups, steps, channels)`, contiguous
/// - `weight`: `(groups, outputs, kernel * channels)`, contiguous
/// - returns `(groups, (steps - kernel) / stride + 1, outputs)`
///
/// The windows of a contiguous sequence are rows that overlap in memory, so the CPU multiplies
/// them where they lie; elsewhere they are copied out first.
pub(super) fn windows_matmul(
    x: &Tensor,
    weight: &Tensor,
    kernel: usize,
    stride: usize,
) -> Result<Tensor> {
    let op = WindowsMatmul { kernel, stride };
    if x.device().is_cpu() { x.apply_op2_no_bwd(weight, &op) } else { op.copying(x, weight) }
}

struct WindowsMatmul {
    kernel: usize,
    stride: usize,
}

impl WindowsMatmul {
    /// Windows copied at a time: 64 MB of f32.
    const MAX_COPIED: usize = 1 << 24;

    fn copying(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (groups, steps, channels) = x.dims3()?;
        let windows = (steps - self.kernel) / self.stride + 1;
        let width = self.kernel * channels;
        let at_once = (Self::MAX_COPIED / (groups * width)).max(1);
        let product = |start: usize| -> Result<Tensor> {
            let count = at_once.min(windows - start);
            let first = (start * self.stride) as u32;
            let rows: Vec<u32> = (0..count * self.kernel)
                .map(|row| first + (row / self.kernel * self.stride + row % self.kernel) as u32)
                .collect();
            let rows = Tensor::new(rows, x.device())?;
            let copied = x.index_select(&rows, 1)?.reshape((groups, count, width))?;
            copied.matmul(&weight.t()?)
        };
        let blocks: Result<Vec<Tensor>> = (0..windows).step_by(at_once).map(product).collect();
        Tensor::cat(&blocks?, 1)
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
