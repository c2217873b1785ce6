//! Graph attention with gradient.

use std::marker::PhantomData;

use candle::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::softmax::{softmax_backward, softmax_forward};
use crate::kernels::cpu::slices::{self, Real};

/// `out_i = sum_j dropout(alpha_ij) h_j`, `alpha_ij = softmax_j(leaky_relu(a^T [h_i ; h_j]))`, for
/// values `h` `(rows, nodes, d)` and `a` `(2 d, 1)`.
pub(super) struct GraphAttentionOp<T> {
    pub(super) slope: f64,
    /// `(rows, nodes)`: 1 = node of the row's graph, 0 = absent; `None` = all present.
    pub(super) mask: Option<Vec<T>>,
    /// `(rows, nodes, nodes)`: dropout's factors of `alpha`; `None` = 1.
    pub(super) scales: Option<Vec<f32>>,
    pub(super) of: PhantomData<T>,
}

/// NodeAttention of one row's nodes, `(nodes, nodes)` each.
struct NodeAttention<T> {
    /// Slope of the activation at each sum of scores.
    slopes: Vec<T>,
    /// `alpha` before dropout.
    softmax: Vec<T>,
    /// `alpha` after dropout.
    weights: Vec<T>,
}

/// Gradients that a row adds to.
struct RowGradients<'a, T> {
    /// Of the row's values.
    grad_values: &'a mut [T],
    /// Of `a`, shared by several rows.
    grad_a: &'a mut [T],
}

impl<T: Real> GraphAttentionOp<T> {
    fn attention(&self, row: usize, values: &[T], a: &[T]) -> NodeAttention<T> {
        let width = a.len() / 2;
        let nodes = values.len() / width;
        let [own, other] = [&a[..width], &a[width..]].map(|a| -> Vec<T> {
            values.chunks_exact(width).map(|value| slices::dot(value, a)).collect()
        });
        let (one, slope) = (T::from_f64(1.0), T::from_f64(self.slope));
        let mask = self.mask.as_ref().map(|mask| &mask[row * nodes..][..nodes]);
        let mut slopes = vec![one; nodes * nodes];
        let mut softmaxed = vec![T::ZERO; nodes * nodes];
        for (i, (slopes, scores)) in
            slopes.chunks_exact_mut(nodes).zip(softmaxed.chunks_exact_mut(nodes)).enumerate()
        {
            for (j, (slope_here, score)) in slopes.iter_mut().zip(scores.iter_mut()).enumerate() {
                let sum = own[i] + other[j];
                *slope_here = if sum > T::ZERO { one } else { slope };
                *score = sum * *slope_here;
                if mask.is_some_and(|mask| mask[j] == T::ZERO) {
                    *score = T::from_f64(-1e30); // as `ops::masked_softmax`
                }
            }
            softmax_forward(scores);
            for (weight, &is_there) in scores.iter_mut().zip(mask.unwrap_or_default()) {
                *weight *= is_there;
            }
        }
        let mut weights = softmaxed.clone();
        if let Some(scales) = &self.scales {
            let scales = &scales[row * nodes * nodes..][..nodes * nodes];
            for (weight, &scale) in weights.iter_mut().zip(scales) {
                *weight *= T::from_f64(scale.into());
            }
        }
        NodeAttention { slopes, softmax: softmaxed, weights }
    }

    fn forward(&self, values: &[T], nodes: usize, a: &[T]) -> Vec<T> {
        let width = a.len() / 2;
        let size = nodes * width;
        let mut output = vec![T::ZERO; values.len()];
        slices::fill_by_rows(&mut output, size, |first, output| {
            for (row, output) in (first..).zip(output.chunks_exact_mut(size)) {
                let values = &values[row * size..][..size];
                let weights = self.attention(row, values, a).weights;
                let rows = output.chunks_exact_mut(width).zip(weights.chunks_exact(nodes));
                for (output, weights) in rows {
                    for (&weight, value) in weights.iter().zip(values.chunks_exact(width)) {
                        slices::add_scaled(output, weight, value);
                    }
                }
            }
        });
        output
    }

