//! Products of f32 on the tensor cores.

use candle::cuda_backend::WrapErr;
use candle::cuda_backend::cudarc::driver::sys::CUdevice_attribute as Attribute;
use candle::{DType, Result, Tensor};

use super::call::{Call, is_aligned, room};
use crate::backbones::encoder::Activation;

/// Rows and columns that a block computes: as many as pays, and fewer for products that leave most of
/// the device idle then.
const SIDES: [usize; 2] = [128, 64];
/// Part of the device's processors that large blocks are to keep busy.
const BUSY: f64 = 0.75;
/// Numbers of a row, of depth, that a block takes at a time.
const DEPTH: usize = 32;
/// What all sizes are multiples of.
const STEP: usize = 4;
/// Below that cuBLAS multiplies: a block would compute mostly zeros.
const FEWEST_ROWS: usize = 128;

/// `x weight^T` of f32, numbers as sums of two pieces of f16 (`pieces.cuh`); the errors are those of
/// multiply-adds in f32, the operations a third of what the tensor cores do in f16.
#[derive(Debug)]
pub(crate) struct Product<'a> {
    x: &'a Tensor,
    weight: &'a Tensor,
    groups: usize,
    rows: usize,
    columns: usize,
    depth: usize,
    /// Numbers of `x` from a row to the next.
    row_step: usize,
    /// Numbers of `x` from a group to the next.
    group_step: usize,
}

/// What is done to sums before they are written: `activation(sum + bias) + residual`.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Ending<'a> {
    /// `(groups * columns,)`.
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) activation: Option<Activation>,
    /// `(rows, groups * columns)`.
    pub(crate) residual: Option<&'a Tensor>,
}

impl<'a> Product<'a> {
    /// Of `x` `(rows, depth)` and `weight` `(columns, depth)`.
    pub(crate) fn of_rows(x: &'a Tensor, weight: &'a Tensor) -> Result<Self> {
        let ((rows, row_step), (columns, depth)) = (x.dims2()?, weight.dims2()?);
        if row_step != depth {
            candle::bail!("{:?} cannot be multiplied with {:?}", x.dims(), weight.dims());
        }
        Ok(Self { x, weight, groups: 1, rows, columns, depth, row_step, group_step: 0 })
    }

    /// Of the windows of `x` `(groups, steps, inputs)`, which begin `stride` steps apart, and `weight`
    /// `(groups, columns, kernel * inputs)`.
    pub(crate) fn of_windows(x: &'a Tensor, weight: &'a Tensor, stride: usize) -> Result<Self> {
        let ((groups, steps, inputs), (weights, columns, depth)) = (x.dims3()?, weight.dims3()?);
        let kernel = depth / inputs;
        if groups != weights || depth != kernel * inputs || kernel > steps {
            candle::bail!("{:?} has no windows for {:?}", x.dims(), weight.dims());
        }
        let rows = (steps - kernel) / stride + 1;
        let (row_step, group_step) = (stride * inputs, steps * inputs);
        Ok(Self { x, weight, groups, rows, columns, depth, row_step, group_step })
    }

    /// Whether the kernel can compute it, and does so faster than cuBLAS.
    pub(crate) fn is_fast(&self) -> Result<bool> {
        let Self { x, weight, rows, columns, depth, row_step, group_step, .. } = *self;
        let sizes = [columns, depth, row_step, group_step];
        let can = super::takes(x)
            && super::takes(weight)
            && (x.dtype(), weight.dtype()) == (DType::F32, DType::F32)
            && sizes.iter().all(|size| size.is_multiple_of(STEP));
        Ok(can && rows >= FEWEST_ROWS && is_aligned(x)? && is_aligned(weight)?)
    }

    /// `(rows, groups * columns)`.
    pub(crate) fn run(&self, ending: Ending) -> Result<Tensor> {
        let Self { x, weight, groups, rows, columns, depth, row_step, group_step } = *self;
        let width = groups * columns;
        let is_bias = |bias: &Tensor| bias.dims() == [width];
        let is_residual = |residual: &Tensor| residual.dims() == [rows, width];
        if !ending.bias.is_none_or(is_bias) || !ending.residual.is_none_or(is_residual) {
            candle::bail!("a bias or residual of another shape than ({rows}, {width})");
        }
        let is_read_in_pairs =
            |x: &Tensor| Ok::<_, candle::Error>(x.is_contiguous() && is_aligned(x)?);
        let residual = ending.residual.map(|residual| match is_read_in_pairs(residual)? {
            true => Ok(residual.clone()),
            false => residual.force_contiguous(),
        });
        let residual = residual.transpose()?;
        let out = room(x, (rows, width))?;
        let blocks = |side: usize| [columns.div_ceil(side), rows.div_ceil(side), groups];
        let [large, small] = SIDES;
        let side = if self.keeps_busy(blocks(large).iter().product())? { large } else { small };
        // Two stages; of each row of both factors two pieces of 16 bits and a scale.
        let shared_bytes = 2 * 2 * side * (2 * DEPTH * 2 + 4);
        Call::new(format!("multiply_{side}"), x, blocks(side), 2 * side, shared_bytes)?
            .tensor(x)?
            .tensor(weight)?
            .optional(ending.bias)?
            .optional(residual.as_ref())?
            .tensor(&out)?
            .size(rows)?
            .size(columns)?
            .size(depth)?
            .size(row_step)?
            .size(group_step)?
            .activation(ending.activation)
            .run()?;
        Ok(out)
    }

    /// Whether so many blocks, one to a processor, leave few idle.
    fn keeps_busy(&self, blocks: usize) -> Result<bool> {
        let context = self.x.device().as_cuda_device()?.cuda_stream().context().clone();
        let attribute = Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let processors = context.attribute(attribute).w()?.max(1) as usize;
        let rounds = blocks.div_ceil(processors);
        Ok(blocks as f64 >= BUSY * (rounds * processors) as f64)
    }
}
