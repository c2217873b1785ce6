//! Writing the features of one video.

use std::collections::HashMap;
use std::path::Path;

use candle::{DType, Tensor};
use safetensors::View;

use super::digest_of;
use super::layout::{METADATA_KEY, Storage, VideoRecord};
use crate::files::write_whole;
use crate::{Error, Modality, PerModality, Result};

/// Writes a file of a store: all of it or, when anything fails, nothing.
///
/// - `sequences`: `(steps, width)` each, finite, as `record` describes them; their hashes are added
///
/// # Errors
/// [`Error::NotFeatures`] when record and sequences contradict each other or a number is not
/// finite (in f16, nothing above 65504 is); [`Error::Write`] when the disk does not take the file.
pub fn write_features(
    path: &Path,
    record: &VideoRecord,
    sequences: &PerModality<Option<Tensor>>,
    storage: Storage,
) -> Result<()> {
    let unfit = |why: String| Error::NotFeatures { path: path.to_owned(), why };
    let doing = || Error::doing(format!("writing `{}`", path.display()));
    let shape = |tensor: &Tensor| tensor.dims2();
    let shapes = PerModality::try_from_fn(|one| sequences[one].as_ref().map(shape).transpose());
    if let Some(why) = record.problem(&shapes.map_err(doing())?) {
        return Err(unfit(why));
    }
    let mut record = record.clone();
    let mut tensors = Vec::new();
    for modality in Modality::ALL {
        let Some(sequence) = &sequences[modality] else { continue };
        let stored = sequence.to_dtype(storage.dtype()).map_err(doing())?;
        if !is_finite(&stored).map_err(doing())? {
            return Err(unfit(format!(
                "the {modality} sequence holds a number that is not finite"
            )));
        }
        record.modalities[modality].sha256 = Some(digest_of(&stored.data()));
        tensors.push((modality.name(), stored));
    }
    let json = serde_json::to_string(&record).map_err(|error| unfit(error.to_string()))?;
    let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
    let bytes = safetensors::serialize(tensors, Some(metadata))
        .map_err(|error| unfit(error.to_string()))?;
    // Two processes never write to one store, see `Store::lock`.
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    folder
        .and_then(|()| write_whole(path, &bytes))
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Whether all values are finite.
pub(super) fn is_finite(tensor: &Tensor) -> candle::Result<bool> {
    let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(values.iter().all(|value| value.is_finite()))
}
