//! The attention of a graph's nodes, forth and back.

use std::marker::PhantomData;

use candle::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::softmax::{softmax, softmax_back};
use crate::nn::host::{self, Real};

/// `out_i = sum_j dropout(alpha_ij) h_j`, `alpha_ij = softmax_j(leaky_relu(a^T [h_i ; h_j]))`, for
/// values `h` `(rows, nodes, d)` and `a` `(2 d, 1)`.
pub(super) struct GraphOp<T> {
    pub(super) slope: f64,
    /// `(rows, nodes)`: 1 = node that is there; none = all are.
    pub(super) mask: Option<Vec<T>>,
    /// `(rows, nodes, nodes)`: factors of `alpha`; none = 1.
    pub(super) scales: Option<Vec<f32>>,
    pub(super) of: PhantomData<T>,
}

/// What the nodes of a row make of each other, `(nodes, nodes)` each.
struct Attention<T> {
    /// Slope of the activation at each sum of scores.
    slopes: Vec<T>,
    /// `alpha` before dropout.
    softmax: Vec<T>,
    /// `alpha` after it.
    weights: Vec<T>,
}

impl<T: Real> GraphOp<T> {
    fn attention(&self, row: usize, values: &[T], a: &[T]) -> Attention<T> {
        let width = a.len() / 2;
        let nodes = values.len() / width;
        let score = |node: usize, a: &[T]| host::dot(&values[node * width..][..width], a);
        let own: Vec<T> = (0..nodes).map(|node| score(node, &a[..width])).collect();
        let other: Vec<T> = (0..nodes).map(|node| score(node, &a[width..])).collect();
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
            softmax(scores);
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
        Attention { slopes, softmax: softmaxed, weights }
    }

    fn read(&self, values: &[T], nodes: usize, a: &[T]) -> Vec<T> {
        let width = a.len() / 2;
        let size = nodes * width;
        let mut output = vec![T::ZERO; values.len()];
        host::fill_by_rows(&mut output, size, |first, output| {
            for (row, output) in (first..).zip(output.chunks_exact_mut(size)) {
                let values = &values[row * size..][..size];
                let weights = self.attention(row, values, a).weights;
                let rows = output.chunks_exact_mut(width).zip(weights.chunks_exact(nodes));
                for (output, weights) in rows {
                    for (&weight, value) in weights.iter().zip(values.chunks_exact(width)) {
                        host::add_scaled(output, weight, value);
                    }
                }
            }
        });
        output
    }

    /// Gradients of the values and of `a`.
    fn back(&self, values: &[T], nodes: usize, a: &[T], gradient: &[T]) -> (Vec<T>, Vec<T>) {
        let width = a.len() / 2;
        let size = nodes * width;
        let mut of_values = vec![T::ZERO; values.len()];
        let of_a = host::fill_by_rows(&mut of_values, size, |first, of_values| {
            let mut of_a = vec![T::ZERO; 2 * width];
            for (row, of_values) in (first..).zip(of_values.chunks_exact_mut(size)) {
                let part = row * size..(row + 1) * size;
                self.back_row(
                    row,
                    &values[part.clone()],
                    a,
                    &gradient[part],
                    (of_values, &mut of_a),
                );
            }
            of_a
        });
        (of_values, host::add_up(of_a))
    }

    fn back_row(
        &self,
        row: usize,
        values: &[T],
        a: &[T],
        gradient: &[T],
        (of_values, of_a): (&mut [T], &mut [T]),
    ) {
        let width = a.len() / 2;
        let nodes = values.len() / width;
        let Attention { slopes, softmax, weights } = self.attention(row, values, a);
        let scales = self.scales.as_ref().map(|scales| &scales[row * nodes * nodes..]);
        let (mut of_own, mut of_other) = (vec![T::ZERO; nodes], vec![T::ZERO; nodes]);
        let mut pull = vec![T::ZERO; nodes];
        for (i, gradient) in gradient.chunks_exact(width).enumerate() {
            for (j, pull) in pull.iter_mut().enumerate() {
                let at = i * nodes + j;
                let scale = scales.map_or(1.0, |scales| scales[at]);
                let value = &values[j * width..][..width];
                *pull = T::from_f64(scale.into()) * host::dot(gradient, value);
                host::add_scaled(&mut of_values[j * width..][..width], weights[at], gradient);
            }
            softmax_back(&softmax[i * nodes..][..nodes], &mut pull);
            for (j, &pull) in pull.iter().enumerate() {
                let pull = pull * slopes[i * nodes + j];
                of_own[i] += pull;
                of_other[j] += pull;
            }
        }
        for ((value, of_value), (&own, &other)) in values
            .chunks_exact(width)
            .zip(of_values.chunks_exact_mut(width))
            .zip(of_own.iter().zip(&of_other))
        {
            host::add_scaled(of_value, own, &a[..width]);
            host::add_scaled(of_value, other, &a[width..]);
            host::add_scaled(&mut of_a[..width], own, value);
            host::add_scaled(&mut of_a[width..], other, value);
        }
    }
}

impl<T: Real> CustomOp2 for GraphOp<T> {
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
            self.read(host::slice(values, values_layout)?, nodes, host::slice(a, a_layout)?);
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
        let (of_values, of_a) = host::read(values, |values| {
            host::read(a, |a| {
                host::read(gradient, |gradient| self.back(values, nodes, a, gradient))
            })
        })???;
        Ok((
            Some(Tensor::from_vec(of_values, values.shape(), values.device())?),
            Some(Tensor::from_vec(of_a, a.shape(), a.device())?),
        ))
    }
}
