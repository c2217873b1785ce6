//! Operations on the processor that do in one pass, forth and back, what takes Candle many.
//!
//! Each takes f32 and f64 tensors for which [`is_fusable`] holds, and has the gradients of what it
//! replaces. Sums are split by the shape alone, so results do not depend on the number of cores.

mod attention;
mod gate;
mod graph;
mod layer_norm;
mod linear;
mod softmax;

#[cfg(test)]
mod tests;

use std::marker::PhantomData;

use candle::{DType, Result, Tensor};

use self::attention::AttentionOp;
use self::gate::GateOp;
use self::graph::GraphOp;
use self::layer_norm::LayerNormOp;
use self::linear::LinearOp;
use self::softmax::SoftmaxOp;
pub(super) use super::host::is_fusable;
use super::host::{Real, read};
use super::tape::{Place, Tape};

/// Calls the version of a function for the type of a tensor.
macro_rules! by_type {
    ($tensor:expr, $function:ident($($argument:expr),*)) => {
        match $tensor.dtype() {
            DType::F32 => $function::<f32>($($argument),*),
            DType::F64 => $function::<f64>($($argument),*),
            other => candle::bail!("fused operations do not know {other:?}"),
        }
    };
}

/// `(x - mean) / sqrt(variance + epsilon) * weight + bias` over the last axis.
pub(super) fn layer_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    epsilon: f64,
) -> Result<Tensor> {
    fn of<T: Real>(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
        x.contiguous()?.apply_op3(weight, bias, LayerNormOp::<T> { epsilon, of: PhantomData })
    }
    let width = weight.elem_count();
    if width == 0 || x.dims().last() != Some(&width) || bias.dims() != weight.dims() {
        candle::bail!("layer norm of {:?} with weights {:?}", x.dims(), weight.dims())
    }
    by_type!(x, of(x, weight, bias, epsilon))
}

/// `scale_i x_i`, or with a rectifier `scale_i max(x_i, 0)`; no scales = 1.
pub(super) fn gate(x: &Tensor, scales: Option<Vec<f32>>, rectifies: bool) -> Result<Tensor> {
    fn of<T: Real>(x: &Tensor, scales: Option<Vec<f32>>, rectifies: bool) -> Result<Tensor> {
        x.contiguous()?.apply_op1(GateOp::<T> { scales, rectifies, of: PhantomData })
    }
    by_type!(x, of(x, scales, rectifies))
}

/// Softmax over the last axis.
pub(super) fn softmax(x: &Tensor) -> Result<Tensor> {
    fn of<T: Real>(x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(SoftmaxOp::<T>(PhantomData))
    }
    by_type!(x, of(x))
}

/// An affine map by `outputs` rows of `weight` from `first_row` on; with a tape, which needs
/// `weight` to be a variable, that gets the gradient.
pub(super) fn linear(
    x: &Tensor,
    weight: &Tensor,
    (first_row, outputs): (usize, usize),
    bias: Option<&Tensor>,
    tape: Option<&Tape>,
) -> Result<Tensor> {
    type Taped = Option<(Tape, Place)>;
    fn of<T: Real>(
        x: &Tensor,
        weight: &Tensor,
        (first_row, outputs): (usize, usize),
        bias: Option<&Tensor>,
        tape: Taped,
    ) -> Result<Tensor> {
        let op = LinearOp::<T> { first_row, outputs, tape, of: PhantomData };
        match bias {
            Some(bias) => x.contiguous()?.apply_op3(weight, bias, op),
            None => x.contiguous()?.apply_op2(weight, op),
        }
    }
    if x.dims().last() != weight.dims().last() {
        candle::bail!("a linear layer of {:?} reads {:?}", weight.dims(), x.dims())
    }
    let tape = tape.map(|tape| (tape.clone(), tape.place(weight, first_row)));
    by_type!(x, of(x, weight, (first_row, outputs), bias, tape))
}

/// Attention of `heads` heads from `query`, `(rows, steps, d)` or `(1, steps, d)` for all rows, to
/// `key` and `value`, `(rows, other_steps, d)`, heads side by side; gives `(rows, steps, d)`.
///
/// - `mask`: `(rows, other_steps)`
/// - `scales`: `(rows, heads, steps, other_steps)`, what dropout multiplies the weights with
pub(super) fn attention(
    [query, key, value]: [&Tensor; 3],
    heads: usize,
    mask: Option<&Tensor>,
    scales: Option<Vec<f32>>,
) -> Result<Tensor> {
    fn of<T: Real>(
        [query, key, value]: [&Tensor; 3],
        heads: usize,
        mask: Option<&Tensor>,
        scales: Option<Vec<f32>>,
    ) -> Result<Tensor> {
        let mask = numbers_of::<T>(mask)?;
        let op = AttentionOp { heads, mask, scales, of: PhantomData };
        query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, op)
    }
    by_type!(query, of([query, key, value], heads, mask, scales))
}

/// Graph attention over `values` `(rows, nodes, d)` with `a` `(2 d, 1)`.
///
/// - `mask`: `(rows, nodes)`
/// - `scales`: `(rows, nodes, nodes)`, what dropout multiplies the weights with
pub(super) fn graph(
    values: &Tensor,
    a: &Tensor,
    slope: f64,
    mask: Option<&Tensor>,
    scales: Option<Vec<f32>>,
) -> Result<Tensor> {
    fn of<T: Real>(
        values: &Tensor,
        a: &Tensor,
        slope: f64,
        mask: Option<&Tensor>,
        scales: Option<Vec<f32>>,
    ) -> Result<Tensor> {
        let mask = numbers_of::<T>(mask)?;
        values.contiguous()?.apply_op2(a, GraphOp { slope, mask, scales, of: PhantomData })
    }
    by_type!(values, of(values, a, slope, mask, scales))
}

fn numbers_of<T: Real>(mask: Option<&Tensor>) -> Result<Option<Vec<T>>> {
    let numbers = |mask: &Tensor| read(&mask.to_dtype(T::DTYPE)?, <[T]>::to_vec);
    mask.map(numbers).transpose()
}
