//! Attention over few steps with gradient, without a matrix per row and head.

use std::marker::PhantomData;

use candle::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::softmax::{softmax_backward, softmax_forward};
use crate::kernels::cpu::slices::{self, Real};

/// `concat_h(dropout(softmax(Q_h K_h^T / sqrt(d_head))) V_h)`, heads side by side in each step.
///
/// Queries are `(rows, steps, d)`, or `(1, steps, d)` and shared by all rows; keys and values are
/// `(rows, other_steps, d)`.
pub(super) struct AttentionOp<T> {
    pub(super) heads: usize,
    /// `(rows, other_steps)`: 1 = real step, 0 = padding; `None` = all real.
    pub(super) mask: Option<Vec<T>>,
    /// `(rows, heads, steps, other_steps)`: dropout's factors of the attention weights; `None` = 1.
    pub(super) scales: Option<Vec<f32>>,
    pub(super) of: PhantomData<T>,
}

/// Sizes of a call.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    steps: usize,
    others: usize,
    width: usize,
    heads: usize,
    is_shared: bool, // one row of queries for all rows
}

/// Input values of a call.
struct Inputs<'a, T> {
    query: &'a [T],
    key: &'a [T],
    value: &'a [T],
}

impl Sizes {
    fn of(query: &[usize], key: &[usize], heads: usize) -> Result<Self> {
        let (&[query_rows, steps, width], &[rows, others, _]) = (query, key) else {
            candle::bail!("attention from {query:?} to {key:?}")
        };
        Ok(Self { rows, steps, others, width, heads, is_shared: query_rows != rows })
    }

    /// Multiply-adds per row, for splitting the work.
    fn cost_per_row(&self) -> usize {
        self.steps * self.others * self.width
    }

    fn head(&self) -> usize {
        self.width / self.heads
    }

    fn query_row(&self, row: usize) -> usize {
        if self.is_shared { 0 } else { row }
    }

    /// Range of one head's values of a step in a tensor of sequences.
    fn range(&self, row: usize, steps: usize, step: usize, head: usize) -> std::ops::Range<usize> {
        let start = (row * steps + step) * self.width + head * self.head();
        start..start + self.head()
    }
}

impl<T: Real> AttentionOp<T> {
    /// Attention weights of one row, head and step: the softmax of its scores.
    fn weights(
        &self,
        sizes: &Sizes,
        inputs: &Inputs<T>,
        [row, head, step]: [usize; 3],
        weights: &mut [T],
    ) {
        let scale = T::from_f64(1.0 / (sizes.head() as f64).sqrt());
        let query = &inputs.query[sizes.range(sizes.query_row(row), sizes.steps, step, head)];
        for (other, weight) in weights.iter_mut().enumerate() {
            let key = &inputs.key[sizes.range(row, sizes.others, other, head)];
            *weight = scale * slices::dot(query, key);
        }
        let Some(mask) = &self.mask else { return softmax_forward(weights) };
        let mask = &mask[row * sizes.others..][..sizes.others];
        for (weight, &is_real) in weights.iter_mut().zip(mask) {
            if is_real == T::ZERO {
                *weight = T::from_f64(-1e30); // as `ops::masked_softmax`
            }
        }
        softmax_forward(weights);
        for (weight, &is_real) in weights.iter_mut().zip(mask) {
            *weight *= is_real;
        }
    }

    /// Dropout's factor of an attention weight.
    fn scale(&self, sizes: &Sizes, [row, head, step]: [usize; 3], other: usize) -> T {
        let Some(scales) = &self.scales else { return T::from_f64(1.0) };
        let index = ((row * sizes.heads + head) * sizes.steps + step) * sizes.others + other;
        T::from_f64(scales[index].into())
    }

    fn forward(&self, sizes: &Sizes, inputs: &Inputs<T>) -> Vec<T> {
        let parts = slices::by_rows(sizes.rows, sizes.cost_per_row(), |rows| {
            let mut output = vec![T::ZERO; rows.len() * sizes.steps * sizes.width];
            let mut weights = vec![T::ZERO; sizes.others];
            for at in positions(rows.clone(), sizes) {
                let [row, head, step] = at;
                self.weights(sizes, inputs, at, &mut weights);
                let output = &mut output[sizes.range(row - rows.start, sizes.steps, step, head)];
                for (other, &weight) in weights.iter().enumerate() {
                    let value = &inputs.value[sizes.range(row, sizes.others, other, head)];
                    slices::add_scaled(output, weight * self.scale(sizes, at, other), value);
                }
            }
            output
        });
        parts.concat()
    }

