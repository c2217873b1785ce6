//! Device and precision that a caller asks for.

use std::str::FromStr;

use candle::{DType, Device};

use super::gpu::SystemGpus;
use super::gpu_probe::{GpuProbe, obstacle};
use crate::{Error, Result};

/// Device to compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU if this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// Opens the device and runs a test operation on it. Warns, with the reason, if a GPU was
    /// wanted and the CPU is taken.
    ///
    /// Each call opens a GPU anew, with a stream of its own: tensors of two calls do not mix, even
    /// on one GPU.
    ///
    /// # Errors
    /// When a GPU was requested by number and is not available; the message names what is missing.
    pub fn open(self) -> Result<Device> {
        let (gpu, note) = choose(self, &SystemGpus)?;
        if let Some(note) = note {
            tracing::warn!("{note}");
        }
        Ok(gpu.unwrap_or(Device::Cpu))
    }
}

/// The GPU to take, or none and a reason worth a warning.
fn choose<P: GpuProbe>(choice: DeviceChoice, gpus: &P) -> Result<(Option<P::Gpu>, Option<String>)> {
    let number = match choice {
        DeviceChoice::Cpu => return Ok((None, None)),
        // Nobody expects a GPU of a plain build, unless there is one.
        DeviceChoice::Auto if !gpus.is_built_for_gpus() && !gpus.has_driver() => {
            return Ok((None, None));
        }
        DeviceChoice::Auto => 0,
        DeviceChoice::Cuda(number) => number,
    };
    let opened = match obstacle(gpus, number) {
        Some(why) => Err(why),
        None => gpus.open(number).map_err(|error| {
            // With RUST_BACKTRACE set, Candle's errors go on for pages.
            let error = error.to_string();
            format!("the GPU does not work: {}", error.lines().next().unwrap_or_default())
        }),
    };
    match (opened, choice) {
        (Ok(gpu), _) => Ok((Some(gpu), None)),
        (Err(why), DeviceChoice::Auto) => {
            Ok((None, Some(format!("computing on the processor: {why}"))))
        }
        (Err(why), _) => Err(Error::NoGpu { number, why }),
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some(Ok(number))) => Ok(Self::Cuda(number)),
            _ => Err("give auto, cpu, or cuda:N".to_owned()),
        }
    }
}

/// Data type of the frozen backbones. Heads and fusion always use f32, and so do the statistics of
/// layer norms and softmax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 24 bits of precision. Matrix multiplications on a GPU do not use TF32.
    #[default]
    F32,
    /// 11 bits, up to 65504.
    F16,
    /// 8 bits, with the range of f32.
    Bf16,
}

impl Precision {
    /// The data type in Candle.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            _ => Err("give f32, f16, or bf16".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GPUs of an imaginary machine.
    struct FakeGpus {
        is_built: bool,
        has_driver: bool,
        libraries: &'static [&'static str],
        gpus: Result<usize, &'static str>,
        works: bool,
    }

    const WHOLE: FakeGpus = FakeGpus {
        is_built: true,
        has_driver: true,
        libraries: &["libcuda.so.1", "libcublas.so.13", "libcurand.so.10"],
        gpus: Ok(2),
        works: true,
    };

    impl GpuProbe for FakeGpus {
        type Gpu = usize;

        fn is_built_for_gpus(&self) -> bool {
            self.is_built
        }

        fn has_driver(&self) -> bool {
            self.has_driver
        }

        fn opens(&self, library: &str) -> bool {
            self.libraries.contains(&library)
        }

        fn count(&self) -> Result<usize, String> {
            self.gpus.map_err(str::to_owned)
        }

        fn open(&self, number: usize) -> candle::Result<usize> {
            if self.works { Ok(number) } else { candle::bail!("it is broken") }
        }
    }

    fn refusal(gpus: &FakeGpus, number: usize) -> String {
        let error = choose(DeviceChoice::Cuda(number), gpus).unwrap_err().to_string();
        assert!(error.contains(&format!("cuda:{number}")), "{error}");
        error
    }

    #[test]
    fn a_gpu_that_is_there_is_taken() {
        assert_eq!(choose(DeviceChoice::Auto, &WHOLE).unwrap(), (Some(0), None));
        assert_eq!(choose(DeviceChoice::Cuda(1), &WHOLE).unwrap(), (Some(1), None));
        assert_eq!(choose(DeviceChoice::Cpu, &WHOLE).unwrap(), (None, None));
    }

    #[test]
    fn an_error_names_what_is_missing() {
        let plain = FakeGpus { is_built: false, ..WHOLE };
        assert!(refusal(&plain, 0).contains("scripts/build-cuda.sh"));
        let no_driver = FakeGpus { libraries: &["libcublas.so.13", "libcurand.so.10"], ..WHOLE };
        let error = refusal(&no_driver, 0);
        assert!(error.contains("libcuda.so.1 (the NVIDIA driver)"), "{error}");
        assert!(!error.contains("cublas"), "{error}");
        let no_toolkit = FakeGpus { libraries: &["libcuda.so.1"], ..WHOLE };
        let error = refusal(&no_toolkit, 0);
        assert!(error.contains("libcublas.so.13") && error.contains("libcurand.so.10"), "{error}");
        let silent = FakeGpus { gpus: Err("it is too old"), ..WHOLE };
        assert!(refusal(&silent, 0).contains("it is too old"));
        assert!(refusal(&FakeGpus { gpus: Ok(0), ..WHOLE }, 0).contains("shows no GPU"));
        assert!(refusal(&WHOLE, 2).contains("there are 2 GPUs, cuda:0 to cuda:1"));
        assert!(refusal(&FakeGpus { works: false, ..WHOLE }, 0).contains("it is broken"));
    }

    #[test]
    fn auto_falls_back_and_says_why() {
        let broken = FakeGpus { works: false, ..WHOLE };
        let no_libraries = FakeGpus { libraries: &[], ..WHOLE };
        let plain_beside_gpu = FakeGpus { is_built: false, ..WHOLE };
        for gpus in [broken, no_libraries, plain_beside_gpu] {
            let (gpu, note) = choose(DeviceChoice::Auto, &gpus).unwrap();
            assert_eq!(gpu, None);
            let note = note.expect("a reason");
            assert!(note.starts_with("computing on the processor: "), "{note}");
            assert!(!note.contains('\n'), "{note}");
        }
        let plain = FakeGpus { is_built: false, has_driver: false, ..WHOLE };
        assert_eq!(choose(DeviceChoice::Auto, &plain).unwrap(), (None, None));
    }

    #[test]
    fn this_machine_can_be_asked() {
        assert!(DeviceChoice::Auto.open().is_ok());
        assert!(DeviceChoice::Cuda(9999).open().is_err());
    }

    #[test]
    fn choices_are_read_from_their_names() {
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert!("gpu".parse::<DeviceChoice>().is_err());
        assert_eq!("bf16".parse(), Ok(Precision::Bf16));
        assert!("half".parse::<Precision>().is_err());
    }
}
