//! Opening of a frozen network from its checkpoint folder.

use std::path::Path;

use candle::Device;
use meptr_core::Precision;
use meptr_core::weights::{FrozenBuilder, MappedFile};

use super::checkpoint_folder::{CheckpointConfig, load_weights, read_json, unusable};
use crate::Result;

/// A frozen network that loads from a folder in the form of the Hugging Face Hub: `config.json` and
/// `model.safetensors`.
pub trait FromCheckpoint: Sized {
    /// Type of `config.json`.
    type Config: CheckpointConfig;
    /// Name of the configuration in error messages.
    const CONFIG_NAME: &'static str;

    /// Builds the network of the weights in `vb`.
    ///
    /// # Errors
    /// When the configuration is unsupported or a weight is missing or misshapen.
    fn from_weights(config: &Self::Config, vb: FrozenBuilder) -> candle::Result<Self>;

    /// Whether published checkpoints have this tensor though the network does not use it.
    fn is_unused(name: &str) -> bool;

    /// File of the weights, when it is mapped.
    fn mapped_file(&self) -> Option<&MappedFile>;

    /// Opens the folder, with the network in `precision`. Results are f32 always.
    ///
    /// # Errors
    /// When a file is missing or broken, asks for something unsupported, or holds tensors that do not
    /// fit the configuration.
    fn open(folder: &Path, device: &Device, precision: Precision) -> Result<Self> {
        let path = folder.join("config.json");
        let config: Self::Config = read_json(&path, Self::CONFIG_NAME)?;
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(unusable(&path, Self::CONFIG_NAME, problems.join("; ")));
        }
        let weights = folder.join("model.safetensors");
        load_weights(&weights, (device, precision), Self::is_unused, |vb| {
            Self::from_weights(&config, vb)
        })
    }

    /// Releases the memory of weights read so far, where they are mapped: the system reads them again
    /// when they are needed.
    fn release(&self) {
        if let Some(file) = self.mapped_file() {
            file.release();
        }
    }
}
