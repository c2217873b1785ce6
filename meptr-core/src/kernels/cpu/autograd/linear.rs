//! An affine map, whose weight's gradient may stay in its two factors.

use std::marker::PhantomData;

use candle::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use crate::nn::host::{self, Real};
use crate::nn::product::{Matrix, product};
use crate::nn::tape::{Place, Tape};

/// `y = x W^T + b` with `W` being rows of a larger matrix, or all of it.
pub(super) struct LinearOp<T> {
    /// Rows of the matrix that make up `W`.
    pub(super) first_row: usize,
    pub(super) outputs: usize,
    /// Where the factors of the weight's gradient go; none for a gradient as a matrix.
    pub(super) tape: Option<(Tape, Place)>,
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
        dims.push(self.outputs);
        let x = Matrix::new(host::slice(x, x_layout)?, rows, inputs);
        let weight: &[T] = host::slice(weight, weight_layout)?;
        let weight = &weight[self.first_row * inputs..][..self.outputs * inputs];
        let mut y = x.times(Matrix::new(weight, self.outputs, inputs).t());
        if let Some(bias) = bias {
            host::fill_by_rows(&mut y, self.outputs, |_, y| {
                for y in y.chunks_exact_mut(self.outputs) {
                    host::add_scaled(y, T::from_f64(1.0), bias);
                }
            });
        }
        Ok((T::to_cpu_storage_owned(y), Shape::from(dims)))
    }

    /// Gradients of input and weight.
    fn back(
        &self,
        x: &Tensor,
        weight: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let inputs = weight.dim(1)?;
        let rows = gradient.elem_count() / self.outputs.max(1);
        let gradient = gradient.reshape((rows, self.outputs))?.detach();
        let of_x = match x.track_op() {
            true => {
                let weight = weight.detach().narrow(0, self.first_row, self.outputs)?;
                Some(product(&gradient, &weight)?.reshape(x.shape())?)
            }
            false => None, // data, or a frozen part
        };
        let input = x.detach().reshape((rows, inputs))?;
        let of_weight = match &self.tape {
            Some((tape, place)) => {
                tape.keep(place.with(input, gradient));
                None
            }
            None if weight.track_op() => Some(product(&gradient.t()?, &input)?),
            None => None,
        };
        Ok((of_x, of_weight))
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
        self.back(x, weight, gradient)
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
        let bias = host::slice(bias, bias_layout)?;
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
        let (of_x, of_weight) = self.back(x, weight, gradient)?;
        let of_bias = match bias.track_op() {
            true => Some(column_sums::<T>(gradient, bias)?),
            false => None,
        };
        Ok((of_x, of_weight, of_bias))
    }
}

fn column_sums<T: Real>(gradient: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let width = bias.elem_count();
    let sums = host::read(gradient, |gradient: &[T]| {
        let rows = gradient.len() / width.max(1);
        host::add_up(host::by_rows(rows, width, |rows| {
            let mut sums = vec![T::ZERO; width];
            for row in gradient[rows.start * width..rows.end * width].chunks_exact(width) {
                host::add_scaled(&mut sums, T::from_f64(1.0), row);
            }
            sums
        }))
    })?;
    Tensor::from_vec(sums, bias.shape(), bias.device())
}
