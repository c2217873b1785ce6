//! Tensors as slices, and sums over slices whose order depends on the shape alone, so that results
//! do not depend on the number of cores.

use std::cell::RefCell;
use std::ops::Range;

use candle::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, Var, WithDType};
use rayon::prelude::*;

/// Values of a task in a pass over a whole tensor, such as an optimiser's.
pub const CHUNK: usize = 1 << 14;

/// Least number of values of a task that works row by row.
const MIN_VALUES_PER_TASK: usize = 1 << 16;

/// Sums that run side by side, so that the compiler vectorises them.
const LANES: usize = 16;

/// Data types of the fused operations: f32, and f64 for the tests of gradients.
pub trait Real: WithDType {
    /// 0.
    const ZERO: Self;
    /// `e^self`.
    fn exp(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
}

impl Real for f32 {
    const ZERO: Self = 0.0;

    fn exp(self) -> Self {
        self.exp()
    }

    fn sqrt(self) -> Self {
        self.sqrt()
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;

    fn exp(self) -> Self {
        self.exp()
    }

    fn sqrt(self) -> Self {
        self.sqrt()
    }
}

/// Whether fused operations support the tensor's device and dtype; other tensors go through Candle's
/// own operations.
pub(crate) fn is_fusable(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::F64)
}

/// Values of a contiguous tensor.
pub(crate) fn slice<'a, T: Real>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle::bail!("a fused operation needs a contiguous tensor, not {layout:?}")
    };
    Ok(&T::cpu_storage_as_slice(storage)?[start..end])
}

/// Calls `f` with a tensor's values in row-major order; copies them only when they are not so in
/// memory, or on another device.
///
/// # Errors
/// When the tensor is not of type `T` or the device fails.
pub fn read<T: Real, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    if !tensor.device().is_cpu() {
        return Ok(f(&tensor.flatten_all()?.to_vec1()?));
    }
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle::bail!("a tensor on the CPU without values there")
    };
    Ok(f(slice(storage, layout)?))
}

/// [`read`] of an f32 tensor.
///
/// # Errors
/// When the tensor is not f32 or the device fails.
pub fn read_f32<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    read(tensor, f)
}

/// Changes the values of an f32 variable in place: one pass over memory where Candle's operations
/// take several.
///
/// # Errors
/// When the variable is not f32 or the device fails.
pub fn update(variable: &Var, f: impl FnOnce(&mut [f32])) -> Result<()> {
    if variable.device().is_cpu() {
        return variable.inplace_op1(&Update(RefCell::new(Some(f))));
    }
    let mut values = variable.as_detached_tensor().flatten_all()?.to_vec1()?;
    f(&mut values);
    variable.set(&Tensor::from_vec(values, variable.shape(), variable.device())?)
}

struct Update<F>(RefCell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Update<F> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F32(values) = storage else { candle::bail!("a variable is not f32") };
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle::bail!("a variable is not contiguous");
        };
        if let Some(f) = self.0.take() {
            f(&mut values[start..end]);
        }
        Ok(())
    }
}

/// Works on `rows` rows of `width` values each, in parts that depend on the shape alone and on all
/// cores when that is worth it. Results come in order.
pub(super) fn by_rows<R: Send>(
    rows: usize,
    width: usize,
    work: impl Fn(Range<usize>) -> R + Sync,
) -> Vec<R> {
    let part = MIN_VALUES_PER_TASK.div_ceil(width.max(1));
    let parts = rows.div_ceil(part);
    let rows_of = |index: usize| index * part..rows.min((index + 1) * part);
    match parts {
        0 | 1 => vec![work(0..rows)],
        _ => (0..parts).into_par_iter().map(|index| work(rows_of(index))).collect(),
    }
}

/// Like [`by_rows`], for work that fills its rows of `output` and may return a result too.
pub(super) fn fill_by_rows<T: Real, R: Send>(
    output: &mut [T],
    width: usize,
    work: impl Fn(usize, &mut [T]) -> R + Sync,
) -> Vec<R> {
    let part = MIN_VALUES_PER_TASK.div_ceil(width.max(1));
    if output.len() <= part * width {
        return vec![work(0, output)];
    }
    let parts = output.par_chunks_mut(part * width).enumerate();
    parts.map(|(index, output)| work(index * part, output)).collect()
}

/// `sum_i of(i)` over all `i` below `count`, in an order that depends on `count` alone.
pub(super) fn sum<T: Real>(count: usize, of: impl Fn(usize) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let whole = count / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += of(start + lane);
        }
    }
    let rest = (whole..count).fold(T::ZERO, |sum, index| sum + of(index));
    lanes.into_iter().fold(rest, |sum, lane| sum + lane)
}

/// `sum_i a_i b_i`.
pub(super) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let (lanes_a, lanes_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = lanes_a.remainder().iter().zip(lanes_b.remainder());
    let rest = rest.fold(T::ZERO, |sum, (&a, &b)| sum + a * b);
    let mut lanes = [T::ZERO; LANES];
    for (a, b) in lanes_a.zip(lanes_b) {
        for (sum, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    lanes.into_iter().fold(rest, |sum, lane| sum + lane)
}

/// `to += factor * from`.
pub(super) fn add_scaled<T: Real>(to: &mut [T], factor: T, from: &[T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

/// Elementwise sum of parts, in order.
pub(super) fn add_up<T: Real>(parts: impl IntoIterator<Item = Vec<T>>) -> Vec<T> {
    let sum = parts.into_iter().reduce(|mut sum, part| {
        for (sum, part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
        sum
    });
    sum.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    #[test]
    fn views_read_in_row_major_order_and_updates_are_visible() -> Result<()> {
        let matrix = Tensor::new(&[[1.0f32, 2.0], [3.0, 4.0]], &Device::Cpu)?;
        assert_eq!(read(&matrix.t()?, <[f32]>::to_vec)?, [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(read(&matrix.narrow(0, 1, 1)?, <[f32]>::to_vec)?, [3.0, 4.0]);
        let variable = Var::from_tensor(&matrix)?;
        let held_by_a_model = variable.as_tensor().clone();
        update(&variable, |values| values.iter_mut().for_each(|value| *value *= 2.0))?;
        assert_eq!(read(&held_by_a_model, <[f32]>::to_vec)?, [2.0, 4.0, 6.0, 8.0]);
        assert!(read(&Tensor::new(&[1u32], &Device::Cpu)?, <[f32]>::to_vec).is_err());
        Ok(())
    }
}
