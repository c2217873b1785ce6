//! Files of a checkpoint folder: configuration and weights.

use std::path::Path;

use candle::Device;
use meptr_core::Precision;
use meptr_core::files::read_small;
use meptr_core::kernels::cpu::has_bf16;
use meptr_core::weights::{FrozenBuilder, load_frozen};
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Configuration of a checkpoint.
pub trait CheckpointConfig: DeserializeOwned {
    /// Everything in the configuration that is unsupported, one message each.
    fn problems(&self) -> Vec<String>;

    /// Checks a configuration in memory, before a network is built of it.
    ///
    /// # Errors
    /// When [`Self::problems`] has any.
    fn check(&self) -> candle::Result<()> {
        match self.problems() {
            problems if problems.is_empty() => Ok(()),
            problems => candle::bail!("configuration: {}", problems.join("; ")),
        }
    }
}

/// Reads a JSON file of the folder; `what` names its kind in errors.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<T> {
    let bytes = read_small(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|error| unusable(path, what, error.to_string()))
}

/// Error that names a file and the reason why it cannot be used.
pub(crate) fn unusable(path: &Path, what: &'static str, why: impl Into<String>) -> Error {
    Error::BackboneFile { path: path.to_owned(), what, why: why.into() }
}

/// Builds a model of the weights in a file.
///
/// - `is_unused`: whether the file may have this tensor though the model does not ask for it
///
/// For bf16 on a CPU that multiplies it, weights stay f32 and only the factors of GEMMs are rounded.
pub(crate) fn load_weights<M>(
    path: &Path,
    (device, precision): (&Device, Precision),
    is_unused: impl Fn(&str) -> bool,
    load: impl FnOnce(FrozenBuilder) -> candle::Result<M>,
) -> Result<M> {
    let rounds = device.is_cpu() && precision == Precision::Bf16 && has_bf16();
    let (stored, products) = match rounds {
        true => (Precision::F32, Precision::Bf16),
        false => (precision, Precision::F32),
    };
    let load = |vb: FrozenBuilder| load(vb.with_products(products));
    Ok(load_frozen(path, device, stored, is_unused, load)?)
}

/// Largest size of any kind in a configuration: the largest vocabularies have a quarter of that.
const MAX_SIZE: usize = 1 << 20;
/// Most layers in a configuration.
const MAX_LAYERS: usize = 1 << 10;

/// Collects the problems of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// Adds a problem unless `fits`.
    pub(crate) fn require(&mut self, fits: bool, problem: impl Into<String>) {
        if !fits {
            self.0.push(problem.into());
        }
    }

    /// Checks sizes by their keys. Sizes far above any model's are refused before memory is allocated.
    pub(crate) fn require_sizes(&mut self, sizes: &[(&str, usize)]) {
        for (name, size) in sizes {
            let most = if name.ends_with("layers") { MAX_LAYERS } else { MAX_SIZE };
            self.require((1..=most).contains(size), format!("`{name}` is {size}, not 1 to {most}"));
        }
    }

    /// Checks the sizes that every encoder has.
    pub(super) fn require_encoder(&mut self, width: usize, layers: usize, heads: usize) {
        self.require_sizes(&[("hidden_size", width), ("num_hidden_layers", layers)]);
        self.require(
            heads > 0 && width.is_multiple_of(heads),
            format!("`hidden_size` {width} is no multiple of `num_attention_heads` {heads}"),
        );
    }

    pub(crate) fn into_vec(self) -> Vec<String> {
        self.0
    }
}
