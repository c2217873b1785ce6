//! Sources of features, and checks whether they changed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bundle::{Manifest, sha256_of};
use crate::digest::hex;

/// A file as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Length in bytes.
    pub bytes: u64,
    /// Time of its last change, in nanoseconds since 1970; absent where the system knows none.
    pub modified_ns: Option<u64>,
    /// SHA-256 of the content, 64 hexadecimal digits in lower case.
    pub sha256: String,
}

impl SourceFile {
    /// Takes the measure of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path) -> io::Result<Self> {
        let (bytes, modified_ns) = stamp(path)?;
        Ok(Self { bytes, modified_ns, sha256: sha256_of(path)? })
    }

    /// Whether the file at `path` is the one that was measured. One of equal length and time of change is
    /// taken for the same; one of equal length alone is read.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_still(&self, path: &Path) -> io::Result<bool> {
        let (bytes, modified_ns) = stamp(path)?;
        if bytes != self.bytes {
            return Ok(false);
        }
        if modified_ns.is_some() && modified_ns == self.modified_ns {
            return Ok(true);
        }
        Ok(sha256_of(path)? == self.sha256)
    }
}

fn stamp(path: &Path) -> io::Result<(u64, Option<u64>)> {
    let metadata = std::fs::metadata(path)?;
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let modified_ns = since.and_then(|time| u64::try_from(time.as_nanos()).ok());
    Ok((metadata.len(), modified_ns))
}

/// SHA-256 of a text or of settings, as 64 hexadecimal digits in lower case.
pub fn digest_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Digests of the parts of a bundle that features depend on: the backbones and the detectors.
///
/// A digest covers the names and hashes of the part's files, but neither where in the bundle they
/// lie nor its heads: retrained heads leave stored features valid.
pub fn weights_digests(manifest: &Manifest) -> BTreeMap<String, String> {
    let parts = &manifest.parts;
    let folders = [("clip", &parts.clip), ("wav2vec2", &parts.wav2vec2), ("bert", &parts.bert)];
    let detectors = [
        ("face_detector", parts.face_detector.as_ref().map(|part| (&part.file, part.kind.clone()))),
        (
            "body_detector",
            parts.body_detector.as_ref().map(|part| (&part.file, part.config.to_string())),
        ),
    ];
    let mut digests = BTreeMap::new();
    for (name, part) in folders {
        digests.insert(name.to_owned(), digest(manifest, &part.folder, ""));
    }
    for (name, detector) in detectors {
        if let Some((file, settings)) = detector {
            digests.insert(name.to_owned(), digest(manifest, file, &settings));
        }
    }
    digests
}

/// Digest of the files at or below `place`, and of what is configured in the manifest itself.
fn digest(manifest: &Manifest, place: &str, settings: &str) -> String {
    let mut listed = String::new();
    for (name, file) in &manifest.files {
        let Some(rest) = name.strip_prefix(place.trim_end_matches('/')) else { continue };
        if rest.is_empty() || rest.starts_with('/') {
            listed += &format!("{rest}\n{}\n", file.sha256);
        }
    }
    digest_of((listed + settings).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_seen_and_a_touched_one_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mp4");
        std::fs::write(&path, "one").unwrap();
        let file = SourceFile::of(&path).unwrap();
        assert!(file.is_still(&path).unwrap());

        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(9);
        let touch =
            || std::fs::File::options().append(true).open(&path).unwrap().set_modified(later);
        touch().unwrap();
        assert!(file.is_still(&path).unwrap());

        std::fs::write(&path, "two").unwrap();
        touch().unwrap();
        assert!(!file.is_still(&path).unwrap());
        std::fs::write(&path, "longer").unwrap();
        assert!(!file.is_still(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(file.is_still(&path).is_err());
    }

    #[test]
    fn digests_follow_backbones_and_not_heads() {
        let text = include_str!("../../../weights/demo/manifest.json");
        let manifest: Manifest = serde_json::from_str(text).unwrap();
        let before = weights_digests(&manifest);
        let changed = |file: &str| {
            let mut other = manifest.clone();
            other.files.get_mut(file).unwrap().sha256 = "0".repeat(64);
            let after = weights_digests(&other);
            let differ = before.keys().filter(|name| before[*name] != after[*name]);
            differ.cloned().collect::<Vec<_>>()
        };
        assert_eq!(changed("clip/model.safetensors"), ["clip"]);
        assert_eq!(changed("face_detector.safetensors"), ["face_detector"]);
        assert!(changed("heads/body.safetensors").is_empty());
        assert!(changed("fusion.safetensors").is_empty());
    }
}
