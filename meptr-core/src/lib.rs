//! The vocabulary, layers, models and weight bundles of MEPTR.
//!
//! MEPTR predicts what the people in a video seem to feel (seven [`Emotion`]s) and how they come
//! across (five [`PersonalityTrait`]s) from five [`Modality`]s: body, face, scene, audio and text.
//! This crate holds what prediction and training share; it knows no FFmpeg and no command line.
//!
//! - [`task`], [`modality`]: emotions, traits and modalities in their fixed order
//! - [`prediction`]: result of a video
//! - [`kernels`]: hand-written arithmetic for CPUs and NVIDIA GPUs
//! - [`nn`]: layers with gradients
//! - [`models`]: models of the three stages
//! - [`weights`]: tensors by name, from checked files or a seeded generator
//! - [`bundle`]: folders of all weights that a prediction needs
//! - [`convert`]: PyTorch checkpoints, read as data
//! - `hub` (feature `hub`): weights from the Hugging Face Hub
//! - [`store`]: files of extracted features
//! - [`device`]: choice of CPU or GPU, precision, batch sizes
//! - [`rng`]: named streams of a seed, the only source of randomness
//! - [`files`], [`paths`], `digest`: bounded reading, atomic writing, checked names, hashes
//! - [`error`]: errors of weights and computations
//!
//! Source of the method: "A Semi-Supervised Multimodal Framework for Multitask Emotion and
//! Personality Traits Recognition Using Cross-Domain Learning", ESWA 2025.

pub mod bundle;
pub mod convert;
pub mod device;
mod digest;
pub mod error;
pub mod files;
#[cfg(feature = "hub")]
pub mod hub;
pub mod kernels;
pub mod modality;
pub mod models;
pub mod nn;
pub mod paths;
pub mod prediction;
pub mod rng;
pub mod store;
pub mod task;
pub mod weights;

pub use bundle::Bundle;
pub use device::{DeviceChoice, Precision};
pub use error::{Error, Result};
pub use modality::{Modality, PerModality};
pub use prediction::VideoPrediction;
pub use task::{Emotion, PersonalityTrait, Task};
