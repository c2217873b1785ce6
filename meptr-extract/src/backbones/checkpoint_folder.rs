//! Reading the files of a backbone's folder.

use std::path::Path;

use candle::Device;
use meptr_core::Precision;
use meptr_core::files::read_small;
use meptr_core::weights::{FrozenBuilder, load_frozen};
use serde::de::DeserializeOwned;

use crate::{Error, Result, product};

/// A backbone's configuration, as far as reading and checking it goes.
pub(super) trait FolderConfig: DeserializeOwned {
    /// Everything in the configuration that we cannot compute, in words.
    fn problems(&self) -> Vec<String>;

    /// The same as a Candle error, for building from a configuration in memory.
    fn check(&self) -> candle::Result<()> {
        match self.problems() {
            problems if problems.is_empty() => Ok(()),
            problems => candle::bail!("configuration: {}", problems.join("; ")),
        }
    }
}

/// Reads a JSON file of the folder; `what` says what it should be.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<T> {
    let bytes = read_small(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|error| unusable(path, what, error.to_string()))
}

/// The error that says what is wrong with a file.
pub(crate) fn unusable(path: &Path, what: &'static str, why: impl Into<String>) -> Error {
    Error::BackboneFile { path: path.to_owned(), what, why: why.into() }
}

/// Reads `config.json` and `model.safetensors` of `folder` and builds the model of them.
pub(super) fn open<C: FolderConfig, M>(
    folder: &Path,
    what: &'static str,
    (device, precision): (&Device, Precision),
    may_be_left: impl Fn(&str) -> bool,
    load: impl FnOnce(&C, FrozenBuilder) -> candle::Result<M>,
) -> Result<M> {
    let path = folder.join("config.json");
    let config: C = read_json(&path, what)?;
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(unusable(&path, what, problems.join("; ")));
    }
    let weights = folder.join("model.safetensors");
    load_weights(&weights, (device, precision), may_be_left, |vb| load(&config, vb))
}

/// Builds a model of the weights in a file.
///
/// On a CPU that multiplies bf16 they stay f32, and only the factors of products are rounded.
pub(crate) fn load_weights<M>(
    path: &Path,
    (device, precision): (&Device, Precision),
    may_be_left: impl Fn(&str) -> bool,
    load: impl FnOnce(FrozenBuilder) -> candle::Result<M>,
) -> Result<M> {
    let rounds = device.is_cpu() && precision == Precision::Bf16 && product::has_bf16();
    let (stored, products) = match rounds {
        true => (Precision::F32, Precision::Bf16),
        false => (precision, Precision::F32),
    };
    let load = |vb: FrozenBuilder| load(vb.with_products(products));
    Ok(load_frozen(path, device, stored, may_be_left, load)?)
}

/// Largest size that a configuration may have, in whatever it counts: the largest vocabularies have
/// a quarter of that.
const MAX_SIZE: usize = 1 << 20;
/// Most layers, likewise.
const MAX_LAYERS: usize = 1 << 10;

/// Collects the problems of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// Notes a problem unless `fits`.
    pub(crate) fn require(&mut self, fits: bool, problem: impl Into<String>) {
        if !fits {
            self.0.push(problem.into());
        }
    }

    /// Sizes, by their keys. Those far above any model's are refused before memory is asked for.
    pub(crate) fn require_sizes(&mut self, sizes: &[(&str, usize)]) {
        for (name, size) in sizes {
            let most = if name.ends_with("layers") { MAX_LAYERS } else { MAX_SIZE };
            self.require((1..=most).contains(size), format!("`{name}` is {size}, not 1 to {most}"));
        }
    }

    /// Sizes that every encoder has.
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
