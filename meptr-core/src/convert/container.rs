//! The two file formats of `torch.save`: a pickle, and the bytes of the storages it names.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use super::error::{CheckpointError, Result};
use super::pickle::{self, MAX_PICKLE_BYTES, Pickle, StorageRef, Trust, Value};
use super::zip::{Archive, read_at};

/// Written first by `torch.save` before PyTorch 1.6.
const LEGACY_MAGIC: i128 = 0x1950_A86A_20F9_469C_FC6C;
const LEGACY_PROTOCOL: i128 = 1001;

/// An opened checkpoint file.
#[derive(Debug)]
pub(super) struct Container {
    /// Values of the pickle.
    pub(super) pickle: Pickle,
    /// Bytes of the whole file.
    pub(super) length: u64,
    storages: Storages,
}

#[derive(Debug)]
enum Storages {
    /// Since PyTorch 1.6: an archive with an entry per storage.
    Zip { archive: Archive<File>, folder: String },
    /// Before: one after the other. By key, the start and the length in bytes.
    Legacy { file: File, places: BTreeMap<String, (u64, u64)> },
}

impl Container {
    /// Opens a file of either format.
    pub(super) fn open(path: &Path, trust: Trust) -> Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        match read_at(&mut file, 0, length.min(4) as usize)?.as_slice() {
            b"PK\x03\x04" => Self::open_zip(file, length, trust),
            [0x80, ..] => Self::open_legacy(file, length, trust),
            _ => Err(CheckpointError::unsupported("neither a zip archive nor a pickle")),
        }
    }

    fn open_zip(file: File, length: u64, trust: Trust) -> Result<Self> {
        let mut archive = Archive::open(file)?;
        let folders: Vec<String> = archive
            .names()
            .filter_map(|name| name.strip_suffix("data.pkl").map(str::to_owned))
            .collect();
        let [folder] = folders.as_slice() else {
            let what = "a zip archive without exactly one `data.pkl`";
            return Err(CheckpointError::unsupported(what));
        };
        let folder = folder.clone();
        let order = format!("{folder}byteorder");
        if archive.size(&order).is_some() && archive.read(&order)? != b"little" {
            return Err(CheckpointError::unsupported("numbers that are not little-endian"));
        }
        let name = format!("{folder}data.pkl");
        if archive.size(&name).is_none_or(|size| size > MAX_PICKLE_BYTES) {
            return Err(CheckpointError::limit(format!("a pickle above {MAX_PICKLE_BYTES} bytes")));
        }
        let (pickle, _) = pickle::read(&archive.read(&name)?, trust)?;
        Ok(Self { pickle, length, storages: Storages::Zip { archive, folder } })
    }

    /// Five pickles (magic, version, system, content, keys), then the storages.
    fn open_legacy(mut file: File, length: u64, trust: Trust) -> Result<Self> {
        let head = read_at(&mut file, 0, length.min(MAX_PICKLE_BYTES) as usize)?;
        let mut at = 0;
        let mut next = || {
            let (pickle, used) = pickle::read(&head[at..], trust)?;
            at += used;
            Ok::<_, CheckpointError>(pickle)
        };
        for expected in [LEGACY_MAGIC, LEGACY_PROTOCOL] {
            let found = next()?;
            if *found.get(found.root()) != Value::Int(expected) {
                return Err(CheckpointError::unsupported(
                    "a pickle that `torch.save` did not write",
                ));
            }
        }
        let system = next()?;
        let little = system.item(system.root(), "little_endian").map(|id| system.get(id));
        if little != Some(&Value::Bool(true)) {
            return Err(CheckpointError::unsupported("numbers that are not little-endian"));
        }
        let (content, keys) = (next()?, next()?);
        let places = legacy_places(&mut file, length, at as u64, &content, &keys)?;
        Ok(Self { pickle: content, length, storages: Storages::Legacy { file, places } })
    }

    /// The bytes of a storage, whole.
    pub(super) fn storage_bytes(&mut self, storage: &StorageRef) -> Result<Vec<u8>> {
        match &mut self.storages {
            Storages::Zip { archive, folder } => {
                let bytes = archive.read(&format!("{folder}data/{}", storage.key))?;
                let stated = storage.length.checked_mul(storage.element.size() as u64);
                if stated != Some(bytes.len() as u64) {
                    let what = format!("the storage `{}` has a wrong length", storage.key);
                    return Err(CheckpointError::damaged(what));
                }
                Ok(bytes)
            }
            Storages::Legacy { file, places } => {
                let place = places.get(&storage.key).copied();
                let (start, length) = place.ok_or_else(|| {
                    CheckpointError::damaged(format!("the storage `{}` is missing", storage.key))
                })?;
                read_at(file, start, length as usize)
            }
        }
    }
}

/// Places of the storages: each is a count of elements, i64, and the elements.
fn legacy_places(
    file: &mut File,
    length: u64,
    mut at: u64,
    content: &Pickle,
    keys: &Pickle,
) -> Result<BTreeMap<String, (u64, u64)>> {
    let sizes: BTreeMap<&str, u64> = content
        .storages()
        .map(|storage| (storage.key.as_str(), storage.element.size() as u64))
        .collect();
    let Value::List(list) = keys.get(keys.root()) else {
        return Err(CheckpointError::damaged("the list of storages is missing"));
    };
    let mut places = BTreeMap::new();
    for key in list {
        let key = keys.text(*key).unwrap_or_default();
        let size = sizes.get(key).ok_or_else(|| {
            CheckpointError::damaged("a storage that no tensor uses, so its length is unknown")
        })?;
        let count = read_at(file, at, 8)?;
        let count = count.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let bytes = count.checked_mul(*size).filter(|bytes| *bytes <= length - at - 8);
        let bytes = bytes.ok_or_else(|| CheckpointError::damaged("the file is cut"))?;
        if places.insert(key.to_owned(), (at + 8, bytes)).is_some() {
            return Err(CheckpointError::damaged(format!("there are two storages `{key}`")));
        }
        at += 8 + bytes;
    }
    Ok(places)
}
