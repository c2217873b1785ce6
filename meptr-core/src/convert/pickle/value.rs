//! What a pickle describes.

/// A value's place in its [`Pickle`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Id(pub(super) u32);

/// A value of Python.
///
/// Containers hold the places of their items, not the items, so that sharing and cycles cost
/// nothing and dropping a deep value does not recurse.
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
    Global(super::globals::Global),
    Storage(StorageRef),
    Tensor(TensorRef),
    /// An object of a class that is not known, and what its `__dict__` was. Never constructed.
    Object {
        class: String,
        state: Option<Id>,
    },
    /// A type of numbers of NumPy, such as `f8`.
    NumpyType(String),
    /// A value that weights and configurations have no use for.
    Other,
}

/// Where the numbers of tensors stand.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StorageRef {
    /// Name within the file.
    pub(crate) key: String,
    pub(crate) element: Element,
    /// Number of elements.
    pub(crate) length: u64,
    /// Where it starts within the storage of that key, in elements.
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

/// Type of the numbers of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Element {
    /// The element of a storage class of PyTorch.
    pub(super) fn of_storage(class: &str) -> Option<Self> {
        Some(match class {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::Bf16,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" => Self::U8,
            "BoolStorage" => Self::Bool,
            _ => return None,
        })
    }

    /// Bytes of one element.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

/// All values of a pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(super) values: Vec<Value>,
    pub(super) root: Id,
}

impl Pickle {
    /// The value that the pickle is of.
    pub(crate) fn root(&self) -> Id {
        self.root
    }

    /// The value at a place.
    pub(crate) fn get(&self, id: Id) -> &Value {
        &self.values[id.0 as usize] // the machine gives out places of its own values only
    }

    /// The value of a dictionary under a text key, unless that is absent or `None`.
    pub(crate) fn item(&self, dict: Id, key: &str) -> Option<Id> {
        let Value::Dict(items) = self.get(dict) else { return None };
        let found = items.iter().rev().find(|(name, _)| self.text(*name) == Some(key))?.1;
        (*self.get(found) != Value::None).then_some(found)
    }

    /// The text at a place.
    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Every storage that is named.
    pub(crate) fn storages(&self) -> impl Iterator<Item = &StorageRef> {
        self.values.iter().filter_map(|value| match value {
            Value::Storage(storage) => Some(storage),
            _ => None,
        })
    }
}
