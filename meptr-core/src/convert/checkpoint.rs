//! The tensors of a PyTorch file, whatever its layout.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use candle::{Device, Tensor};

use super::container::Container;
use super::error::{CheckpointError, Result};
use super::json::to_json;
use super::pickle::{Id, Pickle, StorageRef, TensorRef, Trust, Value};
use super::{shards, storage};
use crate::Error;
use crate::files::open_file;

/// Tensors may share storage (tied embeddings), but not without end. In bytes of memory to bytes of
/// the file.
const MAX_EXPANSION: u64 = 4;
const MAX_TENSORS: usize = 100_000;
/// Attributes of modules that are looked at; modules may share what holds them. A module has about
/// twenty.
const MAX_ATTRIBUTES: usize = 100 * MAX_TENSORS;
const MAX_NAME: usize = 512;
const MAX_DEPTH: usize = 64;

/// Put before every name by `DataParallel` and `torch.compile`.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// Content of a PyTorch file.
#[derive(Debug)]
pub struct Checkpoint {
    /// The tensors by name, row-major, in the data type of the file (bool as u8, i8 as i64).
    pub tensors: BTreeMap<String, Tensor>,
    /// Value under `config` (for a model object: its `yaml`, `names` and `train_args`); values
    /// that JSON does not know are null.
    pub config: Option<serde_json::Value>,
    /// Layout of the file.
    pub layout: Layout,
}

/// Place of the table of tensors in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The file is the table.
    Bare,
    /// The value of `model_state_dict`.
    ModelStateDict,
    /// The value of `state_dict`.
    StateDict,
    /// The value of `model`.
    Model,
    /// In the attributes of a model object.
    ModelObject,
    /// No PyTorch file, but safetensors already.
    Safetensors,
    /// In several files, of which the file is the index.
    Shards,
}

impl Checkpoint {
    /// Reads a file that `torch.save` wrote, in the zip format or the older one; or a safetensors
    /// file, so that such a file can be stored in another data type; or the index
    /// (`*.index.json`) of such files.
    ///
    /// The pickle within is read as data: no class it names is imported, no function called. Only
    /// the parts that hold the model's tensors are read; the state of an optimiser is not.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], with the reason as its source.
    pub fn read(path: &Path, trust: Trust) -> crate::Result<Self> {
        Self::read_any(path, trust)
            .map_err(|source| Error::Checkpoint { path: path.to_owned(), source })
    }

    fn read_any(path: &Path, trust: Trust) -> Result<Self> {
        if shards::is_index(path) {
            let tensors = shards::read(path, |part| Ok(Self::read_any(part, trust)?.tensors))?;
            return Ok(Self { tensors, config: None, layout: Layout::Shards });
        }
        if !is_safetensors(path)? {
            return Self::of(Container::open(path, trust)?);
        }
        let tensors = candle::safetensors::load(path, &Device::Cpu)?.into_iter().collect();
        Ok(Self { tensors, config: None, layout: Layout::Safetensors })
    }

    fn of(mut container: Container) -> Result<Self> {
        let (layout, place) = find_table(&container.pickle);
        let table = match layout {
            Layout::ModelObject => module_tensors(&container.pickle, place)?,
            _ => dict_tensors(&container.pickle, place)?,
        };
        if table.is_empty() {
            return Err(CheckpointError::unsupported("it has no table of tensors by name"));
        }
        let config = config(&container.pickle, layout, place)?;
        let tensors = load(&mut container, &table)?;
        Ok(Self { tensors: without_wrappers(tensors), config, layout })
    }
}

/// A safetensors file starts with the length of its header, which is JSON.
fn is_safetensors(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    open_file(path)?.take(9).read_to_end(&mut start)?;
    Ok(start.get(8) == Some(&b'{') && !start.starts_with(b"PK"))
}

fn find_table(pickle: &Pickle) -> (Layout, Id) {
    let root = pickle.root();
    let is_dict = |id: &Id| matches!(pickle.get(*id), Value::Dict(_));
    let is_object = |id: &Id| matches!(pickle.get(*id), Value::Object { .. });
    if is_object(&root) {
        return (Layout::ModelObject, root);
    }
    // Ultralytics keeps an averaged copy, `ema`, which is the one it uses.
    let object = |key| pickle.item(root, key).filter(is_object).map(|id| (Layout::ModelObject, id));
    let table = |layout, key| pickle.item(root, key).filter(is_dict).map(|id| (layout, id));
    table(Layout::ModelStateDict, "model_state_dict")
        .or_else(|| table(Layout::StateDict, "state_dict"))
        .or_else(|| object("ema"))
        .or_else(|| object("model"))
        .or_else(|| table(Layout::Model, "model"))
        .unwrap_or((Layout::Bare, root))
}