    /// Gradients of the values and of `a`.
    fn backward(&self, values: &[T], nodes: usize, a: &[T], gradient: &[T]) -> (Vec<T>, Vec<T>) {
        let width = a.len() / 2;
        let size = nodes * width;
        let mut grad_values = vec![T::ZERO; values.len()];
        let grad_a = slices::fill_by_rows(&mut grad_values, size, |first, grad_values| {
            let mut grad_a = vec![T::ZERO; 2 * width];
            for (row, grad_values) in (first..).zip(grad_values.chunks_exact_mut(size)) {
                let range = row * size..(row + 1) * size;
                let gradients = RowGradients { grad_values, grad_a: &mut grad_a };
                self.backward_row(row, &values[range.clone()], a, &gradient[range], gradients);
            }
            grad_a
        });
        (grad_values, slices::add_up(grad_a))
    }

    fn backward_row(
        &self,
        row: usize,
        values: &[T],
        a: &[T],
        gradient: &[T],
        gradients: RowGradients<T>,
    ) {
        let RowGradients { grad_values, grad_a } = gradients;
        let width = a.len() / 2;
        let nodes = values.len() / width;
        let NodeAttention { slopes, softmax, weights } = self.attention(row, values, a);
        let scales = self.scales.as_ref().map(|scales| &scales[row * nodes * nodes..]);
        let (mut grad_own, mut grad_other) = (vec![T::ZERO; nodes], vec![T::ZERO; nodes]);
        let mut grad_scores = vec![T::ZERO; nodes];
        for (i, gradient) in gradient.chunks_exact(width).enumerate() {
            for (j, grad_weight) in grad_scores.iter_mut().enumerate() {
                let at = i * nodes + j;
                let scale = scales.map_or(1.0, |scales| scales[at]);
                let value = &values[j * width..][..width];
                *grad_weight = T::from_f64(scale.into()) * slices::dot(gradient, value);
                slices::add_scaled(&mut grad_values[j * width..][..width], weights[at], gradient);
            }
            softmax_backward(&softmax[i * nodes..][..nodes], &mut grad_scores);
            for (j, &grad_score) in grad_scores.iter().enumerate() {
                let grad_sum = grad_score * slopes[i * nodes + j];
                grad_own[i] += grad_sum;
                grad_other[j] += grad_sum;
            }
        }
        for ((value, grad_value), (&own, &other)) in values
            .chunks_exact(width)
            .zip(grad_values.chunks_exact_mut(width))
            .zip(grad_own.iter().zip(&grad_other))
        {
            slices::add_scaled(grad_value, own, &a[..width]);
            slices::add_scaled(grad_value, other, &a[width..]);
            slices::add_scaled(&mut grad_a[..width], own, value);
            slices::add_scaled(&mut grad_a[width..], other, value);
        }
    }
}

impl<T: Real> CustomOp2 for GraphAttentionOp<T> {
    fn name(&self) -> &'static str {
        "graph attention"
    }

    fn cpu_fwd(
        &self,
        values: &CpuStorage,
        values_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, nodes, _) = values_layout.shape().dims3()?;
        let output =
            self.forward(slices::slice(values, values_layout)?, nodes, slices::slice(a, a_layout)?);
        Ok((T::to_cpu_storage_owned(output), values_layout.shape().clone()))
    }

    fn bwd(
        &self,
        values: &Tensor,
        a: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let nodes = values.dim(1)?;
        let (grad_values, grad_a) = slices::read(values, |values| {
            slices::read(a, |a| {
                slices::read(gradient, |gradient| self.backward(values, nodes, a, gradient))
            })
        })???;
        Ok((
            Some(Tensor::from_vec(grad_values, values.shape(), values.device())?),
            Some(Tensor::from_vec(grad_a, a.shape(), a.device())?),
        ))
    }
}
