//! Softmax over the last axis with gradient.

use std::marker::PhantomData;

use candle::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::kernels::cpu::slices::{self, Real};

/// `exp(x_i) / sum_j exp(x_j)` over the last axis.
pub(super) struct SoftmaxOp<T>(pub(super) PhantomData<T>);

/// Softmax of a row in place.
pub(super) fn softmax_forward<T: Real>(row: &mut [T]) {
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

/// Turns the gradient of a softmax into the gradient of its scores, in place.
pub(super) fn softmax_backward<T: Real>(softmax: &[T], gradient: &mut [T]) {
    let mean = slices::dot(softmax, gradient);
    for (gradient, &softmax) in gradient.iter_mut().zip(softmax) {
        *gradient = softmax * (*gradient - mean);
    }
}

impl<T: Real> CustomOp1 for SoftmaxOp<T> {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut output = slices::slice::<T>(x, layout)?.to_vec();
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        slices::fill_by_rows(&mut output, width, |_, output| {
            output.chunks_exact_mut(width).for_each(softmax_forward);
        });
        Ok((T::to_cpu_storage_owned(output), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, softmax: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let width = x.dims().last().copied().unwrap_or(1).max(1);
        let mut grad_x = slices::read(gradient, <[T]>::to_vec)?;
        slices::read(softmax, |softmax: &[T]| {
            slices::fill_by_rows(&mut grad_x, width, |first, grad_x| {
                let softmax = softmax[first * width..].chunks_exact(width);
                for (grad_x, softmax) in grad_x.chunks_exact_mut(width).zip(softmax) {
                    softmax_backward(softmax, grad_x);
                }
            });
        })?;
        Ok(Some(Tensor::from_vec(grad_x, x.shape(), x.device())?))
    }
}
