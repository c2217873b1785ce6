//! GEMM of f32 on the tensor cores.

use candle::cuda_backend::WrapErr;
use candle::cuda_backend::cudarc::driver::sys::CUdevice_attribute as Attribute;
use candle::{DType, Result, Tensor};

use super::launch::{Launch, LaunchGrid, is_aligned, supports, uninit_like};
use crate::kernels::Activation;

/// Rows and columns of a block's output tile: large ones are more efficient, small ones occupy more
/// multiprocessors.
const TILE_SIDES: [usize; 2] = [128, 64];
/// Least share of the multiprocessors that large tiles must keep busy.
const MIN_OCCUPANCY: f64 = 0.75;
/// Depth that a block takes at a time.
const DEPTH: usize = 32;
/// Divisor of all supported sizes.
const SIZE_STEP: usize = 4;
/// Fewest rows for which the kernel beats cuBLAS: below, a block would compute mostly zeros.
const MIN_ROWS: usize = 128;

/// GEMM `x weight^T` of f32, with factors as sums of two f16 terms (`f16_split.cuh`). Its errors are
/// those of multiply-adds in f32, its rate a third of the tensor cores' rate in f16.
#[derive(Debug)]
pub struct CudaGemm<'a> {
    x: &'a Tensor,
    weight: &'a Tensor,
    groups: usize,
    rows: usize,
    columns: usize,
    depth: usize,
    /// Values of `x` from a row to the next.
    row_stride: usize,
    /// Values of `x` from a group to the next.
    group_stride: usize,
}

/// Steps on the sums before they are stored: `activation(sum + bias) + residual`.
#[derive(Debug, Default, Clone, Copy)]
pub struct CudaEpilogue<'a> {
    /// `(groups * columns,)`.
    pub bias: Option<&'a Tensor>,
    /// Activation.
    pub activation: Option<Activation>,
    /// `(rows, groups * columns)`.
    pub residual: Option<&'a Tensor>,
}

impl<'a> CudaGemm<'a> {
    /// GEMM of `x` `(rows, depth)` and `weight` `(columns, depth)`.
    ///
    /// # Errors
    /// When a shape differs from the above.
    pub fn of_rows(x: &'a Tensor, weight: &'a Tensor) -> Result<Self> {
        let ((rows, row_stride), (columns, depth)) = (x.dims2()?, weight.dims2()?);
        if row_stride != depth {
            candle::bail!("{:?} cannot be multiplied with {:?}", x.dims(), weight.dims());
        }
        Ok(Self { x, weight, groups: 1, rows, columns, depth, row_stride, group_stride: 0 })
    }

    /// GEMM of the windows of a 1D convolution, without an im2col copy.
    ///
    /// - `x`: `(groups, steps, inputs)`; windows start `stride` steps apart
    /// - `weight`: `(groups, columns, kernel * inputs)`
    ///
    /// # Errors
    /// When a shape differs from the above or `x` has fewer steps than the kernel.
    pub fn of_windows(x: &'a Tensor, weight: &'a Tensor, stride: usize) -> Result<Self> {
        let ((groups, steps, inputs), (weights, columns, depth)) = (x.dims3()?, weight.dims3()?);
        let kernel = depth / inputs;
        if groups != weights || depth != kernel * inputs || kernel > steps {
            candle::bail!("{:?} has no windows for {:?}", x.dims(), weight.dims());
        }
        let rows = (steps - kernel) / stride + 1;
        let (row_stride, group_stride) = (stride * inputs, steps * inputs);
        Ok(Self { x, weight, groups, rows, columns, depth, row_stride, group_stride })
    }

    /// Whether the kernel supports the sizes and is faster than cuBLAS.
    ///
    /// # Errors
    /// When a tensor is not contiguous on a GPU.
    pub fn is_fast(&self) -> Result<bool> {
        let Self { x, weight, rows, columns, depth, row_stride, group_stride, .. } = *self;
        let sizes = [columns, depth, row_stride, group_stride];
        let is_supported = supports(x)
            && supports(weight)
            && (x.dtype(), weight.dtype()) == (DType::F32, DType::F32)
            && sizes.iter().all(|size| size.is_multiple_of(SIZE_STEP));
        Ok(is_supported && rows >= MIN_ROWS && is_aligned(x)? && is_aligned(weight)?)
    }

    /// Runs the kernel; returns `(rows, groups * columns)`.
    ///
    /// # Errors
    /// When bias or residual have another shape, or the launch fails.
    pub fn run(&self, epilogue: CudaEpilogue) -> Result<Tensor> {
        let Self { x, weight, groups, rows, columns, depth, row_stride, group_stride } = *self;
        let width = groups * columns;
        let is_bias = |bias: &Tensor| bias.dims() == [width];
        let is_residual = |residual: &Tensor| residual.dims() == [rows, width];
        if !epilogue.bias.is_none_or(is_bias) || !epilogue.residual.is_none_or(is_residual) {
            candle::bail!("a bias or residual of another shape than ({rows}, {width})");
        }
        let residual = epilogue.residual.map(|residual| {
            // The kernel reads pairs of values.
            match residual.is_contiguous() && is_aligned(residual)? {
                true => Ok(residual.clone()),
                false => residual.force_contiguous(),
            }
        });
        let residual = residual.transpose()?;
        let out = uninit_like(x, (rows, width))?;
        let [large, small] = TILE_SIDES;
        let is_large = self.occupies(self.blocks(large).iter().product())?;
        let side = if is_large { large } else { small };
        let grid = LaunchGrid {
            blocks: self.blocks(side),
            threads: 2 * side,
            // Two stages; of each row of both factors two terms of 16 bits and a scale.
            shared_bytes: 2 * 2 * side * (2 * DEPTH * 2 + 4),
        };
        Launch::new(format!("gemm_{side}"), x, grid)?
            .tensor(x)?
            .tensor(weight)?
            .optional(epilogue.bias)?
            .optional(residual.as_ref())?
            .tensor(&out)?
            .size(rows)?
            .size(columns)?
            .size(depth)?
            .size(row_stride)?
            .size(group_stride)?
            .activation(epilogue.activation)
            .run()?;
        Ok(out)
    }

    /// Blocks of a grid with tiles of this side.
    fn blocks(&self, side: usize) -> [usize; 3] {
        [self.columns.div_ceil(side), self.rows.div_ceil(side), self.groups]
    }

    /// Whether so many blocks, one per multiprocessor, leave few of them idle.
    fn occupies(&self, blocks: usize) -> Result<bool> {
        let context = self.x.device().as_cuda_device()?.cuda_stream().context().clone();
        let attribute = Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let processors = context.attribute(attribute).w()?.max(1) as usize;
        let rounds = blocks.div_ceil(processors);
        Ok(blocks as f64 >= MIN_OCCUPANCY * (rounds * processors) as f64)
    }
}
