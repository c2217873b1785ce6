//! Results of calls in a pickle.

use super::globals::Global;
use super::stream::long;
use super::value::{Id, StorageRef, TensorRef, Value};
use super::vm::{MAX_VALUES, VirtualMachine, empty, too_much};
use crate::convert::error::{CheckpointError, Result};

const MAX_RANK: usize = 8;
/// Names of storages are numbers; those of data types have two letters.
const MAX_KEY: usize = 64;

impl VirtualMachine<'_> {
    pub(super) fn call(&mut self, callee: &Global, arguments: &[Id]) -> Result<Id> {
        let first = arguments.first().copied();
        let value = match callee {
            Global::Tensor => Value::Tensor(self.tensor(arguments)?),
            Global::Parameter => return first.ok_or_else(empty),
            Global::Dict => Value::Dict(self.pairs(first)?),
            Global::DefaultDict => Value::Dict(Vec::new()),
            Global::Sequence => match first {
                None => Value::List(Vec::new()),
                Some(sequence) => Value::List(self.items(sequence)?),
            },
            Global::Bytes => Value::Bytes(self.latin1(first)?),
            Global::NumpyType => match first.map(|id| self.value(id)) {
                Some(Value::Text(name)) if name.len() <= MAX_KEY => Value::NumpyType(name.clone()),
                _ => Value::Other,
            },
            Global::NumpyScalar => self.numpy_scalar(arguments),
            Global::Reconstructor => match first.map(|id| self.value(id)) {
                Some(Value::Global(Global::Record(class))) => {
                    Value::Object { class: class.clone(), state: None }
                }
                _ => Value::Other,
            },
            Global::Record(class) => Value::Object { class: class.clone(), state: None },
            Global::Storage(_) => {
                return Err(CheckpointError::unsupported("a storage that is built in place"));
            }
            Global::Other => Value::Other,
        };
        self.add(value)
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, ..)`.
    fn tensor(&self, arguments: &[Id]) -> Result<TensorRef> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return Err(CheckpointError::damaged("a tensor without a shape"));
        };
        if !matches!(self.value(storage), Value::Storage(_)) {
            return Err(CheckpointError::damaged("a tensor without a storage"));
        }
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err(CheckpointError::damaged("a tensor with a stride too many or too few"));
        }
        Ok(TensorRef { storage, offset: self.size(offset)? as u64, shape, strides })
    }

    /// A persistent id of PyTorch: `("storage", class, key, place, length[, view])`.
    pub(super) fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let parts = self.items(id)?;
        let &[kind, class, key, _, length, ref view @ ..] = parts.as_slice() else {
            return Err(CheckpointError::damaged("an external value that is no storage"));
        };
        let (Value::Text(kind), Value::Global(Global::Storage(element)), Value::Text(key)) =
            (self.value(kind), self.value(class), self.value(key))
        else {
            return Err(CheckpointError::damaged("a storage without a type or a name"));
        };
        if kind != "storage" || key.len() > MAX_KEY {
            return Err(CheckpointError::damaged("an external value that is no storage"));
        }
        let (mut start, mut length) = (0, self.size(length)? as u64);
        // Old files keep one storage for several that overlapped: (key, start, length).
        if let Some(Value::Tuple(view)) = view.first().map(|id| self.value(*id)) {
            let &[_, at, part] = view.as_slice() else {
                return Err(CheckpointError::damaged("a part of a storage without a place"));
            };
            (start, length) = (self.size(at)? as u64, self.size(part)? as u64);
        }
        self.push(Value::Storage(StorageRef { key: key.clone(), element: *element, length, start }))
    }

    fn numpy_scalar(&self, arguments: &[Id]) -> Value {
        let &[kind, bytes] = arguments else { return Value::Other };
        let (Value::NumpyType(kind), Value::Bytes(bytes)) = (self.value(kind), self.value(bytes))
        else {
            return Value::Other;
        };
        let float = |size| (bytes.len() == size).then_some(bytes.as_slice());
        match kind.as_str() {
            "f8" => {
                float(8).and_then(|b| Some(Value::Float(f64::from_le_bytes(*b.first_chunk()?))))
            }
            "f4" => float(4)
                .and_then(|b| Some(Value::Float(f32::from_le_bytes(*b.first_chunk()?).into()))),
            "i8" | "i4" | "i2" | "i1" => long(bytes).map(Value::Int),
            "b1" => Some(Value::Bool(bytes == &[1])),
            _ => None,
        }
        .unwrap_or(Value::Other)
    }

    fn latin1(&mut self, text: Option<Id>) -> Result<Vec<u8>> {
        let Some(Value::Text(text)) = text.map(|id| self.value(id)) else {
            return Err(CheckpointError::damaged("it encodes what is no text"));
        };
        let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
        self.copies(bytes.as_ref().map_or(0, Vec::len))?;
        bytes.ok_or_else(|| CheckpointError::damaged("bytes that are spelled as text"))
    }

    /// The items of a tuple or list, copied; the sum of all copies is limited.
    pub(super) fn items(&mut self, id: Id) -> Result<Vec<Id>> {
        let (Value::Tuple(items) | Value::List(items)) = &self.values[id.0 as usize] else {
            return Err(CheckpointError::damaged("a value that should be a tuple is none"));
        };
        let items = items.clone();
        self.copies(items.len())?;
        Ok(items)
    }

    fn pairs(&mut self, source: Option<Id>) -> Result<Vec<(Id, Id)>> {
        let Some(source) = source else { return Ok(Vec::new()) };
        if let Value::Dict(pairs) = &self.values[source.0 as usize] {
            let pairs = pairs.clone();
            self.copies(pairs.len())?;
            return Ok(pairs);
        }
        let pair = |vm: &mut Self, id| match vm.items(id)?.as_slice() {
            &[key, value] => Ok((key, value)),
            _ => Err(CheckpointError::damaged("a dictionary of what are no pairs")),
        };
        self.items(source)?.into_iter().map(|id| pair(self, id)).collect()
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        match self.value(id) {
            Value::Tuple(items) | Value::List(items) if items.len() <= MAX_RANK => {
                items.iter().map(|id| self.size(*id)).collect()
            }
            _ => Err(CheckpointError::damaged("a shape that is none")),
        }
    }

    fn size(&self, id: Id) -> Result<usize> {
        match self.value(id) {
            Value::Int(size) => usize::try_from(*size).ok(),
            _ => None,
        }
        .ok_or_else(|| CheckpointError::damaged("a size that is none"))
    }

    /// Counts what is copied, so that a short pickle cannot copy a long list again and again.
    fn copies(&mut self, count: usize) -> Result<()> {
        self.copied += count;
        if self.copied > MAX_VALUES { Err(too_much()) } else { Ok(()) }
    }
}
