//! The kernels as operations on tensors.

use candle::backend::BackendStorage;
use candle::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, InplaceOp2, InplaceOp3,
    Layout, Result, Shape,
};

use super::call::{Packing, address, room};
use crate::backbones::encoder::Activation;

fn last(layout: &Layout) -> Result<usize> {
    match layout.dims().last() {
        Some(width) => Ok(*width),
        None => candle::bail!("a scalar has no rows"),
    }
}

fn ensure_fits(layout: &Layout, shape: &[usize]) -> Result<()> {
    if layout.dims() != shape {
        candle::bail!("{:?} is not {shape:?}", layout.dims());
    }
    Ok(())
}

/// Kernels read all numbers as one type.
fn ensure_same_type(x: &CudaStorage, others: &[&CudaStorage]) -> Result<()> {
    match others.iter().find(|other| other.dtype() != x.dtype()) {
        Some(other) => candle::bail!("{:?} beside {:?}", other.dtype(), x.dtype()),
        None => Ok(()),
    }
}

/// The part of an operation that no device but a GPU has.
fn nowhere_else<T>() -> Result<T> {
    candle::bail!("this operation is for GPUs alone")
}

/// `activation(x + bias)` in place.
pub(super) struct AddBias(pub(super) Option<Activation>);

impl InplaceOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        nowhere_else()
    }

    fn cuda_fwd(
        &self,
        x: &mut CudaStorage,
        x_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let (width, count) = (last(x_layout)?, x_layout.shape().elem_count());
        ensure_fits(bias_layout, &[width])?;
        ensure_same_type(x, &[bias])?;
        let (into, bias) = (address(x, x_layout)?, address(bias, bias_layout)?);
        let packing = Packing::of(x.dtype(), width, &[into, bias]);
        packing
            .call("add_bias", x, count)?
            .address(into)
            .address(bias)
            .activation(self.0)
            .size(count / packing.count)?
            .size(width / packing.count)?
            .run()
    }
}

/// `x + bias + residual` in place.
pub(super) struct AddResidual;

impl InplaceOp3 for AddResidual {
    fn name(&self) -> &'static str {
        "add-residual"
    }

    fn cpu_fwd(
        &self,
        _: &mut CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<()> {
        nowhere_else()
    }

    fn cuda_fwd(
        &self,
        x: &mut CudaStorage,
        x_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
        residual: &CudaStorage,
        residual_layout: &Layout,
    ) -> Result<()> {
        let (width, count) = (last(x_layout)?, x_layout.shape().elem_count());
        ensure_fits(bias_layout, &[width])?;
        ensure_fits(residual_layout, x_layout.dims())?;
        ensure_same_type(x, &[bias, residual])?;
        let (into, bias) = (address(x, x_layout)?, address(bias, bias_layout)?);
        let residual = address(residual, residual_layout)?;
        let packing = Packing::of(x.dtype(), width, &[into, bias, residual]);
        packing
            .call("add_residual", x, count)?
            .address(into)
            .address(bias)
            .address(residual)
            .size(count / packing.count)?
            .size(width / packing.count)?
            .run()
    }
}

/// Softmax of rows `(rows, width)` in place: row `r` is number `first + r` of rows of which `rows_each`
/// in a row have one length, in a tensor of u32. What stands beyond the length becomes 0.
pub(super) struct Softmax {
    pub(super) first: usize,
    pub(super) rows_each: usize,
}

impl InplaceOp2 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        nowhere_else()
    }

    fn cuda_fwd(
        &self,
        x: &mut CudaStorage,
        x_layout: &Layout,
        lengths: &CudaStorage,
        lengths_layout: &Layout,
    ) -> Result<()> {
        let width = last(x_layout)?;
        let rows = x_layout.shape().elem_count() / width;
        if self.first + rows > self.rows_each * lengths_layout.shape().elem_count() {
            candle::bail!("{rows} rows from {} on have no lengths", self.first);
        }
        if lengths.dtype() != DType::U32 {
            candle::bail!("lengths are u32, not {:?}", lengths.dtype());
        }
        let (into, lengths) = (address(x, x_layout)?, address(lengths, lengths_layout)?);
        let packing = Packing::of(x.dtype(), width, &[into]);
        packing
            .call_on_rows("softmax", x, rows)?
            .address(into)
            .address(lengths)
            .size(self.first)?
            .size(rows)?
            .size(self.rows_each)?
            .size(width / packing.count)?
            .run()
    }
}

