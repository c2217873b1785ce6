//! Calls of the kernels.

use candle::backend::BackendDevice;
use candle::cuda_backend::cudarc::driver::sys::CUfunction_attribute as Attribute;
use candle::cuda_backend::cudarc::driver::{
    DevicePtr, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg,
};
use candle::cuda_backend::{CudaDevice, CudaStorageSlice, WrapErr};
use candle::op::BackpropOp;
use candle::{CudaStorage, DType, Device, Result, Shape, Storage, Tensor};

use crate::backbones::encoder::Activation;

const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// Threads that work together where each works for itself or 32 share a row.
const BLOCK: usize = 256;
/// Bytes that a thread reads at a time, if sizes and places allow.
const WIDE_BYTES: usize = 16;
/// Shared memory that a kernel has without asking for more.
const SHARED_BYTES: usize = 48 << 10;

/// What names of kernels end in.
pub(super) fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        other => candle::bail!("no kernel computes with {other:?}"),
    }
}

fn number(activation: Option<Activation>) -> i32 {
    match activation {
        None => 0,
        Some(Activation::Gelu) => 1,
        Some(Activation::QuickGelu) => 2,
    }
}

/// Where the first number of a contiguous tensor lies.
pub(super) fn address(x: &Tensor) -> Result<u64> {
    let (storage, layout) = x.storage_and_layout();
    let (Some((first, _)), Storage::Cuda(storage)) = (layout.contiguous_offsets(), &*storage)
    else {
        candle::bail!("a contiguous tensor on a GPU is needed");
    };
    let stream = storage.device.cuda_stream();
    // The guards would record events, of which a device with one queue has none.
    let start = match &storage.slice {
        CudaStorageSlice::F32(numbers) => numbers.device_ptr(&stream).0,
        CudaStorageSlice::F16(numbers) => numbers.device_ptr(&stream).0,
        CudaStorageSlice::BF16(numbers) => numbers.device_ptr(&stream).0,
        CudaStorageSlice::U32(numbers) => numbers.device_ptr(&stream).0,
        CudaStorageSlice::U8(numbers) => numbers.device_ptr(&stream).0,
        _ => candle::bail!("no kernel computes with {:?}", x.dtype()),
    };
    Ok(start + (first * x.dtype().size_in_bytes()) as u64)
}

/// Room for an output beside `x`, of its type.
pub(super) fn room(x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
    room_for(x.dtype(), shape, x.device())
}

/// Room for an output; the kernel that is called next writes all of it.
pub(super) fn room_for(dtype: DType, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let (shape, device) = (shape.into(), device.as_cuda_device()?);
    let count = shape.elem_count();
    #[expect(unsafe_code, reason = "memory is not cleared before it is written")]
    // SAFETY: every number is written by the kernel that is launched next, in the same queue.
    let slice = unsafe {
        match dtype {
            DType::U8 => CudaStorageSlice::U8(device.alloc(count)?),
            DType::F32 => CudaStorageSlice::F32(device.alloc(count)?),
            DType::F16 => CudaStorageSlice::F16(device.alloc(count)?),
            DType::BF16 => CudaStorageSlice::BF16(device.alloc(count)?),
            other => candle::bail!("no kernel computes with {other:?}"),
        }
    };
    let storage = Storage::Cuda(CudaStorage { slice, device: device.clone() });
    Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
}

/// A call of a kernel.
pub(super) struct Call<'a> {
    name: String,
    device: &'a CudaDevice,
    /// Of the numbers that it reads and writes.
    dtype: DType,
    blocks: [usize; 3],
    /// Threads of a block.
    threads: usize,
    shared_bytes: usize,
    arguments: Vec<Argument>,
}

enum Argument {
    Address(u64),
    Size(u32),
    Float(f32),
    Number(i32),
}

impl<'a> Call<'a> {
    /// A kernel that computes with numbers as in `x`, on its device.
    pub(super) fn new(
        name: String,
        x: &'a Tensor,
        blocks: [usize; 3],
        threads: usize,
        shared_bytes: usize,
    ) -> Result<Self> {
        let (device, dtype) = (x.device().as_cuda_device()?, x.dtype());
        Ok(Self { name, device, dtype, blocks, threads, shared_bytes, arguments: Vec::new() })
    }

    /// A contiguous tensor of the numbers that the kernel computes with.
    pub(super) fn tensor(self, x: &Tensor) -> Result<Self> {
        let dtype = self.dtype;
        self.typed(x, dtype)
    }

