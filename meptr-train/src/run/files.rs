//! Files and folders of a run, with errors that name them.

use std::path::Path;

use meptr_core::files;

use crate::{Error, Result};

/// [`meptr_core::files::write_whole`], with this crate's error.
///
/// # Errors
/// [`Error::Write`] when the disk does not take it; the file that was there, if any, then stays.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    files::write_whole(path, bytes).map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Makes a folder and those above it.
///
/// # Errors
/// [`Error::Write`] when it cannot be made.
pub fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|source| Error::Write { path: path.to_owned(), source })
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
