//! Attention with few steps, forth and back: no matrix of its own per row and head.

use std::marker::PhantomData;

use candle::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::softmax::{softmax, softmax_back};
use crate::nn::host::{self, Real};

/// `concat_h(dropout(softmax(Q_h K_h^T / sqrt(d_head))) V_h)`, heads side by side in each step.
///
/// The queries `(1, steps, d)` are those of every row, or are `(rows, steps, d)`; keys and values
/// are `(rows, other_steps, d)`.
pub(super) struct AttentionOp<T> {
    pub(super) heads: usize,
    /// `(rows, other_steps)`: 1 = real step; none = all are.
    pub(super) mask: Option<Vec<T>>,
    /// `(rows, heads, steps, other_steps)`: factors of the attention weights; none = 1.
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

/// Numbers of a call.
struct Numbers<'a, T> {
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

    /// Numbers that one row takes part in, for dividing the work.
    fn effort(&self) -> usize {
        self.steps * self.others * self.width
    }

    fn head(&self) -> usize {
        self.width / self.heads
    }

    fn query_row(&self, row: usize) -> usize {
        if self.is_shared { 0 } else { row }
    }

    /// Place of a step's head among the numbers of a sequence.
    fn at(&self, row: usize, steps: usize, step: usize, head: usize) -> std::ops::Range<usize> {
        let start = (row * steps + step) * self.width + head * self.head();
        start..start + self.head()
    }
}

impl<T: Real> AttentionOp<T> {
    /// Softmax of the scores of one row, head and step.
    fn weights(
        &self,
        sizes: &Sizes,
        numbers: &Numbers<T>,
        [row, head, step]: [usize; 3],
        weights: &mut [T],
    ) {
        let scale = T::from_f64(1.0 / (sizes.head() as f64).sqrt());
        let query = &numbers.query[sizes.at(sizes.query_row(row), sizes.steps, step, head)];
        for (other, weight) in weights.iter_mut().enumerate() {
            let key = &numbers.key[sizes.at(row, sizes.others, other, head)];
            *weight = scale * host::dot(query, key);
        }
        let Some(mask) = &self.mask else { return softmax(weights) };
        let mask = &mask[row * sizes.others..][..sizes.others];
        for (weight, &is_real) in weights.iter_mut().zip(mask) {
            if is_real == T::ZERO {
                *weight = T::from_f64(-1e30); // as `ops::masked_softmax`
            }
        }
        softmax(weights);
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

    fn read(&self, sizes: &Sizes, numbers: &Numbers<T>) -> Vec<T> {
        let parts = host::by_rows(sizes.rows, sizes.effort(), |rows| {
            let mut output = vec![T::ZERO; rows.len() * sizes.steps * sizes.width];
            let mut weights = vec![T::ZERO; sizes.others];
            for at in places(rows.clone(), sizes) {
                let [row, head, step] = at;
                self.weights(sizes, numbers, at, &mut weights);
                let output = &mut output[sizes.at(row - rows.start, sizes.steps, step, head)];
                for (other, &weight) in weights.iter().enumerate() {
                    let value = &numbers.value[sizes.at(row, sizes.others, other, head)];
                    host::add_scaled(output, weight * self.scale(sizes, at, other), value);
                }
            }
            output
        });
        parts.concat()
    }

    /// Gradients of queries, keys and values.
    fn back(&self, sizes: &Sizes, numbers: &Numbers<T>, gradient: &[T]) -> [Vec<T>; 3] {
        let scale = T::from_f64(1.0 / (sizes.head() as f64).sqrt());
        let parts = host::by_rows(sizes.rows, sizes.effort(), |rows| {
            let zeros = |rows: usize, steps: usize| vec![T::ZERO; rows * steps * sizes.width];
            let query_rows = if sizes.is_shared { 1 } else { rows.len() };
            let mut of_query = zeros(query_rows, sizes.steps);
            let (mut of_key, mut of_value) =
                (zeros(rows.len(), sizes.others), zeros(rows.len(), sizes.others));
            let (mut weights, mut pull) =
                (vec![T::ZERO; sizes.others], vec![T::ZERO; sizes.others]);
            for at in places(rows.clone(), sizes) {
                let [row, head, step] = at;
                self.weights(sizes, numbers, at, &mut weights);
                let gradient = &gradient[sizes.at(row, sizes.steps, step, head)];
                for (other, pull) in pull.iter_mut().enumerate() {
                    let scale = self.scale(sizes, at, other);
                    let value = &numbers.value[sizes.at(row, sizes.others, other, head)];
                    let of_value =
                        &mut of_value[sizes.at(row - rows.start, sizes.others, other, head)];
                    host::add_scaled(of_value, weights[other] * scale, gradient);
                    *pull = scale * host::dot(gradient, value);
                }
                softmax_back(&weights, &mut pull);
                let query_row = if sizes.is_shared { 0 } else { row - rows.start };
                let of_query = &mut of_query[sizes.at(query_row, sizes.steps, step, head)];
                let query = &numbers.query[sizes.at(sizes.query_row(row), sizes.steps, step, head)];
                for (other, &pull) in pull.iter().enumerate() {
                    let key = &numbers.key[sizes.at(row, sizes.others, other, head)];
                    host::add_scaled(of_query, scale * pull, key);
                    let of_key = &mut of_key[sizes.at(row - rows.start, sizes.others, other, head)];
                    host::add_scaled(of_key, scale * pull, query);
                }
            }
            (of_query, (of_key, of_value))
        });
        let (of_query, others): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let (of_key, of_value): (Vec<_>, Vec<_>) = others.into_iter().unzip();
        let of_query = if sizes.is_shared { host::add_up(of_query) } else { of_query.concat() };
        [of_query, of_key.concat(), of_value.concat()]
    }
}

/// Every row, head and step, rows of a part alone.
fn places(rows: std::ops::Range<usize>, sizes: &Sizes) -> impl Iterator<Item = [usize; 3]> {
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
        let numbers = Numbers {
            query: host::slice(query, query_layout)?,
            key: host::slice(key, key_layout)?,
            value: host::slice(value, value_layout)?,
        };
        let output = self.read(&sizes, &numbers);
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
        let [of_query, of_key, of_value] = host::read(query, |query| {
            host::read(key, |key| {
                host::read(value, |value| {
                    let numbers = Numbers { query, key, value };
                    host::read(gradient, |gradient| self.back(&sizes, &numbers, gradient))
                })
            })
        })????;
        let like = |numbers: Vec<T>, tensor: &Tensor| {
            Tensor::from_vec(numbers, tensor.shape(), tensor.device()).map(Some)
        };
        Ok((like(of_query, query)?, like(of_key, key)?, like(of_value, value)?))
    }
}
