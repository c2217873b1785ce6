//! Zip archives as `torch.save` writes them: stored entries, 64-bit sizes.
//!
//! The `zip` crate reads the directory and the entries. What it allows and PyTorch never writes is
//! refused here: compression, encryption, entries that overlap each other or the directory, two
//! entries of one name. All entries together are thus never larger than the file.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::sync::Arc;

use zip::read::{ArchiveOffset, Config, ZipArchiveMetadata, ZipFile, ZipFileEntry};
use zip::result::{ZipError, ZipResult};
use zip::{CompressionMethod, ZipArchive, ZipReadOptions};

use super::error::{CheckpointError, Result};

/// Whisper large has 1 260 tensors, each an entry.
const MAX_ENTRIES: usize = 100_000;

/// Stands for a size in a 64-bit field.
const SIZE_IS_ELSEWHERE: u32 = u32::MAX;
const END_LENGTH: u64 = 22;
const END_64_LOCATOR: u32 = 0x0706_4B50;
const END_64_LOCATOR_LENGTH: u64 = 20;

/// The entries of an archive, by name.
#[derive(Debug)]
pub(super) struct Archive<R> {
    source: R,
    directory: Arc<ZipArchiveMetadata>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    index: usize,
    /// First byte of the content.
    start: u64,
    size: u64,
}

impl<R: Read + Seek> Archive<R> {
    /// Reads the directory of an archive.
    pub(super) fn open(source: R) -> Result<Self> {
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = ZipArchive::with_config(config, source).map_err(bad_directory)?;
        let directory = zip.metadata();
        if directory.len() > MAX_ENTRIES {
            let what = format!("a zip archive of {} entries", directory.len());
            return Err(CheckpointError::limit(what));
        }
        if directory.has_duplicate_names() {
            return Err(CheckpointError::damaged("two zip entries are called the same"));
        }
        let (start, comment) = (zip.central_directory_start(), zip.comment().len() as u64);
        let mut source = zip.into_inner();
        check_directory(&mut source, start, comment)?;
        let mut entries = BTreeMap::new();
        for index in 0..directory.len() {
            let listed = directory.entry(index).map_err(bad_directory)?;
            let (name, entry) = place_of(listed, index, &mut source)?;
            if entries.insert(name.clone(), entry).is_some() {
                let what = format!("two zip entries are called `{name}`");
                return Err(CheckpointError::damaged(what));
            }
        }
        check_apart(&entries, start)?;
        Ok(Self { source, directory, entries })
    }

    /// The names of all entries, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Length of an entry.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        Some(self.entries.get(name)?.size)
    }

    /// The content of an entry, its checksum verified.
    pub(super) fn read(&mut self, name: &str) -> Result<Vec<u8>> {
        let entry = self.entries.get(name).ok_or_else(|| {
            CheckpointError::damaged(format!("the archive has no entry `{name}`"))
        })?;
        let listed = self.directory.entry(entry.index);
        let mut file = listed.and_then(|it| open(it, &mut self.source)).map_err(bad_entry)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(|source| match source.kind() {
            ErrorKind::InvalidData => {
                CheckpointError::damaged(format!("the checksum of `{name}` is wrong"))
            }
            _ => source.into(),
        })?;
        if content.len() as u64 != entry.size {
            return Err(cut());
        }
        Ok(content)
    }
}

fn open<'a, R: Read + Seek>(
    entry: ZipFileEntry<'a>,
    source: &'a mut R,
) -> ZipResult<ZipFile<'a, R>> {
    entry.with_reader(source, ZipReadOptions::default())
}

/// Name and place of an entry that is neither compressed nor encrypted.
fn place_of<R: Read + Seek>(
    listed: ZipFileEntry<'_>,
    index: usize,
    source: &mut R,
) -> Result<(String, Entry)> {
    let name = String::from_utf8_lossy(listed.name_raw()).into_owned();
    if listed.compression() != CompressionMethod::Stored || listed.encrypted() {
        let what = format!("the zip entry `{name}` is compressed or encrypted");
        return Err(CheckpointError::unsupported(what));
    }
    let (size, stored) = (listed.size(), listed.compressed_size());
    if [size, stored].contains(&SIZE_IS_ELSEWHERE.into()) {
        return Err(cut());
    }
    if size != stored {
        return Err(CheckpointError::damaged(format!("the zip entry `{name}` has two sizes")));
    }
    let start = open(listed, source).ok().and_then(|content| content.data_start());
    let start = start
        .ok_or_else(|| CheckpointError::damaged(format!("the zip entry `{name}` has no header")))?;
    Ok((name, Entry { index, start, size }))
}

/// Fails unless the directory ends before its end record, which stands before the comment.
fn check_directory(source: &mut (impl Read + Seek), start: u64, comment: u64) -> Result<()> {
    let length = source.seek(SeekFrom::End(0))?;
    let end = length.checked_sub(END_LENGTH + comment).ok_or_else(cut)?;
    let size = u32_at(source, end + 12)?;
    let fits = if size == SIZE_IS_ELSEWHERE {
        let locator = end.checked_sub(END_64_LOCATOR_LENGTH).ok_or_else(cut)?;
        u32_at(source, locator)? == END_64_LOCATOR
    } else {
        start.checked_add(size.into()).is_some_and(|directory_end| directory_end <= end)
    };
    if fits {
        return Ok(());
    }
    Err(CheckpointError::damaged("the zip directory lies outside of the file"))
}

fn u32_at(source: &mut (impl Read + Seek), at: u64) -> Result<u32> {
    let bytes = read_at(source, at, 4)?;
    bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)).ok_or_else(cut)
}

