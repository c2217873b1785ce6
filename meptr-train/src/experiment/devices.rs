//! Devices that the models of an experiment are trained on.

use candle::Device;
use meptr_core::{DeviceChoice, Result};

/// Devices by kind of model.
#[derive(Debug, Clone)]
pub struct Devices {
    /// Device of stages 1 and 2.
    pub heads: Device,
    /// That of stage 3.
    pub fusion: Device,
}

impl Devices {
    /// Opens the devices of a choice. [`DeviceChoice::Auto`] has stage 3 on the processor even
    /// where a GPU is: its steps are thousands of operations on small matrices, which a GPU takes
    /// longer to start than a processor to compute (docs/CUDA.md).
    ///
    /// # Errors
    /// As [`DeviceChoice::open`].
    pub fn open(choice: DeviceChoice) -> Result<Self> {
        let heads = choice.open()?;
        let fusion = match choice {
            DeviceChoice::Auto => Device::Cpu,
            DeviceChoice::Cpu | DeviceChoice::Cuda(_) => heads.clone(),
        };
        Ok(Self { heads, fusion })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_3_is_on_the_processor_unless_a_gpu_is_named() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu] {
            assert!(Devices::open(choice).unwrap().fusion.is_cpu(), "{choice:?}");
        }
    }

    #[test]
    fn a_gpu_that_is_named_is_used_or_refused() {
        assert!(Devices::open(DeviceChoice::Cuda(9999)).is_err());
        let devices = Devices::open(DeviceChoice::Cuda(0));
        match DeviceChoice::Cuda(0).open() {
            Ok(_) => assert!(!devices.unwrap().fusion.is_cpu()),
            Err(_) => assert!(devices.is_err(), "no fall-back to the CPU"),
        }
    }
}