/// The tensors directly in a dictionary.
fn dict_tensors(pickle: &Pickle, table: Id) -> Result<BTreeMap<String, Id>> {
    let Value::Dict(items) = pickle.get(table) else { return Ok(BTreeMap::new()) };
    let mut found = BTreeMap::new();
    for (name, value) in items {
        if !matches!(pickle.get(*value), Value::Tensor(_)) {
            continue;
        }
        let Some(name) = pickle.text(*name) else {
            return Err(CheckpointError::damaged("a tensor whose name is no text"));
        };
        insert(&mut found, name.to_owned(), *value)?;
    }
    Ok(found)
}

/// The tensors that `state_dict()` of a module would give, from the modules' attributes.
fn module_tensors(pickle: &Pickle, model: Id) -> Result<BTreeMap<String, Id>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![(String::new(), model, 0)];
    let (mut visited, mut attributes) = (0, 0);
    while let Some((prefix, module, depth)) = waiting.pop() {
        visited += 1;
        if depth > MAX_DEPTH || visited > MAX_TENSORS {
            return Err(CheckpointError::limit("too many modules within each other"));
        }
        let Value::Object { state: Some(state), .. } = pickle.get(module) else { continue };
        let group = |name| pickle.item(*state, name).map(|id| pickle.get(id));
        let [parameters, buffers, modules] = ["_parameters", "_buffers", "_modules"].map(group);
        let not_kept = group("_non_persistent_buffers_set");
        let groups = [Some(pickle.get(*state)), parameters, buffers, modules];
        attributes += groups.into_iter().map(|group| items(group).len()).sum::<usize>();
        if attributes > MAX_ATTRIBUTES {
            return Err(CheckpointError::limit("too many attributes of modules"));
        }
        for (key, value) in members(pickle, parameters)
            .chain(members(pickle, buffers))
            .filter(|(_, value)| matches!(pickle.get(*value), Value::Tensor(_)))
        {
            if !is_listed(pickle, not_kept, key) {
                insert(&mut found, joined(&prefix, key)?, value)?;
            }
        }
        for (key, value) in members(pickle, modules) {
            waiting.push((joined(&prefix, key)? + ".", value, depth + 1));
            if waiting.len() > MAX_TENSORS {
                return Err(CheckpointError::limit("too many modules"));
            }
        }
    }
    Ok(found)
}

fn members<'a>(
    pickle: &'a Pickle,
    group: Option<&'a Value>,
) -> impl Iterator<Item = (&'a str, Id)> {
    items(group).iter().filter_map(|(key, value)| Some((pickle.text(*key)?, *value)))
}

fn items(group: Option<&Value>) -> &[(Id, Id)] {
    match group {
        Some(Value::Dict(items)) => items,
        _ => &[],
    }
}

fn is_listed(pickle: &Pickle, list: Option<&Value>, name: &str) -> bool {
    let Some(Value::List(items)) = list else { return false };
    items.iter().take(MAX_DEPTH).any(|item| pickle.text(*item) == Some(name))
}

fn joined(prefix: &str, name: &str) -> Result<String> {
    if prefix.len() + name.len() > MAX_NAME {
        return Err(CheckpointError::limit(format!("a name of more than {MAX_NAME} bytes")));
    }
    Ok(format!("{prefix}{name}"))
}

fn insert(found: &mut BTreeMap<String, Id>, name: String, tensor: Id) -> Result<()> {
    if name.len() > MAX_NAME || found.len() >= MAX_TENSORS {
        return Err(CheckpointError::limit("too many tensors, or too long a name"));
    }
    found.insert(name, tensor);
    Ok(())
}

fn config(pickle: &Pickle, layout: Layout, place: Id) -> Result<Option<serde_json::Value>> {
    let root = pickle.root();
    if layout != Layout::ModelObject {
        return pickle.item(root, "config").map(|id| to_json(pickle, id)).transpose();
    }
    let Value::Object { state: Some(state), .. } = pickle.get(place) else { return Ok(None) };
    let attributes = [(*state, "yaml"), (*state, "names"), (root, "train_args")];
    let mut config = serde_json::Map::new();
    for (owner, key) in attributes {
        if let Some(id) = pickle.item(owner, key) {
            config.insert(key.to_owned(), to_json(pickle, id)?);
        }
    }
    Ok(Some(config.into()))
}

