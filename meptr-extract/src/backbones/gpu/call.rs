//! Calls of the kernels.

use candle::backend::BackendStorage;
use candle::cuda_backend::cudarc::driver::{
    DevicePtr, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg,
};
use candle::cuda_backend::{CudaDevice, CudaStorageSlice, WrapErr};
use candle::{CudaStorage, DType, Layout, Result};

use crate::backbones::encoder::Activation;

const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/backbones.ptx"));

/// Threads that work together; a row of a norm or a softmax takes 32 of them.
const BLOCK: usize = 256;
/// Bytes that a thread reads at a time, if sizes and places allow.
const WIDE_BYTES: usize = 16;

/// What names of kernels end in.
pub(super) fn suffix(dtype: DType) -> Result<&'static str> {
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
pub(super) fn address(storage: &CudaStorage, layout: &Layout) -> Result<u64> {
    let Some((first, _)) = layout.contiguous_offsets() else {
        candle::bail!("a contiguous tensor is needed");
    };
    let stream = storage.device.cuda_stream();
    // The guards would record events, of which a device with one queue has none.
    let start = match &storage.slice {
        CudaStorageSlice::F32(numbers) => numbers.device_ptr(&stream).0,
        CudaStorageSlice::F16(numbers) => numbers.device_ptr(&stream).0,
        CudaStorageSlice::BF16(numbers) => numbers.device_ptr(&stream).0,
        CudaStorageSlice::U32(numbers) => numbers.device_ptr(&stream).0,
        _ => candle::bail!("no kernel computes with {:?}", storage.dtype()),
    };
    Ok(start + (first * storage.dtype().size_in_bytes()) as u64)
}

/// Room for an output; kernels write all of it.
pub(super) fn room(device: &CudaDevice, dtype: DType, count: usize) -> Result<CudaStorage> {
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
pub(super) struct Call<'a> {
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
    /// Takes the address of a tensor.
    pub(super) fn address(mut self, address: u64) -> Self {
        self.arguments.push(Argument::Address(address));
        self
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

fn push<'a, T: DeviceRepr>(call: &mut LaunchArgs<'a>, value: &'a T) {
    call.arg(value);
}

/// How a kernel reads numbers: `count` at a time.
pub(super) struct Packing {
    pub(super) count: usize,
    form: &'static str,
}

impl Packing {
    /// As many numbers as fit, when the innermost dimension is a multiple of them and all tensors
    /// start at a multiple of their size.
    pub(super) fn of(dtype: DType, inner: usize, addresses: &[u64]) -> Self {
        let count = WIDE_BYTES / dtype.size_in_bytes();
        let is_aligned = |address: &u64| address.is_multiple_of(WIDE_BYTES as u64);
        match inner.is_multiple_of(count) && addresses.iter().all(is_aligned) {
            true => Self { count, form: "wide" },
            false => Self { count: 1, form: "narrow" },
        }
    }

    /// A kernel with a thread for each pack of an output of `count` numbers.
    pub(super) fn call<'a>(
        &self,
        name: &str,
        out: &'a CudaStorage,
        count: usize,
    ) -> Result<Call<'a>> {
        self.call_with(name, out, count / self.count)
    }

    /// A kernel of rows, 32 threads to each.
    pub(super) fn call_on_rows<'a>(
        &self,
        name: &str,
        out: &'a CudaStorage,
        rows: usize,
    ) -> Result<Call<'a>> {
        self.call_with(name, out, rows * 32)
    }

    fn call_with<'a>(&self, name: &str, out: &'a CudaStorage, threads: usize) -> Result<Call<'a>> {
        let name = format!("{name}_{}_{}", suffix(out.dtype())?, self.form);
        Ok(Call { name, threads, device: &out.device, arguments: Vec::new() })
    }
}
