//! Operations between GEMMs, each in one pass over memory.

use candle::{Result, Tensor};

use super::launch::{AccessWidth, uninit_like};
use crate::kernels::Activation;

/// Size of the last dimension.
fn width(x: &Tensor) -> Result<usize> {
    match x.dims().last() {
        Some(width) => Ok(*width),
        None => candle::bail!("a scalar has no rows"),
    }
}

fn ensure_shape(x: &Tensor, shape: &[usize]) -> Result<()> {
    if x.dims() != shape {
        candle::bail!("{:?} is not {shape:?}", x.dims());
    }
    Ok(())
}

/// `activation(x + bias)` in place; `x` must have no other owner.
///
/// - `x`: `(.., width)`
/// - `bias`: `(width,)`
///
/// # Errors
/// When a shape differs from the above or the launch fails.
pub fn add_bias(x: Tensor, bias: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
    let width = width(&x)?;
    ensure_shape(bias, &[width])?;
    let access = AccessWidth::of(width, &[&x, bias])?;
    access
        .elementwise("add_bias", &x)?
        .tensor(&x)?
        .tensor(bias)?
        .activation(activation)
        .size(x.elem_count() / access.count)?
        .size(width / access.count)?
        .run()?;
    Ok(x)
}

/// `x + bias + residual` in place; `x` must have no other owner.
///
/// - `x`, `residual`: `(.., width)`
/// - `bias`: `(width,)`
///
/// # Errors
/// When a shape differs from the above or the launch fails.
pub fn add_bias_residual(x: Tensor, bias: &Tensor, residual: &Tensor) -> Result<Tensor> {
    let (width, residual) = (width(&x)?, residual.contiguous()?);
    ensure_shape(bias, &[width])?;
    ensure_shape(&residual, x.dims())?;
    let access = AccessWidth::of(width, &[&x, bias, &residual])?;
    access
        .elementwise("add_bias_residual", &x)?
        .tensor(&x)?
        .tensor(bias)?
        .tensor(&residual)?
        .size(x.elem_count() / access.count)?
        .size(width / access.count)?
        .run()?;
    Ok(x)
}

/// Layer norm over the last dimension and an activation.
///
/// - `x`: `(.., width)`
/// - `weight`, `bias`: `(width,)`
///
/// # Errors
/// When a shape differs from the above or the launch fails.
pub fn layer_norm(
    x: &Tensor,
    [weight, bias]: [&Tensor; 2],
    eps: f64,
    activation: Option<Activation>,
) -> Result<Tensor> {
    let width = width(x)?;
    ensure_shape(weight, &[width])?;
    ensure_shape(bias, &[width])?;
    let (out, rows) = (uninit_like(x, x.shape())?, x.elem_count() / width);
    let access = AccessWidth::of(width, &[x, &out, weight, bias])?;
    access
        .by_rows("layer_norm", &out, rows)?
        .tensor(x)?
        .tensor(weight)?
        .tensor(bias)?
        .tensor(&out)?
        .size(rows)?
        .size(width / access.count)?
        .float(eps as f32)
        .activation(activation)
        .run()?;
    Ok(out)
}

/// Transposes the middle dimensions: `(outer, first, second, inner)` to
/// `(outer, second, first, inner)`.
///
/// # Errors
/// When `x` has other dimensions or the launch fails.
pub fn transpose_12(x: &Tensor) -> Result<Tensor> {
    let (outer, first, second, inner) = x.dims4()?;
    let out = uninit_like(x, (outer, second, first, inner))?;
    let access = AccessWidth::of(inner, &[x, &out])?;
    access
        .elementwise("transpose_12", &out)?
        .tensor(x)?
        .tensor(&out)?
        .size(x.elem_count() / access.count)?
        .size(first)?
        .size(second)?
        .size(inner / access.count)?
        .run()?;
    Ok(out)
}

/// im2col of a sequence.
///
/// - `x`: `(steps, channels)`
/// - returns `(groups, windows, kernel * channels / groups)`
///
/// # Errors
/// When `x` has fewer steps than the kernel, `groups` does not divide the channels, or the launch
/// fails.
pub fn im2col_1d(x: &Tensor, groups: usize, kernel: usize, stride: usize) -> Result<Tensor> {
    let (steps, channels) = x.dims2()?;
    if steps < kernel || !channels.is_multiple_of(groups) {
        candle::bail!("{:?} has no {groups} groups of windows of {kernel}", x.dims());
    }
    let (windows, inner) = ((steps - kernel) / stride + 1, channels / groups);
    let out = uninit_like(x, (groups, windows, kernel * inner))?;
    let access = AccessWidth::of(inner, &[x, &out])?;
    access
        .elementwise("im2col_1d", &out)?
        .tensor(x)?
        .tensor(&out)?
        .size(out.elem_count() / access.count)?
        .size(groups)?
        .size(windows)?
        .size(kernel)?
        .size(stride)?
        .size(inner / access.count)?
        .run()?;
    Ok(out)
}
