//! Files that are read within a bound, and written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Error, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Most bytes of a configuration, a table, a tokenizer or another file that is read at once: the
/// largest tokenizers have 20 MB.
pub const MAX_SMALL_BYTES: u64 = 64 << 20;

/// Links that are followed to the file that is written.
const MAX_LINKS: usize = 40;

/// Reads a configuration, a table or another small file.
///
/// # Errors
/// When there is none, it is no file (a folder, a device, a pipe), or it has more than
/// [`MAX_SMALL_BYTES`].
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(path, MAX_SMALL_BYTES)
}

/// The same of a text.
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

/// Opens a file to read it, and nothing that has no end or waits for somebody to write.
///
/// # Errors
/// When there is none, or it is a folder, a device or a pipe.
pub fn open_file(path: &Path) -> io::Result<File> {
    let found = fs::metadata(path)?; // looked at first: to open a pipe is to wait
    if found.is_dir() {
        return Err(Error::new(ErrorKind::IsADirectory, "it is a folder, not a file"));
    }
    if !found.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is a device or a pipe, not a file"));
    }
    File::open(path)
}

/// Writes a file under another name, sees to it that it is on the disk, and renames it.
///
/// A link stays, and the file that it leads to is written; a device or a pipe is written to.
///
/// # Errors
/// When the folder is not there or the disk does not take it; the file that was there, if any, then
/// stays.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let Place::File(place) = place_of(path)? else {
        return OpenOptions::new().append(true).open(path)?.write_all(bytes);
    };
    let partial = Partial { partial: part_of(&place), place };
    File::create(partial.path())?.write_all(bytes)?;
    partial.finish()
}

/// A file in the making, under another name beside its place; taken away when it is dropped
/// unfinished.
///
/// The other name is fixed, so that what a killed process left is written over: two processes must
/// not write one file at the same time.
#[derive(Debug)]
pub struct Partial {
    partial: PathBuf,
    place: PathBuf,
}

impl Partial {
    /// For the file at `place`, or, when that is a link, the one that it leads to.
    ///
    /// # Errors
    /// When that is a device or a pipe: nothing can take its place.
    pub fn beside(place: &Path) -> io::Result<Self> {
        match place_of(place)? {
            Place::File(place) => Ok(Self { partial: part_of(&place), place }),
            Place::Other => Err(not_replaceable()),
        }
    }

    /// Under a name of the caller's choice, in the same folder.
    #[cfg(feature = "hub")]
    pub(crate) fn named(partial: PathBuf, place: &Path) -> Self {
        Self { partial, place: place.to_owned() }
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Sees to it that it is on the disk, and gives it its name.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn finish(self) -> io::Result<()> {
        OpenOptions::new().append(true).open(&self.partial)?.sync_all()?;
        fs::rename(&self.partial, &self.place)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After `finish` there is nothing to delete; otherwise the first error is the one to tell.
        let _ = fs::remove_file(&self.partial);
    }
}

/// What is written where a path leads to.
enum Place {
    /// A file, or nothing yet.
    File(PathBuf),
    /// A device, a pipe, or what a process has open (`/dev/stdout`).
    Other,
}

fn place_of(path: &Path) -> io::Result<Place> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return Ok(Place::Other);
    }
    let mut place = path.to_owned();
    for _ in 0..MAX_LINKS {
        if place.starts_with("/proc") {
            return Ok(Place::Other);
        }
        if !fs::symlink_metadata(&place).is_ok_and(|found| found.is_symlink()) {
            return Ok(Place::File(place));
        }
        let target = fs::read_link(&place)?;
        place = place.parent().unwrap_or(Path::new("")).join(target);
    }
    Err(not_replaceable())
}

fn not_replaceable() -> Error {
    Error::new(ErrorKind::InvalidInput, "it is no file that can be replaced")
}

fn part_of(place: &Path) -> PathBuf {
    let mut partial = place.as_os_str().to_owned();
    partial.push(".part");
    partial.into()
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
        let partial = Partial::beside(&path).unwrap();
        fs::write(partial.path(), "new").unwrap();
        drop(partial);
        assert!(write_whole(folder.path(), b"x").is_err(), "a folder was replaced");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(!part_of(folder.path()).exists());
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
        assert!(read_small(&pipe).is_err() && Partial::beside(&pipe).is_err());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_whole(&pipe, b"rows").unwrap();
        assert_eq!(reader.join().unwrap(), b"rows");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    }
}
