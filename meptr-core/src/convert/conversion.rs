//! Conversion of a PyTorch file to safetensors.

use std::collections::BTreeMap;
use std::path::Path;

use candle::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::checkpoint::{Checkpoint, Layout};
use super::error::{CheckpointError, Result};
use super::identify::{Assumed, Basis, Identified, Model, Shapes, identify};
use super::pickle::Trust;
use crate::models::{CrossTaskModel, FusionModel, UnimodalModel, may_be_left};
use crate::{Error, Modality, weights};

/// Options of a conversion.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvertOptions {
    /// Classes that the pickle may name.
    pub trust: Trust,
    /// Data type to write.
    pub storage: Storage,
    /// Modality of a head, if known.
    pub modality: Option<Modality>,
    /// Values of the configuration, by place, such as `fusion.transformer.heads`.
    pub overrides: BTreeMap<String, Json>,
}

/// Data type of a weight file. Computation is in f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// 4 bytes per value.
    F32,
    /// 2 bytes per value, each off by up to 2^-11 of itself.
    F16,
}

/// Result of a conversion.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvertReport {
    /// Kind of model, with its configuration.
    pub model: Model,
    /// Modality; `None` where it has no meaning or is unknown.
    pub modality: Option<Modality>,
    /// Configuration values that the tensors do not show, each with its source.
    pub assumed: Vec<Assumed>,
    /// Layout of the file.
    pub layout: Layout,
    /// The configuration in the file, as it was.
    pub config_in_file: Option<Json>,
    /// Number of tensors to be written.
    pub tensors: usize,
    /// Names that are not written: integer buffers (counters, index tables) and stored tables of
    /// positions, which are computed.
    pub left_out: Vec<String>,
}

/// A checkpoint that has been read and recognised, not yet written.
#[derive(Debug)]
pub struct Conversion {
    /// Summary of the tensors to write.
    pub report: ConvertReport,
    tensors: BTreeMap<String, Tensor>,
}

/// Converts a PyTorch file to a safetensors file.
///
/// # Errors
/// See [`Conversion::prepare`] and [`Conversion::write`].
pub fn convert_file(
    input: &Path,
    output: &Path,
    options: &ConvertOptions,
) -> crate::Result<ConvertReport> {
    let conversion = Conversion::prepare(input, options)?;
    conversion.write(output)?;
    Ok(conversion.report)
}

/// Converts a safetensors file of any model to another data type, in place; integer tensors stay
/// as they are. A hard link to the old file keeps the old bytes.
///
/// # Errors
/// When it cannot be read or written, or holds a value that the format cannot.
pub fn recast_file(path: &Path, storage: Storage) -> crate::Result<()> {
    let failed = |source| Error::Checkpoint { path: path.to_owned(), source };
    let tensors = candle::safetensors::load(path, &Device::Cpu);
    let recast = |(name, tensor): (String, Tensor)| {
        let stored =
            if tensor.dtype().is_float() { stored(&name, &tensor, storage)? } else { tensor };
        Ok((name, stored))
    };
    let tensors = tensors.map_err(|source| failed(source.into()))?.into_iter().map(recast);
    let tensors = tensors.collect::<Result<BTreeMap<_, _>>>().map_err(failed)?;
    weights::save_file(path, &tensors)
}

impl Conversion {
    /// Reads a file, identifies its model and converts its values to the requested data type.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the file cannot be read, is none of the known models, holds a
    /// value that the format cannot, or when an override does not fit.
    pub fn prepare(input: &Path, options: &ConvertOptions) -> crate::Result<Self> {
        let checkpoint = Checkpoint::read(input, options.trust)?;
        Self::of(checkpoint, options)
            .map_err(|source| Error::Checkpoint { path: input.to_owned(), source })
    }