    /// Gradients of queries, keys and values.
    fn backward(&self, sizes: &Sizes, inputs: &Inputs<T>, gradient: &[T]) -> [Vec<T>; 3] {
        let scale = T::from_f64(1.0 / (sizes.head() as f64).sqrt());
        let parts = slices::by_rows(sizes.rows, sizes.cost_per_row(), |rows| {
            let zeros = |rows: usize, steps: usize| vec![T::ZERO; rows * steps * sizes.width];
            let query_rows = if sizes.is_shared { 1 } else { rows.len() };
            let mut grad_query = zeros(query_rows, sizes.steps);
            let (mut grad_key, mut grad_value) =
                (zeros(rows.len(), sizes.others), zeros(rows.len(), sizes.others));
            let (mut weights, mut grad_scores) =
                (vec![T::ZERO; sizes.others], vec![T::ZERO; sizes.others]);
            for at in positions(rows.clone(), sizes) {
                let [row, head, step] = at;
                self.weights(sizes, inputs, at, &mut weights);
                let gradient = &gradient[sizes.range(row, sizes.steps, step, head)];
                for (other, grad_weight) in grad_scores.iter_mut().enumerate() {
                    let scale = self.scale(sizes, at, other);
                    let value = &inputs.value[sizes.range(row, sizes.others, other, head)];
                    let grad_value =
                        &mut grad_value[sizes.range(row - rows.start, sizes.others, other, head)];
                    slices::add_scaled(grad_value, weights[other] * scale, gradient);
                    *grad_weight = scale * slices::dot(gradient, value);
                }
                softmax_backward(&weights, &mut grad_scores);
                let query_row = if sizes.is_shared { 0 } else { row - rows.start };
                let grad_query = &mut grad_query[sizes.range(query_row, sizes.steps, step, head)];
                let query =
                    &inputs.query[sizes.range(sizes.query_row(row), sizes.steps, step, head)];
                for (other, &grad_score) in grad_scores.iter().enumerate() {
                    let key = &inputs.key[sizes.range(row, sizes.others, other, head)];
                    slices::add_scaled(grad_query, scale * grad_score, key);
                    let grad_key =
                        &mut grad_key[sizes.range(row - rows.start, sizes.others, other, head)];
                    slices::add_scaled(grad_key, scale * grad_score, query);
                }
            }
            (grad_query, (grad_key, grad_value))
        });
        let (grad_query, others): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let (grad_key, grad_value): (Vec<_>, Vec<_>) = others.into_iter().unzip();
        let grad_query =
            if sizes.is_shared { slices::add_up(grad_query) } else { grad_query.concat() };
        [grad_query, grad_key.concat(), grad_value.concat()]
    }
}

/// Indices of every row, head and step of some rows.
fn positions(rows: std::ops::Range<usize>, sizes: &Sizes) -> impl Iterator<Item = [usize; 3]> {
    let (heads, steps) = (sizes.heads, sizes.steps);
    rows.flat_map(move |row| {
        (0..heads).flat_map(move |head| (0..steps).map(move |step| [row, head, step]))
    })
}

impl<T: Real> CustomOp3 for AttentionOp<T> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::of(query_layout.dims(), key_layout.dims(), self.heads)?;
        let inputs = Inputs {
            query: slices::slice(query, query_layout)?,
            key: slices::slice(key, key_layout)?,
            value: slices::slice(value, value_layout)?,
        };
        let output = self.forward(&sizes, &inputs);
        let shape = Shape::from((sizes.rows, sizes.steps, sizes.width));
        Ok((T::to_cpu_storage_owned(output), shape))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = Sizes::of(query.dims(), key.dims(), self.heads)?;
        let [grad_query, grad_key, grad_value] = slices::read(query, |query| {
            slices::read(key, |key| {
                slices::read(value, |value| {
                    let inputs = Inputs { query, key, value };
                    slices::read(gradient, |gradient| self.backward(&sizes, &inputs, gradient))
                })
            })
        })????;
        Ok((
            Some(Tensor::from_vec(grad_query, query.shape(), query.device())?),
            Some(Tensor::from_vec(grad_key, key.shape(), key.device())?),
            Some(Tensor::from_vec(grad_value, value.shape(), value.device())?),
        ))
    }
}
