//! Helpers that the tests of the program share.

#[allow(dead_code, unreachable_pub, reason = "shared by the tests of several crates")]
pub(crate) mod clips;
pub(crate) mod features;
mod program;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clips::{Audio, Clip, Video};
pub(crate) use program::{Done, Run, meptr};
use serde_json::Value;

/// A folder that goes away with the test.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a clip.
    pub(crate) fn clip(&self, name: &str, clip: &Clip) -> Result<PathBuf> {
        let path = self.at(name);
        clip.write(&path).with_context(|| name.to_owned())?;
        Ok(path)
    }

    /// Writes a file.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.at(name);
        std::fs::write(&path, content).with_context(|| name.to_owned())?;
        Ok(path)
    }
}

/// Small pictures, 25 a second, with a tone of the same length.
pub(crate) fn film(frames: usize) -> Clip {
    Clip {
        video: Some(Video::mpeg4(64, 48, frames)),
        audio: Some(Audio::aac(16_000, 1, frames as f64 / 25.0)),
        subtitles: Vec::new(),
    }
}

/// The elements of a JSON list.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// The number in a JSON value.
pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The string in a JSON value.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}