    fn of(checkpoint: Checkpoint, options: &ConvertOptions) -> Result<Self> {
        let Checkpoint { tensors, config, layout } = checkpoint;
        let identified = identify(&Shapes::of(&tensors), config.as_ref(), options.modality)?;
        let Identified { model, modality, assumed } = overridden(identified, &options.overrides)?;
        let (kept, left_out): (BTreeMap<_, _>, BTreeMap<_, _>) = tensors
            .into_iter()
            .partition(|(name, tensor)| tensor.dtype().is_float() && !may_be_left(name));
        let tensors = kept
            .into_iter()
            .map(|(name, tensor)| {
                let stored = stored(&name, &tensor, options.storage)?;
                Ok((name, stored))
            })
            .collect::<Result<BTreeMap<_, _>>>()?;
        let report = ConvertReport {
            model,
            modality,
            assumed,
            layout,
            config_in_file: config,
            tensors: tensors.len(),
            left_out: left_out.into_keys().collect(),
        };
        Ok(Self { report, tensors })
    }

    /// Writes the tensors, all or nothing: the file gets its name once it is complete and loads as
    /// the model that it was recognised as.
    ///
    /// # Errors
    /// When it cannot be written, or when its tensors do not fit the configuration.
    pub fn write(&self, output: &Path) -> crate::Result<()> {
        weights::save_checked(output, &self.tensors, |unchecked| self.check(unchecked))
    }

    fn check(&self, path: &Path) -> crate::Result<()> {
        let device = Device::Cpu;
        match &self.report.model {
            Model::Fusion(config) => weights::load_file(path, &device, may_be_left, |vb| {
                FusionModel::load(config, vb).map(drop)
            }),
            Model::Head(config) => weights::load_file(path, &device, may_be_left, |vb| {
                CrossTaskModel::load(config, vb).map(drop)
            }),
            Model::Unimodal { task, config } => {
                weights::load_file(path, &device, may_be_left, |vb| {
                    UnimodalModel::load(config, *task, vb).map(drop)
                })
            }
            Model::Yolo(_) | Model::Backbone(_) => Ok(()), // built by another crate
        }
    }
}

/// Sets values of the configuration that the caller gives.
fn overridden(mut found: Identified, overrides: &BTreeMap<String, Json>) -> Result<Identified> {
    for (key, value) in overrides {
        let refused = |problem: String| CheckpointError::Override { key: key.clone(), problem };
        found.model = match found.model {
            Model::Fusion(config) => Model::Fusion(set(&config, key, value).map_err(refused)?),
            Model::Head(config) => Model::Head(set(&config, key, value).map_err(refused)?),
            Model::Unimodal { task, config } => {
                Model::Unimodal { task, config: set(&config, key, value).map_err(refused)? }
            }
            Model::Yolo(_) | Model::Backbone(_) => {
                return Err(refused("this model has no such configuration".to_owned()));
            }
        };
        if let Some(assumed) = found.assumed.iter_mut().find(|assumed| assumed.key == *key) {
            (assumed.value, assumed.basis) = (value.clone(), Basis::Given);
        }
    }
    Ok(found)
}

fn set<T>(config: &T, key: &str, value: &Json) -> std::result::Result<T, String>
where
    T: serde::Serialize + DeserializeOwned,
{
    let mut json = serde_json::to_value(config).map_err(|error| error.to_string())?;
    let place = json.pointer_mut(&format!("/{}", key.replace('.', "/")));
    *place.ok_or("there is no such value")? = value.clone();
    serde_json::from_value(json).map_err(|error| error.to_string())
}

fn stored(name: &str, tensor: &Tensor, storage: Storage) -> Result<Tensor> {
    let (dtype, format, largest) = match storage {
        Storage::F32 => (DType::F32, "F32", f64::from(f32::MAX)),
        Storage::F16 => (DType::F16, "F16", 65504.0),
    };
    let stored = tensor.to_dtype(dtype)?;
    // Looked for in what was asked to be stored: rounding may still bring it into range.
    if stored.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?.iter().all(|v| v.is_finite()) {
        return Ok(stored);
    }
    let values: Vec<f64> = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    match values.into_iter().find(|value| value.is_finite() && value.abs() > largest) {
        None => Ok(stored), // infinite or NaN before, and still so
        Some(value) => Err(CheckpointError::Overflow { tensor: name.to_owned(), value, format }),
    }
}