fn check_apart(entries: &BTreeMap<String, Entry>, directory_start: u64) -> Result<()> {
    let mut ranges = entries
        .values()
        .map(|entry| Ok((entry.start, entry.start.checked_add(entry.size).ok_or_else(cut)?)))
        .collect::<Result<Vec<_>>>()?;
    ranges.sort_unstable();
    let starts = ranges.iter().skip(1).map(|range| range.0).chain([directory_start]);
    if ranges.iter().zip(starts).any(|(range, next_start)| range.1 > next_start) {
        return Err(CheckpointError::damaged("zip entries overlap"));
    }
    Ok(())
}

/// Reads `length` bytes; callers have bounded it by the length of the file or a constant.
pub(super) fn read_at(
    source: &mut (impl Read + Seek),
    start: u64,
    length: usize,
) -> Result<Vec<u8>> {
    source.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    source.take(length as u64).read_to_end(&mut bytes)?; // grows with what is there
    if bytes.len() < length {
        return Err(cut());
    }
    Ok(bytes)
}

fn bad_directory(error: ZipError) -> CheckpointError {
    match error {
        ZipError::Io(source) if source.kind() != ErrorKind::UnexpectedEof => source.into(),
        other => CheckpointError::damaged(format!("the zip directory is missing or cut ({other})")),
    }
}

fn bad_entry(error: ZipError) -> CheckpointError {
    match error {
        ZipError::Io(source) if source.kind() != ErrorKind::UnexpectedEof => source.into(),
        ZipError::Io(_) => cut(),
        other => CheckpointError::damaged(other),
    }
}

fn cut() -> CheckpointError {
    CheckpointError::damaged("it ends too early, or a length in it is wrong")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const END: u32 = 0x0605_4B50;
    const DIRECTORY_ENTRY: u32 = 0x0201_4B50;
    const DIRECTORY_ENTRY_LENGTH: usize = 46;
    const LOCAL_HEADER: u32 = 0x0403_4B50;
    const LOCAL_HEADER_LENGTH: usize = 30;
    const FIRST_LENGTH: usize = LOCAL_HEADER_LENGTH + 1 + 5;
    const START: usize = FIRST_LENGTH + LOCAL_HEADER_LENGTH + 1 + 6;
    const SECOND: usize = START + DIRECTORY_ENTRY_LENGTH + 1;

    /// An archive of `a` = `first` and `b` = `second`, with the directory at `START`.
    fn archive() -> Vec<u8> {
        let (mut bytes, mut directory) = (Vec::new(), Vec::new());
        for (name, content) in [("a", "first"), ("b", "second")] {
            let size = (content.len() as u32).to_le_bytes();
            let checksum = crc32fast::hash(content.as_bytes()).to_le_bytes();
            let shared = [&[0; 10][..], &checksum, &size, &size, &[1, 0, 0, 0]].concat();
            let offset = (bytes.len() as u32).to_le_bytes();
            for part in [&DIRECTORY_ENTRY.to_le_bytes()[..], &[0, 0], &shared, &[0; 10], &offset] {
                directory.extend_from_slice(part);
            }
            directory.extend_from_slice(name.as_bytes());
            for part in [&LOCAL_HEADER.to_le_bytes()[..], &shared, name.as_bytes()] {
                bytes.extend_from_slice(part);
            }
            bytes.extend_from_slice(content.as_bytes());
        }
        assert_eq!(bytes.len(), START);
        let (start, size) = (START as u32, directory.len() as u32);
        bytes.extend_from_slice(&directory);
        let counts = [0, 0, 0, 0, 2, 0, 2, 0];
        for part in [&END.to_le_bytes()[..], &counts, &size.to_le_bytes(), &start.to_le_bytes()] {
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&[0, 0]);
        bytes
    }

    fn open(bytes: Vec<u8>) -> Result<Archive<Cursor<Vec<u8>>>> {
        Archive::open(Cursor::new(bytes))
    }

    fn problem(change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = archive();
        change(&mut bytes);
        let read = open(bytes).and_then(|mut archive| archive.read("b"));
        read.expect_err("the change was not noticed").to_string()
    }

    #[test]
    fn entries_are_read_whole() {
        let mut archive = open(archive()).unwrap();
        assert_eq!(archive.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(archive.read("a").unwrap(), b"first");
        assert_eq!(archive.read("b").unwrap(), b"second");
        assert!(archive.read("c").is_err());
    }

    #[test]
    fn lies_are_noticed() {
        let says = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let found = problem(change);
            assert!(found.contains(what), "{found} does not say `{what}`");
        };
        says("overlap", &|bytes| bytes[SECOND + 42] = 0); // both entries at the first header
        says("two sizes", &|bytes| bytes[SECOND + 20] = 7);
        says("overlap", &|bytes| (bytes[SECOND + 20], bytes[SECOND + 24]) = (7, 7));
        says("overlap", &|bytes| bytes[START + 20..START + 28].fill(0x7F));
        says("too early", &|bytes| bytes[SECOND + 20..SECOND + 28].fill(0xFF)); // 64-bit, absent
        says("compressed", &|bytes| bytes[SECOND + 10] = 8);
        says("encrypted", &|bytes| bytes[SECOND + 8] = 1);
        says("checksum", &|bytes| bytes[START - 1] ^= 1);
        says("no header", &|bytes| bytes[FIRST_LENGTH] = 0);
        says("called the same", &|bytes| bytes[SECOND + DIRECTORY_ENTRY_LENGTH] = b'a');
        says("outside", &|bytes| {
            let end = bytes.len();
            bytes[end - 10..end - 6].fill(0xFF);
        });
        says("missing", &|bytes| bytes.truncate(START));
    }
}
