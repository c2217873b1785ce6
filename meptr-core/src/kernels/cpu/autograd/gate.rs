//! Rectifier and dropout in one pass.

use std::cmp::Ordering;
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
    /// `scale_i values_i`, and 0 where `is_shut` by `by_i` if there is a rectifier.
    fn passed(&self, values: &[T], by: &[T], is_shut: impl Fn(T) -> bool + Sync) -> Vec<T> {
        let mut passed = vec![T::ZERO; values.len()];
        host::fill_by_rows(&mut passed, 1, |first, passed| {
            let (values, by) = (&values[first..], &by[first..]);
            let scales = self.scales.as_ref().map(|scales| &scales[first..]);
            match scales {
                Some(scales) => {
                    for ((passed, &value), &scale) in passed.iter_mut().zip(values).zip(scales) {
                        *passed = value * T::from_f64(scale.into());
                    }
                }
                None => passed.copy_from_slice(&values[..passed.len()]),
            }
            if self.rectifies {
                for (passed, &by) in passed.iter_mut().zip(by) {
                    *passed = if is_shut(by) { T::ZERO } else { *passed };
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
        let passed = self.passed(x, x, |x| x <= T::ZERO); // what is no number stays so
        Ok((T::to_cpu_storage_owned(passed), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let is_shut = |x: T| x.partial_cmp(&T::ZERO) != Some(Ordering::Greater);
        let passed = host::read(x, |x: &[T]| {
            host::read(gradient, |gradient| self.passed(gradient, x, is_shut))
        })??;
        Ok(Some(Tensor::from_vec(passed, x.shape(), x.device())?))
    }
}
