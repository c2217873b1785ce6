//! What a caller asks for.

use std::str::FromStr;

use crate::decode::Limits;
use crate::detect::FaceModel;
use crate::extractor::ExtractRequest;

/// What holds for every video of a [`Predictor`](super::Predictor).
#[derive(Debug, Clone, Default)]
pub struct PredictorOptions {
    /// Where to compute.
    pub device: DeviceChoice,
    /// Whether to transcribe speech when no words come with a video and the bundle can.
    pub listens: bool,
    /// A face detector of the program's own instead of the bundle's.
    pub face_model: Option<FaceModel>,
    /// How much of the machine a file may ask for.
    pub limits: Limits,
}

/// What is asked about one video. The default is the reference's way: the whole video in one
/// pass, all people pooled, words found where they can be.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Where words come from, how the video is cut, and what is written aside.
    pub extract: ExtractRequest,
    /// Whose faces and bodies count.
    pub person: PersonChoice,
    /// Whether each person gets scores of their own too.
    pub per_person: bool,
}

/// Whose faces and bodies count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PersonChoice {
    /// Everybody's, pooled, as the reference does.
    #[default]
    All,
    /// Those of the person whose faces cover the largest area in all.
    Largest,
    /// Those of the person with this number.
    Id(u32),
}

impl FromStr for PersonChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "largest" => Ok(Self::Largest),
            id => match id.parse() {
                Ok(id) if id > 0 => Ok(Self::Id(id)),
                _ => Err("give all, largest, or the number of a person".to_owned()),
            },
        }
    }
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU when this build and this machine have one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// When a GPU was asked for by number and cannot be had; the message says why.
    pub fn open(self) -> crate::Result<candle::Device> {
        match self {
            Self::Cpu => Ok(candle::Device::Cpu),
            Self::Auto if !candle::utils::cuda_is_available() => Ok(candle::Device::Cpu),
            Self::Auto => Ok(candle::Device::new_cuda(0).unwrap_or(candle::Device::Cpu)),
            Self::Cuda(number) => {
                candle::Device::new_cuda(number).map_err(crate::Error::doing(format!(
                    "opening cuda:{number} (this needs a build with CUDA and an NVIDIA driver)"
                )))
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_from_their_names() {
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert!("gpu".parse::<DeviceChoice>().is_err());
        assert_eq!("2".parse(), Ok(PersonChoice::Id(2)));
        assert!("0".parse::<PersonChoice>().is_err());
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_that_says_so() {
        let error = DeviceChoice::Cuda(99).open().unwrap_err();
        assert!(error.to_string().contains("cuda:99"), "{error}");
        assert!(DeviceChoice::Auto.open().is_ok());
    }
}
