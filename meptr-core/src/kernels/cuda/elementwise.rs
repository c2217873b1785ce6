//! What stands between the matrix products, each in one pass over memory.

use candle::{Result, Tensor};

use super::call::{Packing, room};
use crate::backbones::encoder::Activation;

/// The size of the last dimension.
fn width(x: &Tensor) -> Result<usize> {
    match x.dims().last() {
        Some(width) => Ok(*width),
        None => candle::bail!("a scalar has no rows"),
    }
}

fn ensure_fits(x: &Tensor, shape: &[usize]) -> Result<()> {
    if x.dims() != shape {
        candle::bail!("{:?} is not {shape:?}", x.dims());
    }
    Ok(())
}

/// `activation(x + bias)` in place; `x` is `(.., width)` and nothing else holds it, `bias` `(width,)`.
pub(crate) fn add_bias(x: Tensor, bias: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
    let width = width(&x)?;
    ensure_fits(bias, &[width])?;
    let packing = Packing::of(width, &[&x, bias])?;
    packing
        .call("add_bias", &x)?
        .tensor(&x)?
        .tensor(bias)?
        .activation(activation)
        .size(x.elem_count() / packing.count)?
        .size(width / packing.count)?
        .run()?;
    Ok(x)
}

/// `x + bias + residual` in place, as in [`add_bias`]; `residual` is of the shape of `x`.
pub(crate) fn add_residual(x: Tensor, bias: &Tensor, residual: &Tensor) -> Result<Tensor> {
    let (width, residual) = (width(&x)?, residual.contiguous()?);
    ensure_fits(bias, &[width])?;
    ensure_fits(&residual, x.dims())?;
    let packing = Packing::of(width, &[&x, bias, &residual])?;
    packing
        .call("add_residual", &x)?
        .tensor(&x)?
        .tensor(bias)?
        .tensor(&residual)?
        .size(x.elem_count() / packing.count)?
        .size(width / packing.count)?
        .run()?;
    Ok(x)
}

/// Layer norm over the last dimension and an activation; `weight` and `bias` are `(width,)`.
pub(crate) fn layer_norm(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
    activation: Option<Activation>,
) -> Result<Tensor> {
    let width = width(x)?;
    ensure_fits(weight, &[width])?;
    ensure_fits(bias, &[width])?;
    let (out, rows) = (room(x, x.shape())?, x.elem_count() / width);
    let packing = Packing::of(width, &[x, &out, weight, bias])?;
    packing
        .call_on_rows("layer_norm", &out, rows)?
        .tensor(x)?
        .tensor(weight)?
        .tensor(bias)?
        .tensor(&out)?
        .size(rows)?
        .size(width / packing.count)?
        .float(eps as f32)
        .activation(activation)
        .run()?;
    Ok(out)
}

/// `(outer, first, second, inner)` to `(outer, second, first, inner)`.
pub(crate) fn swap_middle(x: &Tensor) -> Result<Tensor> {
    let (outer, first, second, inner) = x.dims4()?;
    let out = room(x, (outer, second, first, inner))?;
    let packing = Packing::of(inner, &[x, &out])?;
    packing
        .call("swap_middle", &out)?
        .tensor(x)?
        .tensor(&out)?
        .size(x.elem_count() / packing.count)?
        .size(first)?
        .size(second)?
        .size(inner / packing.count)?
        .run()?;
    Ok(out)
}

/// Windows of a sequence `(steps, channels)`: `(groups, windows, kernel * channels / groups)`.
pub(crate) fn windows(x: &Tensor, groups: usize, kernel: usize, stride: usize) -> Result<Tensor> {
    let (steps, channels) = x.dims2()?;
    if steps < kernel || !channels.is_multiple_of(groups) {
        candle::bail!("{:?} has no {groups} groups of windows of {kernel}", x.dims());
    }
    let (windows, inner) = ((steps - kernel) / stride + 1, channels / groups);
    let out = room(x, (groups, windows, kernel * inner))?;
    let packing = Packing::of(inner, &[x, &out])?;
    packing
        .call("windows", &out)?
        .tensor(x)?
        .tensor(&out)?
        .size(out.elem_count() / packing.count)?
        .size(groups)?
        .size(windows)?
        .size(kernel)?
        .size(stride)?
        .size(inner / packing.count)?
        .run()?;
    Ok(out)
}
