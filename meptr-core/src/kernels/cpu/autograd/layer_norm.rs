//! Layer norm with gradient, one pass forward and one backward.

use std::marker::PhantomData;

use candle::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use crate::kernels::cpu::slices::{self, Real};

/// `(x - mean) / sqrt(variance + epsilon) * weight + bias` over the last axis.
pub(super) struct LayerNormOp<T> {
    pub(super) epsilon: f64,
    pub(super) of: PhantomData<T>,
}

/// Mean and `1 / sqrt(variance + epsilon)` of one row.
fn moments<T: Real>(row: &[T], epsilon: f64) -> (T, T) {
    let count = T::from_f64(row.len() as f64);
    let mean = slices::sum(row.len(), |index| row[index]) / count;
    let square = |index: usize| (row[index] - mean) * (row[index] - mean);
    let variance = slices::sum(row.len(), square) / count;
    (mean, T::from_f64(1.0) / (variance + T::from_f64(epsilon)).sqrt())
}

impl<T: Real> CustomOp3 for LayerNormOp<T> {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x: &[T] = slices::slice(x, x_layout)?;
        let weight: &[T] = slices::slice(weight, weight_layout)?;
        let bias: &[T] = slices::slice(bias, bias_layout)?;
        let width = weight.len();
        let mut output = vec![T::ZERO; x.len()];
        slices::fill_by_rows(&mut output, width, |first, output| {
            let x = x[first * width..].chunks_exact(width);
            for (x, y) in x.zip(output.chunks_exact_mut(width)) {
                let (mean, scale) = moments(x, self.epsilon);
                for (((y, &x), &weight), &bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                    *y = (x - mean) * scale * weight + bias;
                }
            }
        });
        Ok((T::to_cpu_storage_owned(output), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (grad_x, grad_weight, grad_bias) = slices::read(x, |x| {
            slices::read(weight, |weight| {
                slices::read(gradient, |gradient| self.backward(x, weight, gradient))
            })
        })???;
        Ok((
            Some(Tensor::from_vec(grad_x, x.shape(), x.device())?),
            Some(Tensor::from_vec(grad_weight, weight.shape(), x.device())?),
            Some(Tensor::from_vec(grad_bias, bias.shape(), x.device())?),
        ))
    }
}

impl<T: Real> LayerNormOp<T> {
    /// Gradients of input, weight and bias.
    fn backward(&self, x: &[T], weight: &[T], gradient: &[T]) -> (Vec<T>, Vec<T>, Vec<T>) {
        let width = weight.len();
        let count = T::from_f64(width as f64);
        let mut grad_x = vec![T::ZERO; x.len()];
        let partial_sums = slices::fill_by_rows(&mut grad_x, width, |first, grad_x| {
            let (mut grad_weight, mut grad_bias) = (vec![T::ZERO; width], vec![T::ZERO; width]);
            let (mut normed, mut grad_normed) = (vec![T::ZERO; width], vec![T::ZERO; width]);
            let rows = x[first * width..].chunks_exact(width);
            let gradients = gradient[first * width..].chunks_exact(width);
            for ((x, gradient), grad_x) in rows.zip(gradients).zip(grad_x.chunks_exact_mut(width)) {
                let (mean, scale) = moments(x, self.epsilon);
                for (normed, &x) in normed.iter_mut().zip(x) {
                    *normed = (x - mean) * scale;
                }
                for ((grad_normed, &gradient), &weight) in
                    grad_normed.iter_mut().zip(gradient).zip(weight)
                {
                    *grad_normed = gradient * weight;
                }
                let mean_grad = slices::sum(width, |index| grad_normed[index]) / count;
                let projection = slices::dot(&grad_normed, &normed) / count;
                for ((grad_x, &grad_normed), &normed) in
                    grad_x.iter_mut().zip(&grad_normed).zip(&normed)
                {
                    *grad_x = scale * (grad_normed - mean_grad - normed * projection);
                }
                for ((sum, &gradient), &normed) in grad_weight.iter_mut().zip(gradient).zip(&normed)
                {
                    *sum += gradient * normed;
                }
                for (sum, &gradient) in grad_bias.iter_mut().zip(gradient) {
                    *sum += gradient;
                }
            }
            (grad_weight, grad_bias)
        });
        let (grad_weight, grad_bias): (Vec<_>, Vec<_>) = partial_sums.into_iter().unzip();
        (grad_x, slices::add_up(grad_weight), slices::add_up(grad_bias))
    }
}
