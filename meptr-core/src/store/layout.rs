//! Layout of a feature store: paths and metadata.
//!
//! ```text
//! STORE/CORPUS/SPLIT/VIDEO.safetensors
//! STORE/.lock                            held by the process that writes
//! ```
//!
//! A file holds up to five tensors named after the modalities, `(steps, width)`, f16 or f32, and
//! under the metadata key `meptr` a [`VideoRecord`] as JSON. A modality without a tensor has a
//! reason there, one with a tensor the SHA-256 of its values. Files are written under another name
//! and renamed, so a file that is there is whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use candle::DType;
use serde::{Deserialize, Serialize};

use super::{FeatureFile, SourceFile};
use crate::paths::is_file_name;
use crate::prediction::ChosenFrame;
use crate::{Error, PerModality, Result};

/// Key of the record in the metadata of a file.
pub(super) const METADATA_KEY: &str = "meptr";

/// Longest header that is read, in bytes.
pub(super) const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Longest file that is read, in bytes: a day of sound in f32 is 18 GB, an hour 0.7 GB.
pub(super) const MAX_FILE_BYTES: u64 = 32 << 30;

/// Data type of stored features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Half the space; 11 significant bits.
    F16,
    /// 32-bit floats, as the backbones compute them.
    #[default]
    F32,
}

impl Storage {
    /// Data type in Candle.
    pub fn dtype(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::F32 => DType::F32,
        }
    }
}

impl FromStr for Storage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f16" => Ok(Self::F16),
            "f32" => Ok(Self::F32),
            _ => Err("give f16 or f32".to_owned()),
        }
    }
}

/// Metadata of a video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoRecord {
    /// [`VideoRecord::SCHEMA`]; another value means another format.
    pub schema: String,
    /// Name of the video, as its corpus has it.
    pub video: String,
    /// Sources of the features.
    pub provenance: Provenance,
    /// Seconds from the start to the end of the last frame or audio sample.
    pub duration_seconds: f64,
    /// Sampled frames.
    pub frames: Vec<ChosenFrame>,
    /// The sequences.
    pub modalities: PerModality<SequenceRecord>,
}

impl VideoRecord {
    /// The format this program reads and writes.
    pub const SCHEMA: &'static str = "meptr-features/1";
}

/// Inputs that determine the features; equal provenance means equal features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The video.
    pub video: SourceFile,
    /// The sound, where it comes from a file of its own.
    pub audio: Option<SourceFile>,
    /// SHA-256 of the words that were given; absent when they were to be found.
    pub text_sha256: Option<String>,
    /// See [`weights_digests`](super::weights_digests).
    pub weights: BTreeMap<String, String>,
    /// SHA-256 of the settings of the extraction.
    pub settings_sha256: String,
}

/// Metadata of one sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequenceRecord {
    /// Reason for its absence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Steps of each chunk that was encoded separately; audio longer than five minutes has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pieces: Vec<usize>,
    /// Index of each step of a visual sequence in [`VideoRecord::frames`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<usize>,
    /// SHA-256 of its values as stored; absent in files of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl SequenceRecord {
    /// Metadata of an absent sequence.
    pub fn absent(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::default() }
    }

    /// Number of steps; 0 when there is no sequence.
    pub fn steps(&self) -> usize {
        self.pieces.iter().fold(0, |sum, steps| sum.saturating_add(*steps))
    }
}

impl VideoRecord {
    /// Contradiction within the metadata or with the `shapes` of the tensors; `None` when there is none.
    pub(super) fn problem(&self, shapes: &PerModality<Option<(usize, usize)>>) -> Option<String> {
        if self.schema != Self::SCHEMA {
            return Some(format!("its format is `{}`", self.schema));
        }
        if !is_file_name(&self.video) {
            return Some("the name of its video is not a file name".to_owned());
        }
        self.modalities.iter().find_map(|(modality, record)| {
            let problem = record.problem(shapes[modality], self.frames.len())?;
            Some(format!("the {modality} sequence {problem}"))
        })
    }
}

impl SequenceRecord {
    fn problem(&self, shape: Option<(usize, usize)>, frames: usize) -> Option<&'static str> {
        match shape {
            None if self.reason.is_none() => Some("is missing without a reason"),
            None if !self.pieces.is_empty() => Some("is missing though it has pieces"),
            None => None,
            Some((steps, width)) if steps == 0 || width == 0 => Some("is empty"),
            Some((steps, _)) if steps != self.steps() => Some("is not as long as its pieces"),
            Some((steps, _)) if !self.frames.is_empty() && self.frames.len() != steps => {
                Some("does not say which frame each step shows")
            }
            Some(_) if self.frames.iter().any(|frame| *frame >= frames) => {
                Some("shows a frame that is not listed")
            }
            Some(_) => None,
        }
    }
}

/// A folder of stored features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
}

/// The right to write to a store; ends with the value or the process, however that ends.
#[derive(Debug)]
pub struct StoreLock {
    _file: File,
}

impl Store {
    /// The store in a folder, which need not exist.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path of the features of a video, whether they exist or not. All three must be
    /// [file names](is_file_name).
    pub fn path(&self, corpus: &str, split: &str, video: &str) -> PathBuf {
        self.root.join(corpus).join(split).join(format!("{video}.safetensors"))
    }

    /// Opens the features of a video.
    ///
    /// # Errors
    /// As [`FeatureFile::open`].
    pub fn open(&self, corpus: &str, split: &str, video: &str) -> Result<FeatureFile> {
        FeatureFile::open(&self.path(corpus, split, video))
    }

    /// Makes the folder where needed and keeps other processes from writing to it.
    ///
    /// # Errors
    /// [`Error::StoreInUse`] while another process writes to it; [`Error::Write`] when the folder
    /// cannot be made.
    pub fn lock(&self) -> Result<StoreLock> {
        let path = self.root.join(".lock");
        let write = |source| Error::Write { path: path.clone(), source };
        std::fs::create_dir_all(&self.root).map_err(write)?;
        let file = File::create(&path).map_err(write)?;
        match file.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(Error::StoreInUse { path: self.root.clone() })
            }
            // Some network file systems know no locks; then care is up to the user.
            Ok(()) | Err(std::fs::TryLockError::Error(_)) => Ok(StoreLock { _file: file }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_writes_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path().join("new/store"));
        let lock = store.lock().unwrap();
        assert!(matches!(store.lock(), Err(Error::StoreInUse { .. })));
        drop(lock);
        assert!(store.lock().is_ok());
    }
}
