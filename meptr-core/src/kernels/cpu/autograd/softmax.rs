//! Softmax over the last axis, forth and back.

use std::marker::PhantomData;

use candle::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::nn::host::{self, Real};

/// `exp(x_i) / sum_j exp(x_j)` over the last axis.
pub(super) struct SoftmaxOp<T>(pub(super) PhantomData<T>);

/// Turns scores into their softmax, in place.
pub(super) fn softmax<T: Real>(row: &mut [T]) {
    let first = row.first().copied().unwrap_or(T::ZERO);
    let highest = row.iter().fold(first, |highest, &x| if x > highest { x } else { highest });
    let mut sum = T::ZERO;
    for x in row.iter_mut() {
        *x = (*x - highest).exp();
        sum += *x;
    }
    for x in row {
        *x /= sum;
    }
}

/// Turns the gradient of a softmax into that of its scores, in place.
pub(super) fn softmax_back<T: Real>(softmax: &[T], gradient: &mut [T]) {
    let mean = host::dot(softmax, gradient);
    for (gradient, &softmax) in gradient.iter_mut().zip(softmax) {
        *gradient = softmax * (*gradient - mean);
    }
}

impl<T: Real> CustomOp1 for SoftmaxOp<T> {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut output = host::slice::<T>(x, layout)?.to_vec();
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        host::fill_by_rows(&mut output, width, |_, output| {
            output.chunks_exact_mut(width).for_each(softmax);
        });
        Ok((T::to_cpu_storage_owned(output), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, softmax: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let width = x.dims().last().copied().unwrap_or(1).max(1);
        let mut of_x = host::read(gradient, <[T]>::to_vec)?;
        host::read(softmax, |softmax: &[T]| {
            host::fill_by_rows(&mut of_x, width, |first, of_x| {
                let softmax = softmax[first * width..].chunks_exact(width);
                for (of_x, softmax) in of_x.chunks_exact_mut(width).zip(softmax) {
                    softmax_back(softmax, of_x);
                }
            });
        })?;
        Ok(Some(Tensor::from_vec(of_x, x.shape(), x.device())?))
    }
}
