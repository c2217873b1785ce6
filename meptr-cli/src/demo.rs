//! Demo bundle, embedded in the program.

use std::path::{Path, PathBuf};

use anyhow::Context;
use meptr_core::bundle::Manifest;

macro_rules! demo_files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../weights/demo/", $name)))),*]
    };
}

/// Every file of `weights/demo` that its manifest lists, and the manifest.
const FILES: &[(&str, &[u8])] = demo_files![
    "manifest.json",
    "bert/config.json",
    "bert/model.safetensors",
    "bert/tokenizer.json",
    "clip/config.json",
    "clip/model.safetensors",
    "clip/preprocessor_config.json",
    "face_detector.safetensors",
    "fusion.safetensors",
    "heads/audio.safetensors",
    "heads/body.safetensors",
    "heads/face.safetensors",
    "heads/scene.safetensors",
    "heads/text.safetensors",
    "wav2vec2/config.json",
    "wav2vec2/model.safetensors",
    "wav2vec2/preprocessor_config.json",
];

/// Folder of the demo bundle, which is unpacked into the user's cache on first use.
///
/// # Errors
/// When neither the cache nor the temporary folder can be written.
pub fn folder() -> anyhow::Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let manifest: Manifest = serde_json::from_slice(FILES[0].1).context("the demo manifest")?;
    // The manifest holds the hashes of all other files, so its own names the content.
    let content = manifest.files.values().fold(0u64, |sum, file| {
        let head = u64::from_str_radix(file.sha256.get(..16).unwrap_or_default(), 16);
        sum.rotate_left(7) ^ head.unwrap_or_default()
    });
    let name = format!("demo-{version}-{content:016x}");
    let mut reasons = Vec::new();
    for base in [cache_folder(), Some(std::env::temp_dir())].into_iter().flatten() {
        let folder = base.join("meptr").join(&name);
        if is_intact(&folder) {
            return Ok(folder);
        }
        match unpack(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) => reasons.push(format!("{}: {error}", folder.display())),
        }
    }
    anyhow::bail!(
        "cannot unpack the demo weights ({}); name a bundle with --weights",
        reasons.join("; ")
    )
}

fn cache_folder() -> Option<PathBuf> {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || given("HOME").map(|home| PathBuf::from(home).join(".cache"));
    given("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or_else(home)
}

/// Whether a folder holds the demo bundle, byte by byte; an altered one is written again.
///
/// Comparison is cheaper than the hashes, which are checked when the bundle is opened.
fn is_intact(folder: &Path) -> bool {
    let is_same = |(name, content): &(&str, &[u8])| {
        std::fs::read(folder.join(name)).is_ok_and(|found| found == *content)
    };
    FILES.iter().all(is_same)
}

/// Writes the files beside `folder` and renames them, so that `folder` is complete if it exists.
fn unpack(folder: &Path) -> std::io::Result<()> {
    let partial = folder.with_extension(format!("part-{}", std::process::id()));
    let unpacked = write(&partial).and_then(|()| move_into_place(&partial, folder));
    if unpacked.is_err() {
        let _ = std::fs::remove_dir_all(&partial); // it may not exist; the first error is reported
    }
    unpacked
}

fn write(partial: &Path) -> std::io::Result<()> {
    for (name, content) in FILES {
        let path = partial.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(partial))?;
        std::fs::write(path, content)?;
    }
    Ok(())
}

fn move_into_place(partial: &Path, folder: &Path) -> std::io::Result<()> {
    if std::fs::rename(partial, folder).is_ok() {
        return Ok(());
    }
    // Another process may have written the same files first and be reading them: they stay.
    if is_intact(folder) {
        return std::fs::remove_dir_all(partial);
    }
    if folder.is_dir() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::rename(partial, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_bundle_is_embedded() {
        let manifest: Manifest = serde_json::from_slice(FILES[0].1).unwrap();
        let carried: Vec<&str> = FILES[1..].iter().map(|(name, _)| *name).collect();
        assert_eq!(carried, manifest.files.keys().collect::<Vec<_>>());
    }
}
