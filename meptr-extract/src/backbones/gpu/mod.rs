//! Kernels of our own on NVIDIA GPUs, for what stands between the matrix products.
//!
//! Candle's operations pass over memory once each, and add biases and turn dimensions over number by
//! number; at bf16 that took three times as long as the products. Forward only.

use candle::backend::BackendStorage;
use candle::cuda_backend::cudarc::driver::{DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg};
use candle::cuda_backend::{CudaDevice, CudaStorageSlice, WrapErr};
use candle::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, InplaceOp1, InplaceOp2,
    InplaceOp3, Layout, Result, Shape, Tensor,
};

use super::encoder::Activation;

const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/backbones.ptx"));

/// Threads that work together; a row of a norm or a softmax takes 32 of them.
const BLOCK: usize = 256;
/// Bytes that a thread reads at a time, if sizes and places allow.
const WIDE_BYTES: usize = 16;

/// Whether the kernels can work on a tensor.
pub(super) fn takes(x: &Tensor) -> bool {
    x.device().is_cuda() && suffix(x.dtype()).is_ok() && x.is_contiguous() && x.elem_count() > 0
}

/// `activation(x + bias)` in place; `x` is `(.., width)` and nothing else holds it, `bias` `(width,)`.
pub(super) fn add_bias(x: Tensor, bias: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
    x.inplace_op2(bias, &AddBias(activation))?;
    Ok(x)
}

/// `x + bias + residual` in place, as in [`add_bias`]; `residual` is of the shape of `x`.
pub(super) fn add_residual(x: Tensor, bias: &Tensor, residual: &Tensor) -> Result<Tensor> {
    x.inplace_op3(bias, &residual.contiguous()?, &AddResidual)?;
    Ok(x)
}

/// Softmax over the last dimension in place.
pub(super) fn softmax(x: Tensor) -> Result<Tensor> {
    x.inplace_op1(&Softmax)?;
    Ok(x)
}

/// Layer norm over the last dimension and an activation; `weight` and `bias` are `(width,)`.
pub(super) fn layer_norm(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
    activation: Option<Activation>,
) -> Result<Tensor> {
    x.apply_op3_no_bwd(weight, bias, &LayerNorm { eps: eps as f32, activation })
}

/// `(outer, first, second, inner)` to `(outer, second, first, inner)`.
pub(super) fn swap_middle(x: &Tensor) -> Result<Tensor> {
    x.apply_op1_no_bwd(&SwapMiddle)
}

/// Queries, keys and values `(batch * time, 3 * heads * width)` plus their bias to
/// `(3, batch, heads, time, width)`.
pub(super) fn split_heads(x: &Tensor, bias: &Tensor, batch: usize, heads: usize) -> Result<Tensor> {
    x.apply_op2_no_bwd(bias, &SplitHeads { batch, heads })
}

/// Windows of a sequence `(steps, channels)`: `(groups, windows, kernel * channels / groups)`.
pub(super) fn windows(x: &Tensor, groups: usize, kernel: usize, stride: usize) -> Result<Tensor> {
    x.apply_op1_no_bwd(&Windows { groups, kernel, stride })
}

/// What names of kernels end in.
fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        other => candle::bail!("no kernel computes with {other:?}"),
    }
}

fn size(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| candle::Error::Msg(format!("{count} numbers are too many")))
}

fn number(activation: Option<Activation>) -> i32 {
    match activation {
        None => 0,
        Some(Activation::Gelu) => 1,
        Some(Activation::QuickGelu) => 2,
    }
}

/// Address of the first number of a contiguous tensor, as kernels take it.
fn address(storage: &CudaStorage, layout: &Layout) -> Result<u64> {
    let Some((first, _)) = layout.contiguous_offsets() else {
        candle::bail!("a contiguous tensor is needed");
    };
    let stream = storage.device.cuda_stream();
    // The guards would record events, of which a device with one queue has none.
    let start = match &storage.slice {
        CudaStorageSlice::F32(numbers) => numbers.device_ptr(&stream).0,
        CudaStorageSlice::F16(numbers) => numbers.device_ptr(&stream).0,
        CudaStorageSlice::BF16(numbers) => numbers.device_ptr(&stream).0,
        _ => candle::bail!("no kernel computes with {:?}", storage.dtype()),
    };
    Ok(start + (first * storage.dtype().size_in_bytes()) as u64)
}

