//! Reading of small files within a bound, and atomic writing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Error, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Largest configuration, table, tokenizer or other file that is read into memory, in bytes; the
/// largest tokenizers have 20 MB.
pub const MAX_SMALL_BYTES: u64 = 64 << 20;

/// Symbolic links that are followed to the file to write.
const MAX_LINKS: usize = 40;

/// Reads a configuration, a table or another small file.
///
/// # Errors
/// When the file is absent, is a folder, a device or a pipe, or has more than [`MAX_SMALL_BYTES`].
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(path, MAX_SMALL_BYTES)
}

/// Reads a small text file in UTF-8.
///
/// # Errors
/// As [`read_small`], and when it is not UTF-8.
pub fn read_small_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_small(path)?)
        .map_err(|_| Error::new(ErrorKind::InvalidData, "it is not a text in UTF-8"))
}

fn read_up_to(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let too_long = || Error::new(ErrorKind::FileTooLarge, format!("it has more than {most} bytes"));
    let file = open_file(path)?;
    let length = file.metadata()?.len();
    if length > most {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(most + 1).read_to_end(&mut bytes)?; // some systems' files say that they are empty
    if bytes.len() as u64 > most { Err(too_long()) } else { Ok(bytes) }
}

/// Opens a regular file for reading.
///
/// Devices and pipes are refused: they may have no end, or wait for a writer.
///
/// # Errors
/// When the file is absent, or is a folder, a device or a pipe.
pub fn open_file(path: &Path) -> io::Result<File> {
    let found = fs::metadata(path)?; // before opening, since opening a pipe waits for a writer
    if found.is_dir() {
        return Err(Error::new(ErrorKind::IsADirectory, "it is a folder, not a file"));
    }
    if !found.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is a device or a pipe, not a file"));
    }
    File::open(path)
}

/// Writes a file atomically: under a temporary name, synced to disk, then renamed.
///
/// A symbolic link stays, and its target is written. A device or a pipe is written to directly.
///
/// # Errors
/// When the folder is absent or the disk fails; an older file then stays as it was.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let Destination::File(target) = destination(path)? else {
        return OpenOptions::new().append(true).open(path)?.write_all(bytes);
    };
    let file = AtomicFile { temporary: temporary_name(&target), target };
    File::create(file.path())?.write_all(bytes)?;
    file.finish()
}

/// A file that is written under a temporary name and renamed when finished; deleted when dropped
/// before.
///
/// The temporary name is fixed, so that the leftover of a killed process is overwritten. Two processes
/// must not write one file at the same time.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: PathBuf,
    target: PathBuf,
}

impl AtomicFile {
    /// Prepares a file at `path`, or at the target of the symbolic link there.
    ///
    /// # Errors
    /// When `path` is a device or a pipe, which cannot be replaced.
    pub fn new(path: &Path) -> io::Result<Self> {
        match destination(path)? {
            Destination::File(target) => Ok(Self { temporary: temporary_name(&target), target }),
            Destination::Stream => Err(not_replaceable()),
        }
    }

    /// Prepares a file at `target` with a temporary name of the caller's choice, in the same folder.
    #[cfg(feature = "hub")]
    pub(crate) fn with_temporary_name(temporary: PathBuf, target: &Path) -> Self {
        Self { temporary, target: target.to_owned() }
    }

    /// Path to write to.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Syncs the file to disk and gives it its final name.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn finish(self) -> io::Result<()> {
        OpenOptions::new().append(true).open(&self.temporary)?.sync_all()?;
        fs::rename(&self.temporary, &self.target)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // Nothing is left after `finish`. Before, the caller reports the error that came first.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Target of a path, after symbolic links.
enum Destination {
    /// A regular file, or nothing yet.
    File(PathBuf),
    /// A device, a pipe, or an open file of a process (`/dev/stdout`).
    Stream,
}

fn destination(path: &Path) -> io::Result<Destination> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return Ok(Destination::Stream);
    }
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        if target.starts_with("/proc") {
            return Ok(Destination::Stream);
        }
        if !fs::symlink_metadata(&target).is_ok_and(|found| found.is_symlink()) {
            return Ok(Destination::File(target));
        }
        let link = fs::read_link(&target)?;
        target = target.parent().unwrap_or(Path::new("")).join(link);
    }
    Err(not_replaceable())
}

fn not_replaceable() -> Error {
    Error::new(ErrorKind::InvalidInput, "it is no file that can be replaced")
}

fn temporary_name(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_or_too_long_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "four").unwrap();
        assert_eq!(read_up_to(&path, 4).unwrap(), b"four");
        let refused = |path: &Path, most| read_up_to(path, most).unwrap_err().to_string();
        assert_eq!(refused(&path, 3), "it has more than 3 bytes");
        assert_eq!(refused(folder.path(), 3), "it is a folder, not a file");
        let missing = read_small(&folder.path().join("b")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        fs::write(&path, [0xFF]).unwrap();
        assert!(read_small_text(&path).unwrap_err().to_string().contains("UTF-8"));
        #[cfg(unix)]
        assert!(refused(Path::new("/dev/zero"), 3).contains("a device or a pipe"));
    }

    #[test]
    fn an_unfinished_file_leaves_the_old_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_whole(&path, b"old").unwrap();
        let unfinished = AtomicFile::new(&path).unwrap();
        fs::write(unfinished.path(), "new").unwrap();
        drop(unfinished);
        assert!(write_whole(folder.path(), b"x").is_err(), "a folder was replaced");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(!temporary_name(folder.path()).exists());
    }

    #[test]
    #[cfg(unix)]
    fn links_stay_and_what_they_lead_to_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("deep")).unwrap();
        std::os::unix::fs::symlink("deep/file", at("link")).unwrap();
        std::os::unix::fs::symlink("../link", at("deep/link")).unwrap();
        for text in ["new", "newer"] {
            write_whole(&at("deep/link"), text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(at("deep/file")).unwrap(), text);
        }
        assert!(at("link").is_symlink() && at("deep/link").is_symlink());
        std::os::unix::fs::symlink("round", at("round")).unwrap();
        assert!(write_whole(&at("round"), b"x").is_err());
    }

    #[test]
    #[cfg(unix)]
    fn pipes_are_written_to_and_not_replaced() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert!(read_small(&pipe).is_err() && AtomicFile::new(&pipe).is_err());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_whole(&pipe, b"rows").unwrap();
        assert_eq!(reader.join().unwrap(), b"rows");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    }
}
