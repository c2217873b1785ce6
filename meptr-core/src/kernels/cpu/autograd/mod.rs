//! Fused operations with gradients: one pass forward and one backward where Candle takes many.
//!
//! They are Candle custom operations on f32 and f64 tensors on the CPU ([`is_fusable`]), with the
//! gradients of the operations that they replace. Sums are split by the shape alone, so results do
//! not depend on the number of cores.

mod attention;
mod graph_attention;
mod layer_norm;
mod linear;
mod relu_dropout;
mod softmax;

#[cfg(test)]
mod tests;

use std::marker::PhantomData;

use candle::{DType, Result, Tensor};

use self::attention::AttentionOp;
use self::graph_attention::GraphAttentionOp;
use self::layer_norm::LayerNormOp;
use self::linear::LinearOp;
pub(crate) use self::linear::{FactorSink, WeightRows};
use self::relu_dropout::ReluDropoutOp;
use self::softmax::SoftmaxOp;
pub(crate) use super::slices::is_fusable;
use super::slices::{Real, read};

/// Calls the version of a function for the type of a tensor.
macro_rules! by_dtype {
    ($tensor:expr, $function:ident($($argument:expr),*)) => {
        match $tensor.dtype() {
            DType::F32 => $function::<f32>($($argument),*),
            DType::F64 => $function::<f64>($($argument),*),
            other => candle::bail!("fused operations have no version for {other:?}"),
        }
    };
}

/// `(x - mean) / sqrt(variance + epsilon) * weight + bias` over the last axis.
pub(crate) fn layer_norm(
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
    by_dtype!(x, of(x, weight, bias, epsilon))
}

/// `scale_i x_i`, or with ReLU `scale_i max(x_i, 0)`; without scales, 1.
pub(crate) fn relu_dropout(x: &Tensor, scales: Option<Vec<f32>>, has_relu: bool) -> Result<Tensor> {
    fn of<T: Real>(x: &Tensor, scales: Option<Vec<f32>>, has_relu: bool) -> Result<Tensor> {
        x.contiguous()?.apply_op1(ReluDropoutOp::<T> { scales, has_relu, of: PhantomData })
    }
    by_dtype!(x, of(x, scales, has_relu))
}

/// Softmax over the last axis, with gradient.
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    fn of<T: Real>(x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(SoftmaxOp::<T>(PhantomData))
    }
    by_dtype!(x, of(x))
}

/// Affine map by some rows of `weight`. With a `sink`, for which `weight` must be a variable, the
/// weight's gradient goes there as its factors instead of to Candle.
pub(crate) fn linear(
    x: &Tensor,
    weight: &Tensor,
    rows: WeightRows,
    bias: Option<&Tensor>,
    sink: Option<FactorSink>,
) -> Result<Tensor> {
    fn of<T: Real>(
        x: &Tensor,
        weight: &Tensor,
        rows: WeightRows,
        bias: Option<&Tensor>,
        sink: Option<FactorSink>,
    ) -> Result<Tensor> {
        let op = LinearOp::<T> { rows, sink, of: PhantomData };
        match bias {
            Some(bias) => x.contiguous()?.apply_op3(weight, bias, op),
            None => x.contiguous()?.apply_op2(weight, op),
        }
    }
    if x.dims().last() != weight.dims().last() {
        candle::bail!("a linear layer of {:?} for {:?}", weight.dims(), x.dims())
    }
    by_dtype!(x, of(x, weight, rows, bias, sink))
}

/// Attention over heads that lie side by side.
///
/// - `query`: `(rows, steps, d)`, or `(1, steps, d)` for all rows
/// - `key`, `value`: `(rows, other_steps, d)`
/// - `mask`: `(rows, other_steps)`, 1 = real step
/// - `scales`: `(rows, heads, steps, other_steps)`, dropout's factors of the attention weights
/// - returns `(rows, steps, d)`
pub(crate) fn attention(
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
        let mask = mask_values::<T>(mask)?;
        let op = AttentionOp { heads, mask, scales, of: PhantomData };
        query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, op)
    }
    by_dtype!(query, of([query, key, value], heads, mask, scales))
}

/// Graph attention: `out_i = sum_j dropout(alpha_ij) h_j`, with gradient.
///
/// - `values`: `(rows, nodes, d)`
/// - `a`: `(2 d, 1)`
/// - `mask`: `(rows, nodes)`, 1 = node of the row's graph
/// - `scales`: `(rows, nodes, nodes)`, dropout's factors of the attention weights
pub(crate) fn graph_attention(
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
        let mask = mask_values::<T>(mask)?;
        values.contiguous()?.apply_op2(a, GraphAttentionOp { slope, mask, scales, of: PhantomData })
    }
    by_dtype!(values, of(values, a, slope, mask, scales))
}

fn mask_values<T: Real>(mask: Option<&Tensor>) -> Result<Option<Vec<T>>> {
    mask.map(|mask| read(&mask.to_dtype(T::DTYPE)?, <[T]>::to_vec)).transpose()
}
