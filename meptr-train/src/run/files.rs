//! Files and folders of a run, with errors that name them.

use std::fs::{File, TryLockError};
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

/// Keeps other processes from writing to a folder for as long as it is held.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Makes a folder and keeps other processes from writing to it.
///
/// # Errors
/// [`Error::InUse`] while another process writes to it; [`Error::Write`] when it cannot be made.
pub fn lock_folder(path: &Path) -> Result<FolderLock> {
    make_folder(path)?;
    let file = path.join(".lock");
    let file = File::create(&file).map_err(|source| Error::Write { path: file, source })?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
        // Some network file systems know no locks; then care is up to the user.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(FolderLock { _file: file }),
    }
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

    #[test]
    fn one_process_writes_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("new/run");
        let lock = lock_folder(&run).unwrap();
        assert!(matches!(lock_folder(&run), Err(Error::InUse { .. })));
        drop(lock);
        assert!(lock_folder(&run).is_ok());
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