    /// The same, or nothing.
    pub(super) fn optional(mut self, x: Option<&Tensor>) -> Result<Self> {
        match x {
            Some(x) => self.tensor(x),
            None => {
                self.arguments.push(Argument::Address(0));
                Ok(self)
            }
        }
    }

    /// A contiguous tensor of other numbers.
    pub(super) fn typed(mut self, x: &Tensor, dtype: DType) -> Result<Self> {
        if x.dtype() != dtype {
            candle::bail!("{:?} instead of {dtype:?}", x.dtype());
        }
        if !x.device().as_cuda_device()?.same_device(self.device) {
            candle::bail!("a tensor of another device");
        }
        self.arguments.push(Argument::Address(address(x)?));
        Ok(self)
    }

    pub(super) fn size(mut self, count: usize) -> Result<Self> {
        self.arguments.push(Argument::Size(size(count)?));
        Ok(self)
    }

    pub(super) fn float(mut self, value: f32) -> Self {
        self.arguments.push(Argument::Float(value));
        self
    }

    pub(super) fn activation(mut self, activation: Option<Activation>) -> Self {
        self.arguments.push(Argument::Number(number(activation)));
        self
    }

    /// Puts the call into the device's queue.
    pub(super) fn run(self) -> Result<()> {
        let function = self.device.get_or_load_custom_func(&self.name, "meptr", PTX)?;
        if self.shared_bytes > SHARED_BYTES {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, size(self.shared_bytes)? as i32).w()?;
        }
        let mut call = function.builder();
        for argument in &self.arguments {
            match argument {
                Argument::Address(value) => push(&mut call, value),
                Argument::Size(value) => push(&mut call, value),
                Argument::Float(value) => push(&mut call, value),
                Argument::Number(value) => push(&mut call, value),
            }
        }
        let [x, y, z] = self.blocks;
        let config = LaunchConfig {
            grid_dim: (size(x)?, size(y)?, size(z)?),
            block_dim: (size(self.threads)?, 1, 1),
            shared_mem_bytes: size(self.shared_bytes)?,
        };
        #[expect(unsafe_code, reason = "a kernel's arguments are not checked")]
        // SAFETY: each caller passes what its kernel takes, of sizes that it checked; the tensors
        // outlive the call in the device's one queue.
        unsafe { call.launch(config) }.w()?;
        Ok(())
    }
}

fn push<'a, T: DeviceRepr>(call: &mut LaunchArgs<'a>, value: &'a T) {
    call.arg(value);
}

fn size(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| candle::Error::Msg(format!("{count} numbers are too many")))
}

/// How a kernel reads numbers: `count` at a time.
pub(super) struct Packing {
    pub(super) count: usize,
    form: &'static str,
}

impl Packing {
    /// As many numbers as fit, when the innermost dimension is a multiple of them and all tensors
    /// start at a multiple of their size.
    pub(super) fn of(inner: usize, tensors: &[&Tensor]) -> Result<Self> {
        let dtype = tensors.first().map_or(DType::F32, |first| first.dtype());
        let count = WIDE_BYTES / dtype.size_in_bytes();
        let mut is_wide = inner.is_multiple_of(count);
        for tensor in tensors {
            is_wide &= is_aligned(tensor)?;
        }
        Ok(match is_wide {
            true => Self { count, form: "wide" },
            false => Self { count: 1, form: "narrow" },
        })
    }

    /// A kernel with a thread for each pack of an output.
    pub(super) fn call<'a>(&self, name: &str, out: &'a Tensor) -> Result<Call<'a>> {
        self.call_with(name, out, out.elem_count() / self.count)
    }

    /// A kernel of rows, 32 threads to each.
    pub(super) fn call_on_rows<'a>(
        &self,
        name: &str,
        out: &'a Tensor,
        rows: usize,
    ) -> Result<Call<'a>> {
        self.call_with(name, out, rows * 32)
    }

    fn call_with<'a>(&self, name: &str, out: &'a Tensor, threads: usize) -> Result<Call<'a>> {
        let name = format!("{name}_{}_{}", suffix(out.dtype())?, self.form);
        Call::new(name, out, [threads.div_ceil(BLOCK), 1, 1], BLOCK, 0)
    }
}

/// Whether a tensor can be read [`WIDE_BYTES`] at a time from its start on.
pub(super) fn is_aligned(x: &Tensor) -> Result<bool> {
    Ok(address(x)?.is_multiple_of(WIDE_BYTES as u64))
}
