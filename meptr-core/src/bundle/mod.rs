//! A weight bundle: one folder that holds everything a prediction needs.
//!
//! ```text
//! manifest.json                  names, licences, sources, configurations, hashes
//! clip/  bert/  wav2vec2/        backbones, as Hugging Face folders
//! heads/{body,face,scene,audio,text}.safetensors
//! fusion.safetensors
//! face_detector.safetensors      and, where the bundle has them, body_detector.safetensors
//! whisper/                       and a transcriber, as a Hugging Face folder
//! ```
//!
//! File names inside are the manifest's to choose; those above are what `meptr` writes.

mod manifest;
mod model_card;
mod models;
mod open;
mod sidecar;

pub use manifest::{
    BodyDetectorPart, FaceDetectorPart, FileEntry, FolderPart, FusionPart, HeadPart, Manifest,
    Origin, Parts, TrainingStatus,
};
pub use model_card::{ModelCardOptions, model_card};
pub use models::BundleModels;
pub use open::{Bundle, sha256_of};
pub use sidecar::{PartKind, PartMetadata};
