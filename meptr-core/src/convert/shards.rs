//! Checkpoints in several files, as the Hub has large ones: an index, and the files it names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle::Tensor;
use serde::Deserialize;

use super::error::{CheckpointError, Result};
use crate::files::read_small;
use crate::paths::is_file_name;

const INDEX_ENDING: &str = ".index.json";
const MAX_FILES: usize = 1000;

/// `model.safetensors.index.json` or `pytorch_model.bin.index.json`.
#[derive(Deserialize)]
struct Index {
    /// File by name of tensor.
    weight_map: BTreeMap<String, String>,
}

/// Whether a file is such an index, by its name.
pub(super) fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(INDEX_ENDING))
}

/// Reads the tensors of all files of an index; `read` reads one file.
///
/// # Errors
/// When the index is none, a file is missing, or a tensor is not where the index has it.
pub(super) fn read(
    path: &Path,
    read: impl Fn(&Path) -> Result<BTreeMap<String, Tensor>>,
) -> Result<BTreeMap<String, Tensor>> {
    let Index { weight_map } = serde_json::from_slice(&read_small(path)?)
        .map_err(|error| CheckpointError::damaged(format!("its index: {error}")))?;
    let files: BTreeSet<&String> = weight_map.values().collect();
    if files.len() > MAX_FILES {
        return Err(CheckpointError::limit(format!("more than {MAX_FILES} files")));
    }
    let mut tensors = BTreeMap::new();
    for file in files {
        if !is_file_name(file) {
            return Err(CheckpointError::damaged(format!("`{file}` is no file beside the index")));
        }
        let part = path.with_file_name(file);
        if !part.is_file() {
            return Err(CheckpointError::damaged(format!("its part `{file}` is missing")));
        }
        for (name, tensor) in read(&part)? {
            if weight_map.get(&name) != Some(file) {
                let what = format!("`{name}` is in `{file}`, where the index does not have it");
                return Err(CheckpointError::damaged(what));
            }
            tensors.insert(name, tensor);
        }
    }
    match weight_map.iter().find(|(name, _)| !tensors.contains_key(*name)) {
        None => Ok(tensors),
        Some((name, file)) => Err(CheckpointError::damaged(format!("`{file}` lacks `{name}`"))),
    }
}

#[cfg(test)]
mod tests {
    use candle::{DType, Device};

    use super::*;

    fn tensors_of(path: &Path) -> Result<BTreeMap<String, Tensor>> {
        let names = std::fs::read_to_string(path)?;
        let one = || Tensor::zeros(1, DType::F32, &Device::Cpu);
        names.split(' ').map(|name| Ok((name.to_owned(), one()?))).collect()
    }

    #[test]
    fn every_tensor_must_be_where_the_index_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(folder.path().join("1"), "a b").unwrap();
        std::fs::write(folder.path().join("2"), "c").unwrap();
        let found = |map: &str| {
            std::fs::write(&index, format!(r#"{{"metadata": {{}}, "weight_map": {map}}}"#))
                .unwrap();
            read(&index, tensors_of).map(|tensors| tensors.len()).map_err(|error| error.to_string())
        };
        assert!(is_index(&index) && !is_index(&folder.path().join("config.json")));
        assert_eq!(found(r#"{"a": "1", "b": "1", "c": "2"}"#), Ok(3));
        for (map, why) in [
            (r#"{"a": "1", "c": "2"}"#, "`b` is in `1`"),
            (r#"{"a": "1", "b": "1", "c": "2", "d": "2"}"#, "`2` lacks `d`"),
            (r#"{"a": "1", "b": "1", "c": "3"}"#, "its part `3` is missing"),
            (r#"{"a": "../1"}"#, "no file beside the index"),
            (r#"{"a": "/etc/passwd"}"#, "no file beside the index"),
            ("7", "its index"),
        ] {
            let error = found(map).unwrap_err();
            assert!(error.contains(why), "{map}: {error}");
        }
    }
}
