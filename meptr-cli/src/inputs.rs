//! Videos named on the command line.

use std::path::{Path, PathBuf};

/// Extensions of files in a folder that are videos or sound recordings.
const ENDINGS: [&str; 27] = [
    "3gp", "aac", "avi", "flac", "flv", "m2ts", "m4a", "m4v", "mka", "mkv", "mov", "mp3", "mp4",
    "mpeg", "mpg", "mts", "mxf", "oga", "ogg", "ogv", "opus", "ts", "vob", "wav", "webm", "wma",
    "wmv",
];

/// Depth to which folders are searched; also ends circles of links.
const MAX_DEPTH: usize = 32;

/// Replaces each folder by the videos below it, sorted by name; files are kept as given.
///
/// Returns the videos, and the folders that hold none or cannot be read, with the reason.
pub fn find(inputs: &[PathBuf]) -> (Vec<PathBuf>, Vec<(PathBuf, anyhow::Error)>) {
    let mut videos = Vec::new();
    let mut failures = Vec::new();
    for input in inputs {
        if !input.is_dir() {
            videos.push(input.clone());
            continue;
        }
        let before = videos.len();
        let failures_before = failures.len();
        search(input, 0, &mut videos, &mut failures);
        videos[before..].sort();
        if videos.len() == before && failures.len() == failures_before {
            let reason = anyhow::anyhow!("no video was found in the folder `{}`", input.display());
            failures.push((input.clone(), reason));
        }
    }
    (videos, failures)
}

fn search(
    folder: &Path,
    depth: usize,
    videos: &mut Vec<PathBuf>,
    failures: &mut Vec<(PathBuf, anyhow::Error)>,
) {
    let unreadable = |error: std::io::Error| {
        let context = format!("cannot read the folder `{}`", folder.display());
        (folder.to_owned(), anyhow::Error::new(error).context(context))
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return failures.push(unreadable(error)),
    };
    for entry in entries {
        match entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))) {
            Ok((path, kind)) if kind.is_dir() && depth < MAX_DEPTH => {
                search(&path, depth + 1, videos, failures);
            }
            // A link counts as its target, but linked folders are not searched: they may form a circle.
            Ok((path, _)) if has_video_ending(&path) && path.is_file() => videos.push(path),
            Ok(_) => {}
            Err(error) => failures.push(unreadable(error)),
        }
    }
}

fn has_video_ending(path: &Path) -> bool {
    path.extension().is_some_and(|ending| {
        let ending = ending.to_string_lossy().to_ascii_lowercase();
        ENDINGS.binary_search(&ending.as_str()).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_sorted_for_the_search() {
        assert!(ENDINGS.is_sorted());
    }

    #[test]
    fn a_folder_means_the_videos_below_it() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        for name in ["z.mp4", "a/b/c.MKV", "a/notes.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let (videos, failures) = find(&[folder.path().to_owned(), "gone.mp4".into()]);
        let expected =
            [folder.path().join("a/b/c.MKV"), folder.path().join("z.mp4"), "gone.mp4".into()];
        assert_eq!(videos, expected);
        assert!(failures.is_empty());

        let empty = deep.join("empty");
        std::fs::create_dir(&empty).unwrap();
        let (videos, failures) = find(std::slice::from_ref(&empty));
        assert!(videos.is_empty());
        assert_eq!(failures[0].0, empty);
    }

    #[cfg(unix)]
    #[test]
    fn a_circle_of_links_ends() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("again")).unwrap();
        std::fs::write(folder.path().join("a.mp4"), "").unwrap();
        assert_eq!(find(&[folder.path().to_owned()]).0.len(), 1);
    }
}
