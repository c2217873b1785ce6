//! Options of a predictor, and of one prediction.

use std::str::FromStr;

use meptr_core::{DeviceChoice, Precision};

use crate::decode::Limits;
use crate::detect::FaceModel;
use crate::pipeline::ExtractRequest;

/// Options of a [`Predictor`](super::Predictor), for all its videos.
#[derive(Debug, Clone, Default)]
pub struct PredictorOptions {
    /// Device.
    pub device: DeviceChoice,
    /// Data type of the backbones. Types shorter than f32 are faster on a GPU; on a CPU only bf16 is,
    /// and only with AMX.
    pub precision: Precision,
    /// Whether speech is transcribed when a video has no transcript and the bundle has Whisper.
    pub transcribes: bool,
    /// Built-in face detector that replaces that of the bundle.
    pub face_model: Option<FaceModel>,
    /// Limits on one file.
    pub limits: Limits,
}

/// Options of one prediction. The default is that of the reference: the whole video as one window, all
/// persons pooled, the first transcript that there is.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Transcript, windows, and folder for the inputs of the models.
    pub extract: ExtractRequest,
    /// Persons whose faces and bodies are used.
    pub person: PersonChoice,
    /// Whether each person also gets scores of their own.
    pub per_person: bool,
}

/// Choice of the persons whose faces and bodies are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PersonChoice {
    /// All, pooled, as in the reference.
    #[default]
    All,
    /// The person whose faces cover the largest area in total.
    Largest,
    /// The person with this number.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_from_their_names() {
        assert_eq!("2".parse(), Ok(PersonChoice::Id(2)));
        assert!("0".parse::<PersonChoice>().is_err());
    }
}
