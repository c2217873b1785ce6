//! The files of videos, found by name.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::table::some_of;

/// Folders deeper than this are not searched.
const MAX_DEPTH: usize = 32;

/// Endings of files that stand beside a video and are none.
const BESIDE: [&str; 4] = ["json", "srt", "txt", "vtt"];

/// The files of one video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// The video.
    pub video: PathBuf,
    /// Its sound, where it has a file of its own.
    pub audio: Option<PathBuf>,
}

/// Files below a folder by their names without ending.
#[derive(Debug, Default)]
pub(super) struct Stems(HashMap<String, Vec<PathBuf>>);

impl Stems {
    /// Searches a folder at any depth; one that cannot be read goes to `problems`.
    pub(super) fn below(folder: &Path, problems: &mut Vec<String>) -> Self {
        let mut stems = Self::default();
        if let Err(error) = stems.search(folder, 0, &mut HashSet::new()) {
            problems.push(format!("the folder `{}` cannot be read: {error}", folder.display()));
        }
        stems
    }

    fn search(
        &mut self,
        folder: &Path,
        depth: usize,
        searched: &mut HashSet<PathBuf>,
    ) -> std::io::Result<()> {
        // A link counts as what it leads to, which may be a folder around it.
        if !searched.insert(folder.canonicalize()?) {
            return Ok(());
        }
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                if depth < MAX_DEPTH {
                    self.search(&path, depth + 1, searched)?;
                }
                continue;
            }
            let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            if !stem.starts_with('.') && !is_beside(&path) && path.is_file() {
                self.0.entry(stem.to_owned()).or_default().push(path);
            }
        }
        Ok(())
    }

    /// The file of each name; names with several files go to `problems`.
    pub(super) fn files(
        &self,
        names: &[&str],
        folder: &Path,
        problems: &mut Vec<String>,
    ) -> Vec<Option<PathBuf>> {
        let mut several = Vec::new();
        let file = |name: &&str| {
            let files = self.0.get(*name)?;
            if files.len() > 1 {
                several.push(format!("`{name}`"));
            }
            files.first().cloned()
        };
        let files = names.iter().map(file).collect();
        if !several.is_empty() {
            let (folder, some) = (folder.display(), some_of(&several));
            problems.push(format!("`{folder}` holds several files of the same name: {some}"));
        }
        files
    }
}

fn is_beside(path: &Path) -> bool {
    path.extension().is_some_and(|ending| {
        BESIDE.contains(&ending.to_string_lossy().to_ascii_lowercase().as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_name_at_any_depth_with_any_ending() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        for name in ["a/b/x.003.odd", "a/x.003.srt", "y.mp4", "a/z.mp4", "z.mkv", "._y.mp4"] {
            std::fs::write(at(name), "").unwrap();
        }
        let mut problems = Vec::new();
        let stems = Stems::below(folder.path(), &mut problems);
        assert!(problems.is_empty());
        let files = stems.files(&["x.003", "y", "w"], folder.path(), &mut problems);
        assert_eq!(files, [Some(at("a/b/x.003.odd")), Some(at("y.mp4")), None]);
        assert!(problems.is_empty());
        stems.files(&["z"], folder.path(), &mut problems);
        assert!(problems[0].contains("several files of the same name: `z`"), "{problems:?}");
        Stems::below(&at("gone"), &mut problems);
        assert!(problems[1].contains("cannot be read"));
    }

    #[cfg(unix)]
    #[test]
    fn folders_behind_links_are_searched_once() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(elsewhere.path().join("x.mp4"), "").unwrap();
        let link = |to: &Path, name: &str| {
            std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
        };
        link(elsewhere.path(), "one");
        link(elsewhere.path(), "two");
        link(folder.path(), "round");
        let mut problems = Vec::new();
        let stems = Stems::below(folder.path(), &mut problems);
        let files = stems.files(&["x"], folder.path(), &mut problems);
        assert!(files[0].is_some() && problems.is_empty(), "{problems:?}");
    }
}
