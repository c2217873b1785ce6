//! Zip archives as `torch.save` writes them: stored entries, 64-bit sizes.
//!
//! Only what PyTorch needs, so that every length is checked here: no compression, no encryption,
//! no spanning. Entries must lie apart from each other and before the directory, so all of them
//! together are never larger than the file.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use super::error::{CheckpointError, Result};

const END: u32 = 0x0605_4B50;
const END_LENGTH: usize = 22;
const END_64_LOCATOR: u32 = 0x0706_4B50;
const END_64_LOCATOR_LENGTH: usize = 20;
const END_64: u32 = 0x0606_4B50;
const END_64_LENGTH: usize = 56;
const DIRECTORY_ENTRY: u32 = 0x0201_4B50;
const DIRECTORY_ENTRY_LENGTH: usize = 46;
const LOCAL_HEADER: u32 = 0x0403_4B50;
const LOCAL_HEADER_LENGTH: usize = 30;
const EXTRA_64: u16 = 1;
const ENCRYPTED: u16 = 1;

/// Whisper large has 1 260 tensors, at about 90 bytes each.
const MAX_DIRECTORY_BYTES: u64 = 64 << 20;

/// The entries of an archive, by name.
#[derive(Debug)]
pub(super) struct Archive<R> {
    source: R,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Of the local header first, of the content once that header is read.
    start: u64,
    size: u64,
    crc32: u32,
}

impl<R: Read + Seek> Archive<R> {
    /// Reads the directory of an archive of `length` bytes.
    pub(super) fn open(mut source: R, length: u64) -> Result<Self> {
        let (start, size) = find_directory(&mut source, length)?;
        let fits = start.checked_add(size).is_some_and(|end| end <= length);
        if !fits {
            return Err(CheckpointError::damaged("the zip directory lies outside of the file"));
        }
        if size > MAX_DIRECTORY_BYTES {
            return Err(CheckpointError::limit(format!("a zip directory of {size} bytes")));
        }
        let directory = read_at(&mut source, start, size as usize)?;
        let mut entries = parse_directory(&directory)?;
        for (name, entry) in &mut entries {
            entry.start = content_start(&mut source, name, entry.start)?;
        }
        check_apart(&entries, start)?;
        Ok(Self { source, entries })
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
        let content = read_at(&mut self.source, entry.start, entry.size as usize)?;
        if crc32fast::hash(&content) != entry.crc32 {
            return Err(CheckpointError::damaged(format!("the checksum of `{name}` is wrong")));
        }
        Ok(content)
    }
}

/// Start and size of the directory.
fn find_directory(source: &mut (impl Read + Seek), length: u64) -> Result<(u64, u64)> {
    let tail_length = length.min((END_LENGTH + usize::from(u16::MAX)) as u64);
    let tail_start = length - tail_length;
    let tail = read_at(source, tail_start, tail_length as usize)?;
    let end = (0..=tail.len().saturating_sub(END_LENGTH)).rev().find(|at| {
        let comment = tail.get(at + 20..).map(|rest| u16_at(rest, 0).unwrap_or(0));
        u32_at(&tail, *at) == Some(END)
            && comment.is_some_and(|comment| at + END_LENGTH + usize::from(comment) == tail.len())
    });
    let Some(end) = end else {
        return Err(CheckpointError::damaged("the zip directory is missing, so the file is cut"));
    };
    let short = || Some((u32_at(&tail, end + 16)?.into(), u32_at(&tail, end + 12)?.into()));
    let end_start = tail_start + end as u64;
    let Some(locator_start) = end_start.checked_sub(END_64_LOCATOR_LENGTH as u64) else {
        return short().ok_or_else(cut);
    };
    let locator = read_at(source, locator_start, END_64_LOCATOR_LENGTH)?;
    if u32_at(&locator, 0) != Some(END_64_LOCATOR) {
        return short().ok_or_else(cut);
    }
    let end_64_start = u64_at(&locator, 8).ok_or_else(cut)?;
    if end_64_start > locator_start.saturating_sub(END_64_LENGTH as u64) {
        return Err(CheckpointError::damaged("the 64-bit zip end record lies outside of the file"));
    }
    let end_64 = read_at(source, end_64_start, END_64_LENGTH)?;
    if u32_at(&end_64, 0) != Some(END_64) {
        return Err(CheckpointError::damaged("the 64-bit zip end record is missing"));
    }
    u64_at(&end_64, 48).zip(u64_at(&end_64, 40)).ok_or_else(cut)
}

