//! The device to compute on: the CPU or an NVIDIA GPU.
//!
//! A build with the feature `cuda` opens NVIDIA's libraries when a GPU is asked for, not before:
//! the program starts on any machine. Libraries, driver and GPUs are checked first, so that a choice
//! that cannot be met is an error that names what is missing.

mod batch;
mod choice;
mod gpu;
mod gpu_probe;

pub use batch::{BatchSize, is_out_of_memory};
pub use choice::{DeviceChoice, Precision};
pub use gpu::free_memory;
