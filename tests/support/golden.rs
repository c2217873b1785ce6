//! Reference data for tests: folders of cases, tensors by name, elementwise comparison.
//!
//! Included by the golden tests of each crate. The data stands in `tests/golden`, or in the folder
//! that `MEPTR_GOLDEN` names, which has the same layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use candle::{DType, Device, Tensor};
use meptr_core::DeviceChoice;

/// Device of models under test and of reference data: the processor, or the one that
/// `MEPTR_TEST_DEVICE` names, such as `cuda:0`.
pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || match std::env::var("MEPTR_TEST_DEVICE") {
        Ok(name) => {
            let choice: DeviceChoice = name.parse().expect("MEPTR_TEST_DEVICE names a device");
            choice.open().expect("MEPTR_TEST_DEVICE can be had")
        }
        Err(_) => Device::Cpu,
    };
    DEVICE.get_or_init(open).clone()
}

/// Factor by which another device may be further off than the processor where rounding is enlarged:
/// it sums in another order than the reference, which the processor follows more closely.
pub fn slack() -> f32 {
    if device().is_cpu() { 1.0 } else { 4.0 }
}

/// The folder of reference data.
pub fn root() -> PathBuf {
    match std::env::var_os("MEPTR_GOLDEN") {
        Some(folder) => {
            let folder = PathBuf::from(folder);
            assert!(folder.is_dir(), "MEPTR_GOLDEN names `{}`, no folder", folder.display());
            folder
        }
        None => in_repository("tests/golden"),
    }
}

/// A file of the repository, by its path from the root: of the one that this was built in or, where
/// that is not (`scripts/gpu-check.sh`), of the one whose crate is the working folder.
pub fn in_repository(path: &str) -> PathBuf {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR"));
    let krate = if built_in.is_dir() { built_in } else { Path::new(".") };
    krate.join("..").join(path)
}

/// A JSON file together with the safetensors file of the same stem beside it.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub json: serde_json::Value,
    pub tensors: BTreeMap<String, Tensor>,
}

impl Case {
    /// Reads `STEM.json` and, if there, `STEM.safetensors`; half-precision tensors become f32.
    pub fn open(json: &Path) -> Result<Self> {
        let name = json.file_stem().context("a case has a name")?.to_string_lossy().into_owned();
        let json_text =
            std::fs::read_to_string(json).with_context(|| format!("reading {}", json.display()))?;
        let tensors = json.with_extension("safetensors");
        let tensors = if tensors.exists() { tensors_of(&tensors)? } else { BTreeMap::new() };
        Ok(Self { name, json: serde_json::from_str(&json_text)?, tensors })
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).with_context(|| format!("{} has no tensor `{name}`", self.name))
    }

    /// Every tensor below `prefix.`, by the rest of its name.
    pub fn below(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let rest = |name: &str| Some(name.strip_prefix(prefix)?.strip_prefix('.')?.to_owned());
        self.tensors.iter().filter_map(|(name, t)| Some((rest(name)?, t.clone()))).collect()
    }
}

/// All tensors of a safetensors file; half precision becomes f32.
pub fn tensors_of(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let loaded = candle::safetensors::load(path, &device())
        .with_context(|| format!("reading {}", path.display()))?;
    loaded
        .into_iter()
        .map(|(name, tensor)| {
            let half = matches!(tensor.dtype(), DType::F16 | DType::BF16);
            Ok((name, if half { tensor.to_dtype(DType::F32)? } else { tensor }))
        })
        .collect()
}

/// The JSON files directly in `folder` of the reference data, sorted; empty when it has none.
pub fn json_files(folder: &str) -> Result<Vec<PathBuf>> {
    let folder = root().join(folder);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    Ok(files)
}

/// Largest absolute difference of two tensors of one shape; NaN on one side only is infinite.
pub fn max_difference(found: &Tensor, expected: &Tensor) -> Result<f32> {
    ensure!(found.dims() == expected.dims(), "{:?} is not {:?}", found.dims(), expected.dims());
    let values = |tensor: &Tensor| -> Result<Vec<f32>> {
        Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    };
    let difference = |(found, expected): (f32, f32)| match (found.is_nan(), expected.is_nan()) {
        (true, true) => 0.0,
        (false, false) => (found - expected).abs(),
        _ => f32::INFINITY,
    };
    Ok(values(found)?.into_iter().zip(values(expected)?).map(difference).fold(0.0, f32::max))
}

/// Fails unless every element lies within `tolerance` of the expected one.
pub fn ensure_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f32) -> Result<f32> {
    let difference = max_difference(found, expected).with_context(|| what.to_owned())?;
    ensure!(difference <= tolerance, "{what}: off by {difference}, more than {tolerance}");
    Ok(difference)
}
