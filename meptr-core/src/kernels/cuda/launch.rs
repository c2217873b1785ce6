//! Launches of the kernels: arguments, grid, and output memory.

use candle::backend::BackendDevice;
use candle::cuda_backend::cudarc::driver::sys::CUfunction_attribute as Attribute;
use candle::cuda_backend::cudarc::driver::{
    DevicePtr, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg,
};
use candle::cuda_backend::{CudaDevice, CudaStorageSlice, WrapErr};
use candle::op::BackpropOp;
use candle::{CudaStorage, DType, Device, Result, Shape, Storage, Tensor};

use crate::kernels::Activation;

const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// Threads of a block in elementwise and row kernels.
const BLOCK_THREADS: usize = 256;
/// Bytes of a vector load, used where sizes and alignment allow.
const VECTOR_BYTES: usize = 16;
/// Dynamic shared memory that a kernel may use without a higher limit.
const DEFAULT_SHARED_BYTES: usize = 48 << 10;

/// Suffix of kernel names for a dtype.
pub(super) fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        other => candle::bail!("no kernel computes with {other:?}"),
    }
}

/// Whether the kernels support a tensor: f32, f16 or bf16, contiguous, not empty, on an NVIDIA GPU.
pub fn supports(x: &Tensor) -> bool {
    x.device().is_cuda() && suffix(x.dtype()).is_ok() && x.is_contiguous() && x.elem_count() > 0
}

/// Value of `enum Activation` in `dtypes.cuh`.
fn activation_code(activation: Option<Activation>) -> i32 {
    match activation {
        None => 0,
        Some(Activation::Gelu) => 1,
        Some(Activation::QuickGelu) => 2,
    }
}

/// Device address of a contiguous tensor's first value.
pub(super) fn address(x: &Tensor) -> Result<u64> {
    let (storage, layout) = x.storage_and_layout();
    let (Some((first, _)), Storage::Cuda(storage)) = (layout.contiguous_offsets(), &*storage)
    else {
        candle::bail!("a contiguous tensor on a GPU is needed");
    };
    let stream = storage.device.cuda_stream();
    // The guards would record events, which a device with one stream does not need.
    let start = match &storage.slice {
        CudaStorageSlice::F32(values) => values.device_ptr(&stream).0,
        CudaStorageSlice::F16(values) => values.device_ptr(&stream).0,
        CudaStorageSlice::BF16(values) => values.device_ptr(&stream).0,
        CudaStorageSlice::U32(values) => values.device_ptr(&stream).0,
        CudaStorageSlice::U8(values) => values.device_ptr(&stream).0,
        _ => candle::bail!("no kernel computes with {:?}", x.dtype()),
    };
    Ok(start + (first * x.dtype().size_in_bytes()) as u64)
}

/// Uninitialised output with the device and dtype of `x`; see [`uninit`].
pub(super) fn uninit_like(x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
    uninit(x.dtype(), shape, x.device())
}

/// Uninitialised output, all of which the kernel that is launched next must write.
pub(super) fn uninit(dtype: DType, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let (shape, device) = (shape.into(), device.as_cuda_device()?);
    let count = shape.elem_count();
    #[expect(unsafe_code, reason = "memory is not cleared before it is written")]
    // SAFETY: every value is written by the kernel that is launched next, in the same stream.
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

/// LaunchGrid of a kernel launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaunchGrid {
    /// Blocks along x, y and z.
    pub(super) blocks: [usize; 3],
    /// Threads of a block.
    pub(super) threads: usize,
    /// Dynamic shared memory of a block.
    pub(super) shared_bytes: usize,
}

/// Launch of a kernel, built argument by argument.
pub(super) struct Launch<'a> {
    name: String,
    device: &'a CudaDevice,
    /// Dtype of the kernel's main tensors.
    dtype: DType,
    grid: LaunchGrid,
    arguments: Vec<Argument>,
}

enum Argument {
    Address(u64),
    Size(u32),
    Float(f32),
    Int(i32),
}

impl<'a> Launch<'a> {
    /// Launch of a kernel with the dtype and device of `x`.
    pub(super) fn new(name: String, x: &'a Tensor, grid: LaunchGrid) -> Result<Self> {
        let (device, dtype) = (x.device().as_cuda_device()?, x.dtype());
        Ok(Self { name, device, dtype, grid, arguments: Vec::new() })
    }

    /// Adds a contiguous tensor of the kernel's dtype.
    pub(super) fn tensor(self, x: &Tensor) -> Result<Self> {
        let dtype = self.dtype;
        self.typed(x, dtype)
    }

