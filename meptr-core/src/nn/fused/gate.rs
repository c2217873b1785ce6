//! Rectifier and dropout in one pass.

use std::marker::PhantomData;

use candle::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::nn::host::{self, Real};

/// `y_i = scale_i x_i`, or with a rectifier `scale_i max(x_i, 0)`.
pub(super) struct GateOp<T> {
    /// A factor for each number; none for a rectifier alone.
    pub(super) scales: Option<Vec<f32>>,
    pub(super) rectifies: bool,
    pub(super) of: PhantomData<T>,
}

impl<T: Real> GateOp<T> {
    /// `scale_i values_i` where `is_open(i)`, else 0.
    fn passed(&self, values: &[T], is_open: impl Fn(usize) -> bool + Sync) -> Vec<T> {
        let mut passed = vec![T::ZERO; values.len()];
        host::fill_by_rows(&mut passed, 1, |first, passed| {
            let values = values[first..].iter().zip(passed).zip(first..);
            match &self.scales {
                Some(scales) => {
                    for (((&value, passed), index), &scale) in values.zip(&scales[first..]) {
                        let scaled = value * T::from_f64(scale.into());
                        *passed = if is_open(index) { scaled } else { T::ZERO };
                    }
                }
                None => {
                    for ((&value, passed), index) in values {
                        *passed = if is_open(index) { value } else { T::ZERO };
                    }
                }
            }
        });
        passed
    }
}

impl<T: Real> CustomOp1 for GateOp<T> {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x: &[T] = host::slice(x, layout)?;
        // What is no number stays so.
        let is_open = |index: usize| !self.rectifies || !(x[index] <= T::ZERO);
        Ok((T::to_cpu_storage_owned(self.passed(x, is_open)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let passed = host::read(x, |x: &[T]| {
            let is_open = |index: usize| !self.rectifies || x[index] > T::ZERO;
            host::read(gradient, |gradient| self.passed(gradient, is_open))
        })??;
        Ok(Some(Tensor::from_vec(passed, x.shape(), x.device())?))
    }
}