/// Room for an output; kernels write all of it.
fn room(device: &CudaDevice, dtype: DType, count: usize) -> Result<CudaStorage> {
    #[expect(unsafe_code, reason = "memory is not cleared before it is written")]
    // SAFETY: every number is written by the kernel that is launched next, in the same queue.
    let slice = unsafe {
        match dtype {
            DType::F32 => CudaStorageSlice::F32(device.alloc(count)?),
            DType::F16 => CudaStorageSlice::F16(device.alloc(count)?),
            DType::BF16 => CudaStorageSlice::BF16(device.alloc(count)?),
            other => candle::bail!("no kernel computes with {other:?}"),
        }
    };
    Ok(CudaStorage { slice, device: device.clone() })
}

/// A call of a kernel.
struct Call<'a> {
    name: String,
    threads: usize,
    device: &'a CudaDevice,
    arguments: Vec<Argument>,
}

enum Argument {
    Address(u64),
    Size(u32),
    Float(f32),
    Number(i32),
}

impl<'a> Call<'a> {
    /// A kernel of rows, 32 threads to each.
    fn of_rows(name: &str, x: &'a CudaStorage, rows: usize) -> Result<Self> {
        let name = format!("{name}_{}", suffix(x.dtype())?);
        Ok(Self { name, threads: rows * 32, device: &x.device, arguments: Vec::new() })
    }

    fn address(mut self, address: u64) -> Self {
        self.arguments.push(Argument::Address(address));
        self
    }

    fn size(mut self, count: usize) -> Result<Self> {
        self.arguments.push(Argument::Size(size(count)?));
        Ok(self)
    }

    fn float(mut self, value: f32) -> Self {
        self.arguments.push(Argument::Float(value));
        self
    }

    fn activation(mut self, activation: Option<Activation>) -> Self {
        self.arguments.push(Argument::Number(number(activation)));
        self
    }

    fn run(self) -> Result<()> {
        let function = self.device.get_or_load_custom_func(&self.name, "backbones", PTX)?;
        let mut call = function.builder();
        for argument in &self.arguments {
            match argument {
                Argument::Address(value) => push(&mut call, value),
                Argument::Size(value) => push(&mut call, value),
                Argument::Float(value) => push(&mut call, value),
                Argument::Number(value) => push(&mut call, value),
            }
        }
        let config = LaunchConfig {
            grid_dim: (size(self.threads.div_ceil(BLOCK))?, 1, 1),
            block_dim: (BLOCK as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        #[expect(unsafe_code, reason = "a kernel's arguments are not checked")]
        // SAFETY: each caller passes what its kernel takes, of sizes that it checked; the tensors
        // outlive the call in the device's one queue.
        unsafe { call.launch(config) }.w()?;
        Ok(())
    }
}

fn push<'a, T: DeviceRepr>(
    call: &mut candle::cuda_backend::cudarc::driver::LaunchArgs<'a>,
    value: &'a T,
) {
    call.arg(value);
}

/// How a kernel reads numbers: `count` at a time.
struct Packing {
    count: usize,
    form: &'static str,
}

impl Packing {
    /// As many numbers as fit, when the innermost dimension is a multiple of them and all tensors
    /// start at a multiple of their size.
    fn of(dtype: DType, inner: usize, addresses: &[u64]) -> Self {
        let count = WIDE_BYTES / dtype.size_in_bytes();
        let is_aligned = |address: &u64| address.is_multiple_of(WIDE_BYTES as u64);
        match inner.is_multiple_of(count) && addresses.iter().all(is_aligned) {
            true => Self { count, form: "wide" },
            false => Self { count: 1, form: "narrow" },
        }
    }

    /// A kernel with a thread for each pack of the output.
    fn call<'a>(
        &self,
        name: &str,
        device: &'a CudaDevice,
        dtype: DType,
        count: usize,
    ) -> Result<Call<'a>> {
        let name = format!("{name}_{}_{}", suffix(dtype)?, self.form);
        Ok(Call { name, threads: count / self.count, device, arguments: Vec::new() })
    }
}

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