    /// Adds a contiguous tensor of the kernel's dtype, or a null pointer.
    pub(super) fn optional(mut self, x: Option<&Tensor>) -> Result<Self> {
        match x {
            Some(x) => self.tensor(x),
            None => {
                self.arguments.push(Argument::Address(0));
                Ok(self)
            }
        }
    }

    /// Adds a contiguous tensor of another dtype.
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

    /// Adds a count, u32.
    pub(super) fn size(mut self, count: usize) -> Result<Self> {
        self.arguments.push(Argument::Size(size(count)?));
        Ok(self)
    }

    /// Adds a float.
    pub(super) fn float(mut self, value: f32) -> Self {
        self.arguments.push(Argument::Float(value));
        self
    }

    /// Adds an activation.
    pub(super) fn activation(mut self, activation: Option<Activation>) -> Self {
        self.arguments.push(Argument::Int(activation_code(activation)));
        self
    }

    /// Launches the kernel in the device's stream.
    pub(super) fn run(self) -> Result<()> {
        let function = self.device.get_or_load_custom_func(&self.name, "meptr", PTX)?;
        let LaunchGrid { blocks: [x, y, z], threads, shared_bytes } = self.grid;
        if shared_bytes > DEFAULT_SHARED_BYTES {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, size(shared_bytes)? as i32).w()?;
        }
        let mut launch = function.builder();
        for argument in &self.arguments {
            match argument {
                Argument::Address(value) => push(&mut launch, value),
                Argument::Size(value) => push(&mut launch, value),
                Argument::Float(value) => push(&mut launch, value),
                Argument::Int(value) => push(&mut launch, value),
            }
        }
        let config = LaunchConfig {
            grid_dim: (size(x)?, size(y)?, size(z)?),
            block_dim: (size(threads)?, 1, 1),
            shared_mem_bytes: size(shared_bytes)?,
        };
        #[expect(unsafe_code, reason = "a kernel's arguments are not checked")]
        // SAFETY: each caller passes the arguments of its kernel, with checked sizes; the tensors
        // outlive the launch in the device's one stream.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }
}

fn push<'a, T: DeviceRepr>(launch: &mut LaunchArgs<'a>, value: &'a T) {
    launch.arg(value);
}

fn size(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| candle::Error::Msg(format!("{count} exceeds 32 bits")))
}

/// Width of a kernel's memory accesses: `count` values at a time.
pub(super) struct AccessWidth {
    pub(super) count: usize,
    /// Suffix of the kernel's name.
    form: &'static str,
}

impl AccessWidth {
    /// Vector loads, when the innermost dimension is a multiple of their values and all tensors are
    /// aligned; else single values.
    pub(super) fn of(inner: usize, tensors: &[&Tensor]) -> Result<Self> {
        let dtype = tensors.first().map_or(DType::F32, |first| first.dtype());
        let count = VECTOR_BYTES / dtype.size_in_bytes();
        let mut is_wide = inner.is_multiple_of(count);
        for tensor in tensors {
            is_wide &= is_aligned(tensor)?;
        }
        Ok(match is_wide {
            true => Self { count, form: "wide" },
            false => Self { count: 1, form: "narrow" },
        })
    }

    /// Launch of an elementwise kernel: a thread for each access of an output.
    pub(super) fn elementwise<'a>(&self, name: &str, out: &'a Tensor) -> Result<Launch<'a>> {
        self.launch(name, out, out.elem_count() / self.count)
    }

    /// Launch of a row kernel: a warp for each row.
    pub(super) fn by_rows<'a>(
        &self,
        name: &str,
        out: &'a Tensor,
        rows: usize,
    ) -> Result<Launch<'a>> {
        self.launch(name, out, rows * 32)
    }

    fn launch<'a>(&self, name: &str, out: &'a Tensor, threads: usize) -> Result<Launch<'a>> {
        let name = format!("{name}_{}_{}", suffix(out.dtype())?, self.form);
        let blocks = [threads.div_ceil(BLOCK_THREADS), 1, 1];
        Launch::new(name, out, LaunchGrid { blocks, threads: BLOCK_THREADS, shared_bytes: 0 })
    }
}

/// Whether a tensor's start is aligned for vector loads.
pub(super) fn is_aligned(x: &Tensor) -> Result<bool> {
    Ok(address(x)?.is_multiple_of(VECTOR_BYTES as u64))
}
