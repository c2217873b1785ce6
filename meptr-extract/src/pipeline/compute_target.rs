//! Device and data type of the models.

use candle::Device;
use meptr_core::Precision;

/// Device and data type of the backbones. Detectors always compute in f32.
#[derive(Debug, Clone)]
pub struct ComputeTarget {
    /// Device.
    pub device: Device,
    /// Data type.
    pub precision: Precision,
}

/// Runs both functions, at the same time on a CPU and one after the other on a GPU.
pub(crate) fn join_on_cpu<A: Send, B: Send>(
    device: &Device,
    first: impl FnOnce() -> A + Send,
    second: impl FnOnce() -> B + Send,
) -> (A, B) {
    if device.is_cpu() { rayon::join(first, second) } else { (first(), second()) }
}
