//! Affine map with gradient; the weight's gradient may stay in its two factors.

use std::marker::PhantomData;

use candle::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use crate::kernels::cpu::matmul::{MatrixView, matmul};
use crate::kernels::cpu::slices::{self, Real};

/// Rows of a packed weight matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WeightRows {
    /// First row.
    pub(crate) first: usize,
    /// Number of rows: the layer's outputs.
    pub(crate) count: usize,
}

/// Receiver of the factors of a weight's gradient, `output_gradient^T input`: the layer's input
/// `(rows, inputs)`, then the gradient of its output `(rows, outputs)`.
pub(crate) type FactorSink = Box<dyn Fn(Tensor, Tensor) + Send + Sync>;

/// `y = x W^T + b`, `W` being some rows of a matrix.
pub(super) struct LinearOp<T> {
    /// Rows of the matrix that make up `W`.
    pub(super) rows: WeightRows,
    /// Receiver of the factors of the weight's gradient; `None` for the gradient as a matrix.
    pub(super) sink: Option<FactorSink>,
    pub(super) of: PhantomData<T>,
}

impl<T: Real> LinearOp<T> {
    fn map(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<&[T]>,
    ) -> Result<(CpuStorage, Shape)> {
        let mut dims = x_layout.dims().to_vec();
        let inputs = dims.pop().unwrap_or(1);
        let rows = dims.iter().product();
        dims.push(self.rows.count);
        let x = MatrixView::new(slices::slice(x, x_layout)?, rows, inputs);
        let weight: &[T] = slices::slice(weight, weight_layout)?;
        let WeightRows { first, count: outputs } = self.rows;
        let weight = &weight[first * inputs..][..outputs * inputs];
        let mut y = x.matmul(MatrixView::new(weight, outputs, inputs).t());
        if let Some(bias) = bias {
            slices::fill_by_rows(&mut y, outputs, |_, y| {
                for y in y.chunks_exact_mut(outputs) {
                    slices::add_scaled(y, T::from_f64(1.0), bias);
                }
            });
        }
        Ok((T::to_cpu_storage_owned(y), Shape::from(dims)))
    }

    /// Gradients of input and weight.
    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let inputs = weight.dim(1)?;
        let WeightRows { first, count: outputs } = self.rows;
        let rows = gradient.elem_count() / outputs.max(1);
        let gradient = gradient.reshape((rows, outputs))?.detach();
        let grad_x = match x.track_op() {
            true => {
                let weight = weight.detach().narrow(0, first, outputs)?;
                Some(matmul(&gradient, &weight)?.reshape(x.shape())?)
            }
            false => None, // data, or the output of frozen layers
        };
        let input = x.detach().reshape((rows, inputs))?;
        let grad_weight = match &self.sink {
            Some(sink) => {
                sink(input, gradient);
                None
            }
            None if weight.track_op() => Some(matmul(&gradient.t()?, &input)?),
            None => None,
        };
        Ok((grad_x, grad_weight))
    }
}

impl<T: Real> CustomOp2 for LinearOp<T> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.map((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(x, weight, gradient)
    }
}

impl<T: Real> CustomOp3 for LinearOp<T> {
    fn name(&self) -> &'static str {
        "linear with bias"
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
        let bias = slices::slice(bias, bias_layout)?;
        self.map((x, x_layout), (weight, weight_layout), Some(bias))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (grad_x, grad_weight) = self.backward(x, weight, gradient)?;
        let grad_bias = match bias.track_op() {
            true => Some(column_sums::<T>(gradient, bias)?),
            false => None,
        };
        Ok((grad_x, grad_weight, grad_bias))
    }
}

fn column_sums<T: Real>(gradient: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let width = bias.elem_count();
    let sums = slices::read(gradient, |gradient: &[T]| {
        let rows = gradient.len() / width.max(1);
        slices::add_up(slices::by_rows(rows, width, |rows| {
            let mut sums = vec![T::ZERO; width];
            for row in gradient[rows.start * width..rows.end * width].chunks_exact(width) {
                slices::add_scaled(&mut sums, T::from_f64(1.0), row);
            }
            sums
        }))
    })?;
    Tensor::from_vec(sums, bias.shape(), bias.device())
}
