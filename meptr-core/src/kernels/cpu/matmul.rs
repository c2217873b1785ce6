//! Products of matrices on the processor.

use candle::{DType, Layout, Result, Storage, Tensor};
use gemm::Parallelism;

use super::host::Real;

/// Multiplications below which a product stays on one core: to wake another takes longer.
const SHARED: usize = 4 << 20;

/// A matrix as it lies in memory: number `(i, j)` is at `i * row_step + j * column_step`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    numbers: &'a [T],
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

impl<'a, T: Real> Matrix<'a, T> {
    /// Rows one after another.
    pub(super) fn new(numbers: &'a [T], rows: usize, columns: usize) -> Self {
        Self { numbers, rows, columns, row_step: columns, column_step: 1 }
    }

    /// The transposed matrix, where it lies.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_step: self.column_step,
            column_step: self.row_step,
            ..self
        }
    }

    fn of(numbers: &'a [T], layout: &Layout) -> Result<Self> {
        let (&[rows, columns], &[row_step, column_step]) = (layout.dims(), layout.stride()) else {
            candle::bail!("a product of {:?}, which is no matrix", layout.dims())
        };
        let numbers = &numbers[layout.start_offset()..];
        Ok(Self { numbers, rows, columns, row_step, column_step })
    }

    /// Whether every number lies in the slice.
    fn is_whole(&self) -> bool {
        let last = |count: usize, step: usize| count.saturating_sub(1) * step;
        let end = last(self.rows, self.row_step) + last(self.columns, self.column_step);
        self.rows * self.columns == 0 || end < self.numbers.len()
    }

    /// The product `self other`, rows one after another.
    ///
    /// Candle's own asks the system for the number of cores each time, which costs more than the
    /// small products of a training step, and shares even these among cores.
    #[expect(unsafe_code, reason = "the library of kernels takes pointers")]
    pub(super) fn times(self, other: Matrix<T>) -> Vec<T> {
        let (rows, columns, inner) = (self.rows, other.columns, self.columns);
        assert!(inner == other.rows, "a product of matrices that do not fit");
        assert!(self.is_whole() && other.is_whole(), "a matrix reaches beyond its numbers");
        let mut output = vec![T::ZERO; rows * columns];
        let cores = rayon::current_num_threads();
        let parallelism = match cores > 1 && rows * columns * inner >= SHARED {
            true => Parallelism::Rayon(cores),
            false => Parallelism::None,
        };
        let step = |step: usize| step as isize;
        // SAFETY: the assertions keep every index that `(rows, inner)`, `(inner, columns)` and the
        // steps give inside the two slices; the output is `rows * columns` numbers, row by row, and
        // not read.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                inner,
                output.as_mut_ptr(),
                1,
                step(columns),
                false,
                self.numbers.as_ptr(),
                step(self.column_step),
                step(self.row_step),
                other.numbers.as_ptr(),
                step(other.column_step),
                step(other.row_step),
                T::ZERO,
                T::from_f64(1.0),
                false,
                false,
                false,
                parallelism,
            );
        }
        output
    }
}

/// The product of two matrices, which may be views; without gradient.
///
/// - `a`: `(rows, inner)`, `b`: `(inner, columns)`, f32
/// - returns `(rows, columns)`
///
/// # Errors
/// When a shape differs from the above.
pub fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match (a.dtype(), b.dtype()) {
        (DType::F32, DType::F32) if a.device().is_cpu() && b.device().is_cpu() => of::<f32>(a, b),
        (DType::F64, DType::F64) if a.device().is_cpu() && b.device().is_cpu() => of::<f64>(a, b),
        _ => a.detach().matmul(&b.detach()),
    }
}

fn of<T: Real>(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (rows, columns) = (a.dims2()?.0, b.dims2()?.1);
    if a.dim(1)? != b.dim(0)? {
        candle::bail!("a product of {:?} and {:?}", a.dims(), b.dims())
    }
    let (a_storage, a_layout) = a.storage_and_layout();
    let (b_storage, b_layout) = b.storage_and_layout();
    let (Storage::Cpu(a_numbers), Storage::Cpu(b_numbers)) = (&*a_storage, &*b_storage) else {
        candle::bail!("a product of matrices elsewhere")
    };
    let a_matrix = Matrix::of(T::cpu_storage_as_slice(a_numbers)?, a_layout)?;
    let b_matrix = Matrix::of(T::cpu_storage_as_slice(b_numbers)?, b_layout)?;
    Tensor::from_vec(a_matrix.times(b_matrix), (rows, columns), a.device())
}

#[cfg(test)]
mod tests {
    use candle::{Device, Shape};
    use proptest::prelude::*;

    use super::*;
    use crate::weights::generated_tensor;

    /// Views of every kind, against Candle's product of copies.
    fn check(rows: usize, inner: usize, columns: usize) -> Result<()> {
        let numbers = |name: &str, rows: usize, columns: usize| {
            generated_tensor(name, &Shape::from((rows, columns)), 2, &Device::Cpu)
        };
        let a = [
            numbers("a", rows, inner)?,
            numbers("b", inner, rows)?.t()?,
            numbers("c", rows + 2, inner + 3)?.narrow(0, 1, rows)?.narrow(1, 2, inner)?,
            numbers("d", 1, inner)?.broadcast_as((rows, inner))?,
        ];
        let b = [numbers("e", inner, columns)?, numbers("f", columns, inner)?.t()?];
        for (a, b) in a.iter().flat_map(|a| b.iter().map(move |b| (a, b))) {
            let expected = a.contiguous()?.matmul(&b.contiguous()?)?;
            let off = (product(a, b)? - &expected)?.abs()?.flatten_all()?.max(0)?;
            let off = off.to_scalar::<f32>()?;
            assert!(off < 1e-5, "{rows} x {inner} x {columns}: off by {off}");
        }
        Ok(())
    }

    #[test]
    fn large_products_equal_those_of_candle_and_misfits_are_refused() -> Result<()> {
        check(160, 300, 130)?;
        let matrix = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
        assert!(product(&matrix, &matrix).is_err());
        Ok(())
    }

    #[test]
    fn numbers_do_not_depend_on_the_number_of_cores() -> Result<()> {
        let numbers = |name: &str, rows: usize, columns: usize| {
            generated_tensor(name, &Shape::from((rows, columns)), 2, &Device::Cpu)
        };
        for (rows, inner, columns) in [(32, 2048, 256), (256, 32, 2048), (161, 257, 255)] {
            let (a, b) = (numbers("a", rows, inner)?, numbers("b", inner, columns)?);
            let on = |cores: usize| -> Result<Vec<Vec<f32>>> {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(cores).build();
                pool.map_err(candle::Error::wrap)?.install(|| product(&a, &b)?.to_vec2())
            };
            assert!(on(1)? == on(2)? && on(1)? == on(7)?, "{rows} x {inner} x {columns}");
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn products_equal_those_of_candle(
            rows in 1usize..20, inner in 1usize..40, columns in 1usize..20
        ) {
            check(rows, inner, columns).unwrap();
        }
    }
}
