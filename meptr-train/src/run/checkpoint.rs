//! Weights and everything else that a training needs to go on, in one file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle::{Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::files::write_whole;
use crate::{Error, Result};

/// Key of what is no tensor, in the metadata of a file. One key only: their order is not fixed.
const METADATA_KEY: &str = "meptr";

/// Writes tensors and whatever else there is to say; a file that is there is whole.
///
/// # Errors
/// [`Error::Write`] when the disk does not take it; the file that was there, if any, then stays.
pub fn save(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    beside: &impl Serialize,
) -> Result<()> {
    let unfit = |why: String| Error::NotOfARun { path: path.to_owned(), why };
    let json = serde_json::to_string(beside).map_err(|error| unfit(error.to_string()))?;
    let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
    let bytes = safetensors::serialize(tensors, Some(metadata))
        .map_err(|error| unfit(format!("cannot be written: {error}")))?;
    write_whole(path, &bytes)
}

/// Reads what [`save`] wrote; the tensors come back on the processor.
///
/// # Errors
/// [`Error::Read`] when the file is not there or cannot be read, [`Error::NotOfARun`] when it is
/// damaged or something else.
pub fn load<B: DeserializeOwned>(path: &Path) -> Result<(BTreeMap<String, Tensor>, B)> {
    let bytes =
        std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| damaged(path, &error))?;
    let beside = said_beside(path, &header)?;
    let tensors = candle::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|error| damaged(path, &error))?;
    Ok((tensors.into_iter().collect(), beside))
}

/// Reads what [`save`] wrote beside the tensors, and not these.
///
/// # Errors
/// As [`load`].
pub fn load_beside<B: DeserializeOwned>(path: &Path) -> Result<B> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let length = file.metadata().map_err(read)?.len();
    let mut file = file.take(length);
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|error| damaged(path, &error))?;
    let mut header = Vec::new();
    let mut head = file.take(u64::from_le_bytes(size));
    head.read_to_end(&mut header).map_err(read)?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|error| damaged(path, &error))?;
    said_beside(path, &header)
}

fn said_beside<B: DeserializeOwned>(path: &Path, header: &Metadata) -> Result<B> {
    let json = header.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
    let json = json.ok_or_else(|| damaged(path, &"it does not say how far the training was"))?;
    serde_json::from_str(json).map_err(|error| damaged(path, &error))
}

fn damaged(path: &Path, error: &dyn std::fmt::Display) -> Error {
    let folder = path.parent().unwrap_or(path).display();
    let why =
        format!("is damaged ({error}); delete the folder `{folder}` to train that model again");
    Error::NotOfARun { path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_comes_back_and_the_same_is_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        let tensor = Tensor::new(&[0.1f32, f32::NAN, -0.0], &Device::Cpu).unwrap();
        let tensors = BTreeMap::from([("a".to_owned(), tensor.clone()), ("b".to_owned(), tensor)]);
        let beside = (1.0f64 / 3.0, vec!["x".to_owned()]);
        for path in [&one, &two] {
            save(path, &tensors, &beside).unwrap();
        }
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        let (found, said): (_, (f64, Vec<String>)) = load(&one).unwrap();
        assert_eq!(said, beside);
        let bits = |tensor: &Tensor| -> Vec<u32> {
            tensor.to_vec1::<f32>().unwrap().iter().map(|value| value.to_bits()).collect()
        };
        assert_eq!(load_beside::<(f64, Vec<String>)>(&one).unwrap(), beside);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(bits(&found["b"]), bits(&tensors["b"]));
    }

    #[test]
    fn damaged_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        assert!(matches!(load::<()>(&path), Err(Error::Read { .. })));
        save(&path, &BTreeMap::new(), &"text").unwrap();
        assert!(load::<f64>(&path).is_err(), "another kind of progress was taken");
        for bytes in [&b""[..], b"nothing", &[0xFF; 64], &[8, 0, 0, 0, 0, 0, 0, 0, b'{']] {
            std::fs::write(&path, bytes).unwrap();
            for error in [load::<String>(&path).err(), load_beside::<String>(&path).err()] {
                let error = error.unwrap().to_string();
                assert!(error.contains("last.safetensors` is damaged"), "{error}");
            }
        }
    }
}