/// Loads the tensors, reading each storage once.
fn load(
    container: &mut Container,
    table: &BTreeMap<String, Id>,
) -> Result<BTreeMap<String, Tensor>> {
    let mut by_storage: BTreeMap<String, Vec<(&str, TensorRef, StorageRef)>> = BTreeMap::new();
    let limit = container.length.saturating_mul(MAX_EXPANSION);
    let mut total = 0u64;
    for (name, id) in table {
        let Value::Tensor(view) = container.pickle.get(*id) else { continue };
        let Value::Storage(storage) = container.pickle.get(view.storage) else { continue };
        total = total.saturating_add(storage::checked_bytes(view, storage)?);
        if total > limit {
            let what = format!("tensors of more than {MAX_EXPANSION} times the file's length");
            return Err(CheckpointError::limit(what));
        }
        let group = by_storage.entry(storage.key.clone()).or_default();
        group.push((name, view.clone(), storage.clone()));
    }
    let mut tensors = BTreeMap::new();
    for group in by_storage.values() {
        let mut bytes = None;
        for (name, view, storage) in group {
            let bytes = match &mut bytes {
                Some(bytes) => bytes,
                none => none.insert(container.storage_bytes(storage)?),
            };
            tensors.insert((*name).to_owned(), storage::tensor(view, storage, bytes)?);
        }
    }
    Ok(tensors)
}

/// Takes the wrappers' prefixes off, where every name has them.
fn without_wrappers(mut tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    while let Some(wrapper) =
        WRAPPERS.iter().find(|wrapper| tensors.keys().all(|name| name.starts_with(**wrapper)))
    {
        let shorter = tensors.into_iter().map(|(name, t)| (name[wrapper.len()..].to_owned(), t));
        tensors = shorter.collect();
    }
    tensors
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::convert::pickle;
    use crate::convert::zip::Archive;
    use proptest::prelude::*;

    fn pickle_of(fixture: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints");
        let file = File::open(folder.join(fixture)).unwrap();
        let mut archive = Archive::open(file).unwrap();
        let name = archive.names().find(|name| name.ends_with("data.pkl")).unwrap().to_owned();
        archive.read(&name).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(3000)
        })]

        /// Behind the archive's checksums, so that changed pickles reach the machine.
        #[test]
        fn changed_pickles_do_no_harm(
            fixture in prop::sample::select(vec![
                "every_kind.pt",
                "every_kind_protocol_5.pt",
                "model_state_dict.pt",
                "state_dict_config.pt",
                "whole_module.pt",
                "ultralytics.pt",
                "hostile/shared_lists.pt",
                "malicious/eval_protocol_0.pt",
            ]),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            copied in any::<prop::sample::Index>(),
        ) {
            let mut bytes = pickle_of(fixture);
            for (index, value) in changes {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            // Move a piece to another place: instructions stay whole, their order does not.
            let (from, to) = (cut.index(bytes.len()), copied.index(bytes.len()));
            let piece = bytes[from..bytes.len().min(from + 40)].to_vec();
            bytes.splice(to..to, piece);
            if let Ok((pickle, used)) = pickle::read(&bytes, Trust::ModelObjects) {
                prop_assert!(used <= bytes.len());
                let (layout, place) = find_table(&pickle);
                let _ = dict_tensors(&pickle, place);
                let _ = module_tensors(&pickle, place);
                let _ = config(&pickle, layout, place);
            }
        }
    }

    /// Thousands of names of one module whose attributes are many: each is short, all are not.
    #[test]
    fn modules_that_share_many_attributes_are_refused_in_time() {
        const SHARED: usize = 20_000;
        let names = |value: &[u8]| {
            let mut items = b"}(".to_vec();
            for name in 0..SHARED as u32 {
                items.extend(
                    [b"X\x04\x00\x00\x00".as_slice(), format!("{name:04x}").as_bytes()].concat(),
                );
                items.extend(value);
            }
            [items, b"u".to_vec()].concat()
        };
        let class = b"ctorch.nn.modules.container\nSequential\n)\x81".as_slice();
        let buffers = b"}X\x08\x00\x00\x00_buffers".as_slice();
        let modules = b"}X\x08\x00\x00\x00_modules".as_slice();
        // The inner module is remembered under 0; the outer one names it again and again.
        let inner = [class, buffers, &names(b"N"), b"sbq\x000"].concat();
        let outer = [class, modules, &names(b"h\x00"), b"sb."].concat();
        let bytes = [b"\x80\x02".as_slice(), &inner, &outer].concat();
        let (pickle, _) = pickle::read(&bytes, Trust::ModelObjects).unwrap();
        let start = std::time::Instant::now();
        let error = module_tensors(&pickle, pickle.root()).unwrap_err();
        assert!(error.to_string().contains("too many attributes"), "{error}");
        assert!(start.elapsed().as_secs() < 5, "it took {:?}", start.elapsed());
    }

    #[test]
    fn modules_within_themselves_are_refused() {
        // An object whose `_modules` holds, under `a`, the object itself.
        let bytes = b"\x80\x02ctorch.nn.modules.container\nSequential\n)\x81q\x00\
            }X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00ah\x00ssb.";
        let (pickle, _) = pickle::read(bytes, Trust::ModelObjects).unwrap();
        assert!(matches!(
            module_tensors(&pickle, pickle.root()),
            Err(CheckpointError::Limit { .. })
        ));
    }
}
