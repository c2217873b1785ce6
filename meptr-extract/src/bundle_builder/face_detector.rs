//! Face detector of a bundle, one of those that are part of the program.

use meptr_core::bundle::{FaceDetectorPart, Origin};

use super::staging::Staging;
use crate::Result;
use crate::detect::FaceModel;

/// File of the face detector inside a bundle.
pub(super) const FACE_DETECTOR_FILE: &str = "face_detector.safetensors";

/// Writes the published weights of a face detector into a bundle.
pub(super) fn write_face_detector(
    staging: &mut Staging,
    model: FaceModel,
) -> Result<FaceDetectorPart> {
    staging.write(FACE_DETECTOR_FILE, model.weights())?;
    let (kind, words, suffix) = match model {
        FaceModel::FullRange => ("full_range", "full range", "_sparse"),
        FaceModel::ShortRange => ("short_range", "short range", ""),
    };
    let origin = Origin {
        name: format!("MediaPipe face detection, {words}"),
        source: format!("mediapipe 0.10.21, face_detection_{kind}{suffix}.tflite"),
        licence: "Apache-2.0".to_owned(),
    };
    Ok(FaceDetectorPart { file: FACE_DETECTOR_FILE.to_owned(), kind: kind.to_owned(), origin })
}