fn parse_directory(directory: &[u8]) -> Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    let mut rest = directory;
    while !rest.is_empty() {
        let (name, entry, used) = parse_entry(rest)?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(CheckpointError::damaged(format!("two zip entries are called `{name}`")));
        }
        rest = &rest[used..];
    }
    Ok(entries)
}

/// One entry, and the length of its record.
fn parse_entry(record: &[u8]) -> Result<(String, Entry, usize)> {
    if u32_at(record, 0) != Some(DIRECTORY_ENTRY) || record.len() < DIRECTORY_ENTRY_LENGTH {
        return Err(CheckpointError::damaged("a record of the zip directory is not one"));
    }
    let half = |at| u16_at(record, at).ok_or_else(cut);
    let word = |at| u32_at(record, at).ok_or_else(cut);
    let name_end = DIRECTORY_ENTRY_LENGTH + usize::from(half(28)?);
    let extra_end = name_end + usize::from(half(30)?);
    let used = extra_end + usize::from(half(32)?);
    let name = record.get(DIRECTORY_ENTRY_LENGTH..name_end).ok_or_else(cut)?;
    let name = String::from_utf8_lossy(name).into_owned();
    let extra = record.get(name_end..extra_end).ok_or_else(cut)?;
    if used > record.len() {
        return Err(cut());
    }
    if half(10)? != 0 || half(8)? & ENCRYPTED != 0 {
        let what = format!("the zip entry `{name}` is compressed or encrypted");
        return Err(CheckpointError::unsupported(what));
    }
    let mut wide = wide_fields(extra).chunks_exact(8);
    let mut widen = |narrow: u32| match narrow {
        u32::MAX => wide.next().and_then(|bytes| u64_at(bytes, 0)).ok_or_else(cut),
        narrow => Ok(u64::from(narrow)),
    };
    // The order in which the 64-bit fields stand: uncompressed, compressed, offset.
    let (size, stored, start) = (widen(word(24)?)?, widen(word(20)?)?, widen(word(42)?)?);
    if size != stored {
        return Err(CheckpointError::damaged(format!("the zip entry `{name}` has two sizes")));
    }
    Ok((name, Entry { start, size, crc32: word(16)? }, used))
}

/// The 64-bit sizes among the extra fields; empty when there are none.
fn wide_fields(mut extra: &[u8]) -> &[u8] {
    while let (Some(kind), Some(length)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some(field) = extra.get(4..4 + usize::from(length)) else { break };
        if kind == EXTRA_64 {
            return field;
        }
        extra = &extra[4 + usize::from(length)..];
    }
    &[]
}

fn content_start(source: &mut (impl Read + Seek), name: &str, header: u64) -> Result<u64> {
    let bytes = read_at(source, header, LOCAL_HEADER_LENGTH)?;
    if u32_at(&bytes, 0) != Some(LOCAL_HEADER) {
        return Err(CheckpointError::damaged(format!("the zip entry `{name}` has no header")));
    }
    let name_length = u16_at(&bytes, 26).ok_or_else(cut)?;
    let extra_length = u16_at(&bytes, 28).ok_or_else(cut)?;
    let skipped = LOCAL_HEADER_LENGTH as u64 + u64::from(name_length) + u64::from(extra_length);
    header.checked_add(skipped).ok_or_else(cut)
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

fn cut() -> CheckpointError {
    CheckpointError::damaged("it ends too early, or a length in it is wrong")
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

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
        let length = bytes.len() as u64;
        Archive::open(Cursor::new(bytes), length)
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
        says("called `a`", &|bytes| bytes[SECOND + DIRECTORY_ENTRY_LENGTH] = b'a');
        says("outside", &|bytes| {
            let end = bytes.len();
            bytes[end - 10..end - 6].fill(0xFF);
        });
        says("missing", &|bytes| bytes.truncate(START));
    }
}
