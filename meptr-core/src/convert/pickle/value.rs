//! Values of a pickle.

use super::element::Element;
use super::globals::Global;

/// Index of a value in its [`Pickle`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Id(pub(super) u32);

/// A value of Python.
///
/// Containers hold the indices of their items, so that sharing and cycles cost nothing and dropping
/// a deeply nested value does not recurse.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// A list, a set or a frozen set.
    List(Vec<Id>),
    Tuple(Vec<Id>),
    /// Pairs in order of insertion; a later pair replaces an earlier one of the same key.
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(StorageRef),
    Tensor(TensorRef),
    /// An object of an unknown class, as a record of its `__dict__`. Never constructed.
    Object {
        class: String,
        state: Option<Id>,
    },
    /// A NumPy dtype, such as `f8`.
    NumpyType(String),
    /// A value that weights and configurations do not need.
    Other,
}

/// A storage, which holds the values of tensors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StorageRef {
    /// Name within the file.
    pub(crate) key: String,
    pub(crate) element: Element,
    /// Number of elements.
    pub(crate) length: u64,
    /// First element within the storage of that key.
    pub(crate) start: u64,
}

/// A view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorRef {
    pub(crate) storage: Id,
    /// In elements, as are the strides.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

/// All values of a pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(super) values: Vec<Value>,
    pub(super) root: Id,
}

impl Pickle {
    /// The outermost value.
    pub(crate) fn root(&self) -> Id {
        self.root
    }

    /// The value of an index.
    pub(crate) fn get(&self, id: Id) -> &Value {
        &self.values[id.0 as usize] // the virtual machine gives out indices of its own values only
    }

    /// The value of a dictionary under a text key, unless that is absent or `None`.
    pub(crate) fn item(&self, dict: Id, key: &str) -> Option<Id> {
        let Value::Dict(items) = self.get(dict) else { return None };
        let found = items.iter().rev().find(|(name, _)| self.text(*name) == Some(key))?.1;
        (*self.get(found) != Value::None).then_some(found)
    }

    /// The text of an index; `None` for another value.
    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// All storages of the pickle.
    pub(crate) fn storages(&self) -> impl Iterator<Item = &StorageRef> {
        self.values.iter().filter_map(|value| match value {
            Value::Storage(storage) => Some(storage),
            _ => None,
        })
    }
}
