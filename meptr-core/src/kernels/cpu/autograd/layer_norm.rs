//! Layer normalisation, forth and back, in one pass each.

use std::marker::PhantomData;

use candle::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use crate::nn::host::{self, Real};

/// `(x - mean) / sqrt(variance + epsilon) * weight + bias` over the last axis.
pub(super) struct LayerNormOp<T> {
    pub(super) epsilon: f64,
    pub(super) of: PhantomData<T>,
}

/// Mean and `1 / sqrt(variance + epsilon)` of one row.
fn moments<T: Real>(row: &[T], epsilon: f64) -> (T, T) {
    let count = T::from_f64(row.len() as f64);
    let mean = host::sum(row.len(), |index| row[index]) / count;
    let square = |index: usize| (row[index] - mean) * (row[index] - mean);
    let variance = host::sum(row.len(), square) / count;
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
        let x: &[T] = host::slice(x, x_layout)?;
        let weight: &[T] = host::slice(weight, weight_layout)?;
        let bias: &[T] = host::slice(bias, bias_layout)?;
        let width = weight.len();
        let mut output = vec![T::ZERO; x.len()];
        host::fill_by_rows(&mut output, width, |first, output| {
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
        let (of_x, of_weight, of_bias) = host::read(x, |x| {
            host::read(weight, |weight| {
                host::read(gradient, |gradient| self.back(x, weight, gradient))
            })
        })???;
        Ok((
            Some(Tensor::from_vec(of_x, x.shape(), x.device())?),
            Some(Tensor::from_vec(of_weight, weight.shape(), x.device())?),
            Some(Tensor::from_vec(of_bias, bias.shape(), x.device())?),
        ))
    }
}

impl<T: Real> LayerNormOp<T> {
    /// Gradients of input, weight and bias.
    fn back(&self, x: &[T], weight: &[T], gradient: &[T]) -> (Vec<T>, Vec<T>, Vec<T>) {
        let width = weight.len();
        let count = T::from_f64(width as f64);
        let mut of_x = vec![T::ZERO; x.len()];
        let parts = host::fill_by_rows(&mut of_x, width, |first, of_x| {
            let (mut of_weight, mut of_bias) = (vec![T::ZERO; width], vec![T::ZERO; width]);
            let (mut normed, mut pull) = (vec![T::ZERO; width], vec![T::ZERO; width]);
            let rows = x[first * width..].chunks_exact(width);
            let gradients = gradient[first * width..].chunks_exact(width);
            for ((x, gradient), of_x) in rows.zip(gradients).zip(of_x.chunks_exact_mut(width)) {
                let (mean, scale) = moments(x, self.epsilon);
                for (normed, &x) in normed.iter_mut().zip(x) {
                    *normed = (x - mean) * scale;
                }
                for ((pull, &gradient), &weight) in pull.iter_mut().zip(gradient).zip(weight) {
                    *pull = gradient * weight;
                }
                let mean_pull = host::sum(width, |index| pull[index]) / count;
                let along = host::dot(&pull, &normed) / count;
                for ((of_x, &pull), &normed) in of_x.iter_mut().zip(&pull).zip(&normed) {
                    *of_x = scale * (pull - mean_pull - normed * along);
                }
                for ((sum, &gradient), &normed) in of_weight.iter_mut().zip(gradient).zip(&normed) {
                    *sum += gradient * normed;
                }
                for (sum, &gradient) in of_bias.iter_mut().zip(gradient) {
                    *sum += gradient;
                }
            }
            (of_weight, of_bias)
        });
        let (of_weight, of_bias): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        (of_x, host::add_up(of_weight), host::add_up(of_bias))
    }
}
