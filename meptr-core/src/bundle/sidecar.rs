//! Metadata file beside a converted weight file: kind of model, configuration, source.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::files::{read_small, write_whole};
use crate::{Error, Modality, Result};

/// `NAME.json` beside `NAME.safetensors`: metadata that the tensors do not contain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartMetadata {
    /// [`PartMetadata::SCHEMA`]; another value means another format.
    pub schema: String,
    /// Kind of part of a bundle.
    pub kind: PartKind,
    /// Modality of a head, where it is known.
    pub modality: Option<Modality>,
    /// Configuration, in the form that the bundle's manifest has for this kind of part.
    pub config: Json,
    /// The values of the configuration that the tensors do not tell, and where each is from.
    pub assumed: Json,
    /// The file it was made from, with its SHA-256.
    pub source: String,
    /// SHA-256 of the weight file.
    pub sha256: String,
}

/// Kind of a weight file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// The cross-task model of a modality.
    Head,
    /// The fusion model.
    Fusion,
    /// A stage-1 model alone, which no bundle has a place for.
    Unimodal,
    /// A stage-3 model of one task, which no bundle has a place for.
    SingleTask,
    /// A body detector.
    BodyDetector,
}

impl PartKind {
    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Fusion => "fusion model",
            Self::Unimodal => "stage-1 model",
            Self::SingleTask => "stage-3 model of one task",
            Self::BodyDetector => "body detector",
        }
    }
}

impl PartMetadata {
    /// The format this program reads and writes.
    pub const SCHEMA: &'static str = "meptr-part/1";

    /// Path of the metadata of a weight file.
    pub fn path(weights: &Path) -> PathBuf {
        weights.with_extension("json")
    }

    /// Reads the metadata of a weight file; `None` when it has none.
    ///
    /// # Errors
    /// When the file cannot be read or is of another format.
    pub fn read(weights: &Path) -> Result<Option<Self>> {
        let path = Self::path(weights);
        let text = match read_small(&path) {
            Ok(text) => text,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Read { path, source }),
        };
        let what = "description of a weight file";
        let metadata: Self = serde_json::from_slice(&text).map_err(|source| Error::Json {
            path: path.clone(),
            what,
            source,
        })?;
        if metadata.schema == Self::SCHEMA {
            return Ok(Some(metadata));
        }
        let problem =
            format!("its format is `{}`, this program reads `{}`", metadata.schema, Self::SCHEMA);
        let source = serde::de::Error::custom(problem);
        Err(Error::Json { path, what, source })
    }

    /// Writes the metadata of a weight file atomically; it marks a training as finished.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, weights: &Path) -> Result<()> {
        let path = Self::path(weights);
        let mut text = serde_json::to_string_pretty(self).expect("metadata is plain data");
        text.push('\n');
        write_whole(&path, text.as_bytes()).map_err(|source| Error::Write { path, source })
    }

    /// Configuration of the model, in the type of its kind.
    ///
    /// # Errors
    /// When its fields are not those of the kind.
    pub fn config<C: DeserializeOwned>(&self, weights: &Path) -> Result<C> {
        serde_json::from_value(self.config.clone()).map_err(|source| Error::Json {
            path: Self::path(weights),
            what: "configuration of a model",
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_as_it_was_written_and_foreign_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("body.safetensors");
        assert_eq!(PartMetadata::read(&weights).unwrap(), None);
        let metadata = PartMetadata {
            schema: PartMetadata::SCHEMA.to_owned(),
            kind: PartKind::Head,
            modality: Some(Modality::Body),
            config: serde_json::json!({"heads": 2}),
            assumed: serde_json::json!([]),
            source: "body.pt".to_owned(),
            sha256: "00".to_owned(),
        };
        metadata.write(&weights).unwrap();
        assert_eq!(PartMetadata::read(&weights).unwrap(), Some(metadata.clone()));
        PartMetadata { schema: "meptr-part/2".to_owned(), ..metadata }.write(&weights).unwrap();
        assert!(matches!(PartMetadata::read(&weights), Err(Error::Json { .. })));
    }
}
