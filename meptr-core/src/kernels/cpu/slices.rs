//! Tensors on the processor as slices, for operations of our own.

use std::ops::Range;

use candle::{CpuStorage, DType, Layout, Result, Storage, Tensor, WithDType};
use rayon::prelude::*;

/// Numbers that one task of the thread pool works on, at least.
const CHUNK: usize = 1 << 16;

/// Numbers that are added side by side, so that the compiler makes vectors of them.
const LANES: usize = 16;

/// The types that fused operations know: f32, and f64 for the tests of gradients.
pub(super) trait Real: WithDType {
    const ZERO: Self;
    fn exp(self) -> Self;
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

/// Whether fused operations can take the tensor; others go through Candle's own.
pub(super) fn is_fusable(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::F64)
}

/// The numbers of a contiguous tensor.
pub(super) fn slice<'a, T: Real>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle::bail!("a fused operation needs contiguous numbers")
    };
    Ok(&T::cpu_storage_as_slice(storage)?[start..end])
}

/// Shows the numbers of any tensor on the processor in row-major order.
pub(super) fn read<T: Real, R>(tensor: &Tensor, look: impl FnOnce(&[T]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle::bail!("a fused operation needs numbers on the processor")
    };
    Ok(look(slice(storage, layout)?))
}

/// Works on `rows` rows of `width` numbers each in parts that depend on the shape alone, on all
/// cores when that is worth it; results come in order.
pub(super) fn by_rows<R: Send>(
    rows: usize,
    width: usize,
    work: impl Fn(Range<usize>) -> R + Sync,
) -> Vec<R> {
    let part = CHUNK.div_ceil(width.max(1));
    let parts = rows.div_ceil(part);
    let rows_of = |index: usize| index * part..rows.min((index + 1) * part);
    match parts {
        0 | 1 => vec![work(0..rows)],
        _ => (0..parts).into_par_iter().map(|index| work(rows_of(index))).collect(),
    }
}

/// As [`by_rows`], for work that fills its rows of `output`, and may say something beside.
pub(super) fn fill_by_rows<T: Real, R: Send>(
    output: &mut [T],
    width: usize,
    work: impl Fn(usize, &mut [T]) -> R + Sync,
) -> Vec<R> {
    let part = CHUNK.div_ceil(width.max(1));
    if output.len() <= part * width {
        return vec![work(0, output)];
    }
    let parts = output.par_chunks_mut(part * width).enumerate();
    parts.map(|(index, output)| work(index * part, output)).collect()
}

/// `sum_i of(i)` for all `i` below `count`, in an order that depends on `count` alone.
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

/// Sums of parts, in order.
pub(super) fn add_up<T: Real>(parts: impl IntoIterator<Item = Vec<T>>) -> Vec<T> {
    let sum = parts.into_iter().reduce(|mut sum, part| {
        for (sum, part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
        sum
    });
    sum.unwrap_or_default()
}
