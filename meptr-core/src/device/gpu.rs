//! GPUs of this machine.

use candle::Device;

use super::gpu_probe::GpuProbe;

/// Free memory of a GPU in bytes; `None` for the CPU.
pub fn free_memory(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        let free = gpu.cuda_stream().context().mem_get_info().ok();
        return free.map(|(free, _)| free as u64);
    }
    let _ = device; // a build without CUDA has no other devices
    None
}

/// GPUs of this machine, as NVIDIA's driver shows them.
pub(super) struct SystemGpus;

impl SystemGpus {
    /// Exists while the NVIDIA driver is loaded.
    const DRIVER: &str = "/proc/driver/nvidia/version";
}

#[cfg(not(feature = "cuda"))]
impl GpuProbe for SystemGpus {
    type Gpu = Device;

    fn is_built_for_gpus(&self) -> bool {
        false
    }

    fn has_driver(&self) -> bool {
        std::path::Path::new(Self::DRIVER).exists()
    }

    fn opens(&self, _: &str) -> bool {
        false
    }

    fn count(&self) -> Result<usize, String> {
        Ok(0)
    }

    fn open(&self, number: usize) -> candle::Result<Device> {
        Device::new_cuda(number)
    }
}

#[cfg(feature = "cuda")]
impl GpuProbe for SystemGpus {
    type Gpu = Device;

    fn is_built_for_gpus(&self) -> bool {
        true
    }

    fn has_driver(&self) -> bool {
        std::path::Path::new(Self::DRIVER).exists()
    }

    fn opens(&self, library: &str) -> bool {
        #[expect(unsafe_code, reason = "opening a library runs its initialisers")]
        // SAFETY: NVIDIA's libraries set nothing up that we rely on or disturb, and stay open: the
        // same ones are opened again by the code that uses them.
        let opened = unsafe { libloading::Library::new(library) };
        opened.map(std::mem::forget).is_ok()
    }

    fn count(&self) -> Result<usize, String> {
        use candle::cuda_backend::cudarc::driver::CudaContext;
        let count = CudaContext::device_count().map_err(|error| error.to_string())?;
        usize::try_from(count).map_err(|error| error.to_string())
    }

    fn open(&self, number: usize) -> candle::Result<Device> {
        // A queue of work of its own: Candle's default one is another in each thread, and nothing
        // would make one thread's work wait for another's.
        let device = Device::new_cuda_with_stream(number)?;
        #[expect(unsafe_code, reason = "one queue needs no events to keep its order")]
        // SAFETY: all work on this device goes through its one queue, in order; memory is freed
        // through the same queue.
        unsafe {
            device.as_cuda_device()?.disable_event_tracking();
        }
        keep_freed_memory(device.as_cuda_device()?)?;
        try_out(&device)?;
        Ok(device)
    }
}

/// Makes the driver keep freed GPU memory in its pool for later allocations.
///
/// By default the driver returns it to the system at every synchronisation, and allocating it again
/// takes longer than most kernels.
#[cfg(feature = "cuda")]
fn keep_freed_memory(device: &candle::CudaDevice) -> candle::Result<()> {
    use candle::cuda_backend::WrapErr;
    use candle::cuda_backend::cudarc::driver::{result, sys};
    let context = device.cuda_stream().context().clone();
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    #[expect(unsafe_code, reason = "pools are only reachable through the driver's functions")]
    // SAFETY: the device is that of a living context; the attribute is a 64-bit number, which the
    // driver copies.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).w()?;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()).w()?;
    }
    Ok(())
}

/// Runs a kernel and a matrix product: a driver that is too old for our kernels, or a GPU that is
/// older than they are, shows only now.
#[cfg(feature = "cuda")]
fn try_out(device: &Device) -> candle::Result<()> {
    let x = candle::Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], device)?;
    let found = x.matmul(&(&x + 1.0)?)?.to_vec2::<f32>()?;
    if found != [[10.0, 13.0], [22.0, 29.0]] {
        candle::bail!("it computes {found:?}");
    }
    Ok(())
}
