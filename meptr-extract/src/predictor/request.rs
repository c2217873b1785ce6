//! What a caller asks for.

use std::str::FromStr;

use meptr_core::{DeviceChoice, Precision};

use crate::decode::Limits;
use crate::detect::FaceModel;
use crate::pipeline::ExtractRequest;

/// What holds for every video of a [`Predictor`](super::Predictor).
#[derive(Debug, Clone, Default)]
pub struct PredictorOptions {
    /// Where to compute.
    pub device: DeviceChoice,
    /// The numbers that backbones compute with. What is shorter than f32 pays on a GPU; on the
    /// processor it is slower.
    pub precision: Precision,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_from_their_names() {
        assert_eq!("2".parse(), Ok(PersonChoice::Id(2)));
        assert!("0".parse::<PersonChoice>().is_err());
    }
}
