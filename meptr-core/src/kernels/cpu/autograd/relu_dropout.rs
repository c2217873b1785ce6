//! ReLU and dropout in one pass.

use std::cmp::Ordering;
use std::marker::PhantomData;

use candle::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::kernels::cpu::slices::{self, Real};

/// `y_i = scale_i x_i`, or with ReLU `scale_i max(x_i, 0)`.
pub(super) struct ReluDropoutOp<T> {
    /// Dropout's factor of each value; `None` for ReLU alone.
    pub(super) scales: Option<Vec<f32>>,
    pub(super) has_relu: bool,
    pub(super) of: PhantomData<T>,
}

impl<T: Real> ReluDropoutOp<T> {
    /// `scale_i values_i`, and with ReLU 0 where `is_zeroed(inputs_i)`.
    fn gated(&self, values: &[T], inputs: &[T], is_zeroed: impl Fn(T) -> bool + Sync) -> Vec<T> {
        let mut gated = vec![T::ZERO; values.len()];
        slices::fill_by_rows(&mut gated, 1, |first, gated| {
            let (values, inputs) = (&values[first..], &inputs[first..]);
            let scales = self.scales.as_ref().map(|scales| &scales[first..]);
            match scales {
                Some(scales) => {
                    for ((gated, &value), &scale) in gated.iter_mut().zip(values).zip(scales) {
                        *gated = value * T::from_f64(scale.into());
                    }
                }
                None => gated.copy_from_slice(&values[..gated.len()]),
            }
            if self.has_relu {
                for (gated, &input) in gated.iter_mut().zip(inputs) {
                    *gated = if is_zeroed(input) { T::ZERO } else { *gated };
                }
            }
        });
        gated
    }
}

impl<T: Real> CustomOp1 for ReluDropoutOp<T> {
    fn name(&self) -> &'static str {
        "relu-dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x: &[T] = slices::slice(x, layout)?;
        let gated = self.gated(x, x, |x| x <= T::ZERO); // NaN stays NaN
        Ok((T::to_cpu_storage_owned(gated), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let is_zeroed = |x: T| x.partial_cmp(&T::ZERO) != Some(Ordering::Greater);
        let gated = slices::read(x, |x: &[T]| {
            slices::read(gradient, |gradient| self.gated(gradient, x, is_zeroed))
        })??;
        Ok(Some(Tensor::from_vec(gated, x.shape(), x.device())?))
    }
}