/// The part of an operation that no device but a GPU has.
fn nowhere_else<T>() -> Result<T> {
    candle::bail!("this operation is for GPUs alone")
}

struct AddBias(Option<Activation>);

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
        let (into, bias) = (address(x, x_layout)?, address(bias, bias_layout)?);
        let packing = Packing::of(x.dtype(), width, &[into, bias]);
        packing
            .call("add_bias", &x.device, x.dtype(), count)?
            .address(into)
            .address(bias)
            .activation(self.0)
            .size(count / packing.count)?
            .size(width / packing.count)?
            .run()
    }
}

struct AddResidual;

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
        let (into, bias) = (address(x, x_layout)?, address(bias, bias_layout)?);
        let residual = address(residual, residual_layout)?;
        let packing = Packing::of(x.dtype(), width, &[into, bias, residual]);
        packing
            .call("add_residual", &x.device, x.dtype(), count)?
            .address(into)
            .address(bias)
            .address(residual)
            .size(count / packing.count)?
            .size(width / packing.count)?
            .run()
    }
}

struct Softmax;

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        nowhere_else()
    }

    fn cuda_fwd(&self, x: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let width = last(layout)?;
        let rows = layout.shape().elem_count() / width;
        Call::of_rows("softmax", x, rows)?
            .address(address(x, layout)?)
            .size(rows)?
            .size(width)?
            .run()
    }
}

struct LayerNorm {
    eps: f32,
    activation: Option<Activation>,
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
        let out = room(&x.device, x.dtype(), count)?;
        Call::of_rows("layer_norm", x, count / width)?
            .address(address(x, x_layout)?)
            .address(address(weight, weight_layout)?)
            .address(address(bias, bias_layout)?)
            .address(address(&out, &Layout::contiguous(count))?)
            .size(count / width)?
            .size(width)?
            .float(self.eps)
            .activation(self.activation)
            .run()?;
        Ok((out, x_layout.shape().clone()))
    }
}

struct SwapMiddle;

impl CustomOp1 for SwapMiddle {
    fn name(&self) -> &'static str {
        "swap-middle"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        nowhere_else()
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (outer, first, second, inner) = layout.shape().dims4()?;
        let count = layout.shape().elem_count();
        let out = room(&x.device, x.dtype(), count)?;
        let (from, into) = (address(x, layout)?, address(&out, &Layout::contiguous(count))?);
        let packing = Packing::of(x.dtype(), inner, &[from, into]);
        packing
            .call("swap_middle", &x.device, x.dtype(), count)?
            .address(from)
            .address(into)
            .size(count / packing.count)?
            .size(first)?
            .size(second)?
            .size(inner / packing.count)?
            .run()?;
        Ok((out, (outer, second, first, inner).into()))
    }
}

struct SplitHeads {
    batch: usize,
    heads: usize,
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
        let Self { batch, heads } = *self;
        let (rows, width) = x_layout.shape().dims2()?;
        ensure_fits(bias_layout, &[width])?;
        let (time, inner) = (rows / batch, width / 3 / heads);
        ensure_fits(x_layout, &[batch * time, 3 * heads * inner])?;
        let count = rows * width;
        let out = room(&x.device, x.dtype(), count)?;
        let (from, bias) = (address(x, x_layout)?, address(bias, bias_layout)?);
        let into = address(&out, &Layout::contiguous(count))?;
        let packing = Packing::of(x.dtype(), inner, &[from, bias, into]);
        packing
            .call("split_heads", &x.device, x.dtype(), count)?
            .address(from)
            .address(bias)
            .address(into)
            .size(count / packing.count)?
            .size(batch)?
            .size(time)?
            .size(heads)?
            .size(inner / packing.count)?
            .run()?;
        Ok((out, (3, batch, heads, time, inner).into()))
    }
}

struct Windows {
    groups: usize,
    kernel: usize,
    stride: usize,
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
            .call("windows", &x.device, x.dtype(), count)?
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
