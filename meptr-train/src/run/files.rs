//! Files that are there whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes a file under another name, sees to it that it is on the disk, and renames it.
///
/// # Errors
/// [`Error::Write`] when the disk does not take it; the file that was there, if any, then stays.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = partial(path);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&partial); // it may not exist; the first error is the one to tell
        Error::Write { path: path.to_owned(), source }
    })
}

/// Makes a folder and those above it.
///
/// # Errors
/// [`Error::Write`] when it cannot be made.
pub fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|source| Error::Write { path: path.to_owned(), source })
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_named_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_whole(&path, b"one").unwrap();
        // A folder in the place of the temporary file: root, too, cannot write there.
        std::fs::create_dir(folder.path().join("a.json.part")).unwrap();
        let error = write_whole(&path, b"two").unwrap_err();
        assert!(error.to_string().contains("a.json`"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert!(make_folder(&path.join("below")).is_err());
    }

    /// `/dev/full` takes no byte, as a full disk.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_and_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_whole(&path, b"one").unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join("a.json.part")).unwrap();
        let error = write_whole(&path, b"two").unwrap_err();
        let Error::Write { path: named, source } = &error else { panic!("{error}") };
        assert_eq!((named, source.kind()), (&path, std::io::ErrorKind::StorageFull));
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
    }
}
