//! MatrixView multiplication of views, for the small matrices of training.

use candle::{DType, Layout, Result, Storage, Tensor};
use gemm::Parallelism;

use super::slices::Real;

/// Multiply-adds from which on a multiplication runs on all cores; below, waking another core takes
/// longer.
const MIN_PARALLEL: usize = 4 << 20;

/// A strided matrix: value `(i, j)` is at `i * row_stride + j * column_stride`.
#[derive(Debug, Clone, Copy)]
pub(super) struct MatrixView<'a, T> {
    values: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T: Real> MatrixView<'a, T> {
    /// Row-major values.
    pub(super) fn new(values: &'a [T], rows: usize, columns: usize) -> Self {
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Transposed view, without a copy.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn of(values: &'a [T], layout: &Layout) -> Result<Self> {
        let (&[rows, columns], &[row_stride, column_stride]) = (layout.dims(), layout.stride())
        else {
            candle::bail!("{:?} is no matrix to multiply", layout.dims())
        };
        let values = &values[layout.start_offset()..];
        Ok(Self { values, rows, columns, row_stride, column_stride })
    }

    /// Whether every value lies in the slice.
    fn is_in_bounds(&self) -> bool {
        let end = self.rows.saturating_sub(1) * self.row_stride
            + self.columns.saturating_sub(1) * self.column_stride;
        self.rows * self.columns == 0 || end < self.values.len()
    }

    /// `self other`, row-major.
    ///
    /// Candle's own matmul asks the system for the number of cores each time, which costs more than
    /// the small multiplications of a training step, and splits even these over cores.
    #[expect(unsafe_code, reason = "the GEMM library takes pointers")]
    pub(super) fn matmul(self, other: MatrixView<T>) -> Vec<T> {
        let (rows, columns, inner) = (self.rows, other.columns, self.columns);
        assert!(inner == other.rows, "inner dimensions of a matmul differ");
        assert!(self.is_in_bounds() && other.is_in_bounds(), "a matrix exceeds its slice");
        let mut output = vec![T::ZERO; rows * columns];
        let cores = rayon::current_num_threads();
        let parallelism = match cores > 1 && rows * columns * inner >= MIN_PARALLEL {
            true => Parallelism::Rayon(cores),
            false => Parallelism::None,
        };
        // SAFETY: the assertions keep every index that `(rows, inner)`, `(inner, columns)` and the
        // strides give inside the two slices; the output holds `rows * columns` values, row-major,
        // and is not read.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                inner,
                output.as_mut_ptr(),
                1,
                columns as isize,
                false,
                self.values.as_ptr(),
                self.column_stride as isize,
                self.row_stride as isize,
                other.values.as_ptr(),
                other.column_stride as isize,
                other.row_stride as isize,
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

/// Multiplies two matrices, which may be views; without gradient.
///
/// - `a`: `(rows, inner)`, `b`: `(inner, columns)`, f32
/// - returns `(rows, columns)`
///
/// # Errors
/// When a shape differs from the above.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let are_on_cpu = a.device().is_cpu() && b.device().is_cpu();
    match (a.dtype(), b.dtype()) {
        (DType::F32, DType::F32) if are_on_cpu => matmul_on_cpu::<f32>(a, b),
        (DType::F64, DType::F64) if are_on_cpu => matmul_on_cpu::<f64>(a, b),
        _ => a.detach().matmul(&b.detach()),
    }
}

fn matmul_on_cpu<T: Real>(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (rows, columns) = (a.dims2()?.0, b.dims2()?.1);
    if a.dim(1)? != b.dim(0)? {
        candle::bail!("{:?} cannot be multiplied with {:?}", a.dims(), b.dims())
    }
    let (a_storage, a_layout) = a.storage_and_layout();
    let (b_storage, b_layout) = b.storage_and_layout();
    let (Storage::Cpu(a_values), Storage::Cpu(b_values)) = (&*a_storage, &*b_storage) else {
        candle::bail!("matrices on the CPU without values there")
    };
    let a_view = MatrixView::of(T::cpu_storage_as_slice(a_values)?, a_layout)?;
    let b_view = MatrixView::of(T::cpu_storage_as_slice(b_values)?, b_layout)?;
    Tensor::from_vec(a_view.matmul(b_view), (rows, columns), a.device())
}

#[cfg(test)]
mod tests {
    use candle::{Device, Shape};
    use proptest::prelude::*;

    use super::*;
    use crate::weights::generated_tensor;

    /// Views of every kind, against Candle's matmul of copies.
    fn check(rows: usize, inner: usize, columns: usize) -> Result<()> {
        let values = |name: &str, rows: usize, columns: usize| {
            generated_tensor(name, &Shape::from((rows, columns)), 2, &Device::Cpu)
        };
        let a = [
            values("a", rows, inner)?,
            values("b", inner, rows)?.t()?,
            values("c", rows + 2, inner + 3)?.narrow(0, 1, rows)?.narrow(1, 2, inner)?,
            values("d", 1, inner)?.broadcast_as((rows, inner))?,
        ];
        let b = [values("e", inner, columns)?, values("f", columns, inner)?.t()?];
        for (a, b) in a.iter().flat_map(|a| b.iter().map(move |b| (a, b))) {
            let expected = a.contiguous()?.matmul(&b.contiguous()?)?;
            let off = (matmul(a, b)? - &expected)?.abs()?.flatten_all()?.max(0)?;
            let off = off.to_scalar::<f32>()?;
            assert!(off < 1e-5, "{rows} x {inner} x {columns}: off by {off}");
        }
        Ok(())
    }

    #[test]
    fn large_matrices_equal_candle_and_misfits_are_refused() -> Result<()> {
        check(160, 300, 130)?;
        let matrix = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
        assert!(matmul(&matrix, &matrix).is_err());
        Ok(())
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_cores() -> Result<()> {
        let values = |name: &str, rows: usize, columns: usize| {
            generated_tensor(name, &Shape::from((rows, columns)), 2, &Device::Cpu)
        };
        for (rows, inner, columns) in [(32, 2048, 256), (256, 32, 2048), (161, 257, 255)] {
            let (a, b) = (values("a", rows, inner)?, values("b", inner, columns)?);
            let on = |cores: usize| -> Result<Vec<Vec<f32>>> {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(cores).build();
                pool.map_err(candle::Error::wrap)?.install(|| matmul(&a, &b)?.to_vec2())
            };
            assert!(on(1)? == on(2)? && on(1)? == on(7)?, "{rows} x {inner} x {columns}");
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn small_matrices_equal_candle(
            rows in 1usize..20, inner in 1usize..40, columns in 1usize..20
        ) {
            check(rows, inner, columns).unwrap();
        }
    }
}