/// Layer norm over the last dimension and an activation.
pub(super) struct LayerNorm {
    pub(super) eps: f32,
    pub(super) activation: Option<Activation>,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        nowhere_else()
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (width, count) = (last(x_layout)?, x_layout.shape().elem_count());
        ensure_fits(weight_layout, &[width])?;
        ensure_fits(bias_layout, &[width])?;
        ensure_same_type(x, &[weight, bias])?;
        let out = room(&x.device, x.dtype(), count)?;
        let (from, into) = (address(x, x_layout)?, address(&out, &Layout::contiguous(count))?);
        let (weight, bias) = (address(weight, weight_layout)?, address(bias, bias_layout)?);
        let packing = Packing::of(x.dtype(), width, &[from, into, weight, bias]);
        packing
            .call_on_rows("layer_norm", &out, count / width)?
            .address(from)
            .address(weight)
            .address(bias)
            .address(into)
            .size(count / width)?
            .size(width / packing.count)?
            .float(self.eps)
            .activation(self.activation)
            .run()?;
        Ok((out, x_layout.shape().clone()))
    }
}

/// `(outer, first, second, inner)` to `(outer, kept, first, inner)`, of the second dimension only the
/// first `kept`.
pub(super) struct SwapMiddle {
    pub(super) kept: usize,
}

impl CustomOp1 for SwapMiddle {
    fn name(&self) -> &'static str {
        "swap-middle"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        nowhere_else()
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (outer, first, second, inner) = layout.shape().dims4()?;
        let kept = self.kept;
        if kept > second {
            candle::bail!("{kept} of {second} steps");
        }
        let count = outer * kept * first * inner;
        let out = room(&x.device, x.dtype(), count)?;
        let (from, into) = (address(x, layout)?, address(&out, &Layout::contiguous(count))?);
        let packing = Packing::of(x.dtype(), inner, &[from, into]);
        packing
            .call("swap_middle", &out, count)?
            .address(from)
            .address(into)
            .size(count / packing.count)?
            .size(first)?
            .size(second)?
            .size(kept)?
            .size(inner / packing.count)?
            .run()?;
        Ok((out, (outer, kept, first, inner).into()))
    }
}

/// Queries, keys and values `(batch * time, 3 * heads * width)` plus their bias to
/// `(3, batch, heads, padded, width)`; steps from `time` on are 0.
pub(super) struct SplitHeads {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) padded: usize,
}

impl CustomOp2 for SplitHeads {
    fn name(&self) -> &'static str {
        "split-heads"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        nowhere_else()
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let Self { batch, heads, padded } = *self;
        let (rows, width) = x_layout.shape().dims2()?;
        ensure_fits(bias_layout, &[width])?;
        let (time, inner) = (rows / batch, width / 3 / heads);
        ensure_fits(x_layout, &[batch * time, 3 * heads * inner])?;
        ensure_same_type(x, &[bias])?;
        let count = 3 * batch * heads * padded * inner;
        let out = room(&x.device, x.dtype(), count)?;
        let (from, bias) = (address(x, x_layout)?, address(bias, bias_layout)?);
        let into = address(&out, &Layout::contiguous(count))?;
        let packing = Packing::of(x.dtype(), inner, &[from, bias, into]);
        packing
            .call("split_heads", &out, count)?
            .address(from)
            .address(bias)
            .address(into)
            .size(count / packing.count)?
            .size(batch)?
            .size(time)?
            .size(padded)?
            .size(heads)?
            .size(inner / packing.count)?
            .run()?;
        Ok((out, (3, batch, heads, padded, inner).into()))
    }
}

/// Windows of a sequence `(steps, channels)`: `(groups, windows, kernel * channels / groups)`.
pub(super) struct Windows {
    pub(super) groups: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
}

impl CustomOp1 for Windows {
    fn name(&self) -> &'static str {
        "windows"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        nowhere_else()
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let Self { groups, kernel, stride } = *self;
        let (steps, channels) = layout.shape().dims2()?;
        if steps < kernel || !channels.is_multiple_of(groups) {
            candle::bail!("{:?} has no {groups} groups of windows of {kernel}", layout.dims());
        }
        let (windows, inner) = ((steps - kernel) / stride + 1, channels / groups);
        let count = groups * windows * kernel * inner;
        let out = room(&x.device, x.dtype(), count)?;
        let (from, into) = (address(x, layout)?, address(&out, &Layout::contiguous(count))?);
        let packing = Packing::of(x.dtype(), inner, &[from, into]);
        packing
            .call("windows", &out, count)?
            .address(from)
            .address(into)
            .size(count / packing.count)?
            .size(groups)?
            .size(windows)?
            .size(kernel)?
            .size(stride)?
            .size(inner / packing.count)?
            .run()?;
        Ok((out, (groups, windows, kernel * inner).into()))
    }
}
