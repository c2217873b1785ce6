//! The virtual machine that reads pickles.

use std::collections::HashMap;

use super::globals::{Global, Trust, resolve};
use super::stream::{Stream, decimal, long, unquoted};
use super::value::{Id, Pickle, Value};
use crate::convert::error::{CheckpointError, Result};

/// The pickles of the largest models we read are below 1 MB.
pub(crate) const MAX_PICKLE_BYTES: u64 = 64 << 20;
/// Bounds the values, the stack, the memo and the copying of lists. Of pickles made to fill memory, one
/// of a million kept texts took the most: 240 MB, with the 62 MB that the pickle itself had.
pub(super) const MAX_VALUES: usize = 1 << 20;

const NONE: Id = Id(0);
const FALSE: Id = Id(1);
const TRUE: Id = Id(2);

/// Reads the pickle at the start of `bytes`; also returns its length.
///
/// # Errors
/// When it names what [`Trust`] does not cover, is damaged or exceeds a limit.
pub(crate) fn read(bytes: &[u8], trust: Trust) -> Result<(Pickle, usize)> {
    if bytes.len() as u64 > MAX_PICKLE_BYTES {
        return Err(CheckpointError::limit(format!("a pickle of {} bytes", bytes.len())));
    }
    let mut vm = VirtualMachine {
        stream: Stream::new(bytes),
        trust,
        values: vec![Value::None, Value::Bool(false), Value::Bool(true)],
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: 0,
    };
    while vm.step()? {}
    let root = vm.pop()?;
    let used = bytes.len() - vm.stream.remaining();
    Ok((Pickle { values: vm.values, root }, used))
}

pub(super) struct VirtualMachine<'a> {
    stream: Stream<'a>,
    trust: Trust,
    pub(super) values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Items of lists that were copied so far.
    pub(super) copied: usize,
}

impl VirtualMachine<'_> {
    /// Runs one instruction; false when it was the last.
    fn step(&mut self) -> Result<bool> {
        match self.stream.u8()? {
            b'.' => return Ok(false),
            0x80 => self.protocol()?,
            0x95 => drop(self.stream.take(8)?), // a frame's length, of use to readers of pipes only
            b'(' => self.mark()?,
            b'0' => self.discard()?,
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.push_id(*self.stack.last().ok_or_else(empty)?)?,
            opcode @ (b'N' | 0x88 | 0x89 | b'F' | b'G' | b'I' | b'J' | b'K' | b'L' | b'M'
            | 0x8A | 0x8B) => self.number(opcode)?,
            opcode @ (b'S' | b'T' | b'U' | b'V' | b'X' | 0x8C | 0x8D | b'B' | b'C' | 0x8E
            | 0x96) => {
                self.text(opcode)?;
            }
            opcode @ (b']' | b'l' | b'a' | b'e' | 0x8F | 0x90 | 0x91) => self.list(opcode)?,
            opcode @ (b')' | b't' | 0x85 | 0x86 | 0x87) => self.tuple(opcode)?,
            opcode @ (b'}' | b'd' | b's' | b'u') => self.dict(opcode)?,
            opcode @ (b'p' | b'q' | b'r' | 0x94) => self.remember(opcode)?,
            opcode @ (b'g' | b'h' | b'j') => self.recall(opcode)?,
            opcode @ (b'c' | 0x93) => self.global(opcode)?,
            opcode @ (b'R' | b'i' | b'o' | 0x81 | 0x92) => self.call_opcode(opcode)?,
            b'b' => self.build()?,
            b'Q' => self.storage()?,
            opcode => return Err(refused(opcode)),
        }
        Ok(true)
    }

    fn protocol(&mut self) -> Result<()> {
        match self.stream.u8()? {
            0..=5 => Ok(()),
            newer => Err(CheckpointError::unsupported(format!("pickle protocol {newer}"))),
        }
    }

    fn number(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'N' => return self.push_id(NONE),
            0x88 => return self.push_id(TRUE),
            0x89 => return self.push_id(FALSE),
            b'F' => Value::Float(decimal(self.stream.line()?)?),
            b'G' => Value::Float(f64::from_be_bytes(self.stream.array()?)),
            b'I' => match self.stream.line()? {
                "00" => return self.push_id(FALSE),
                "01" => return self.push_id(TRUE),
                digits => Value::Int(decimal(digits)?),
            },
            b'J' => Value::Int(i32::from_le_bytes(self.stream.array()?).into()),
            b'K' => Value::Int(self.stream.u8()?.into()),
            b'M' => Value::Int(self.stream.u16()?.into()),
            b'L' => Value::Int(decimal(self.stream.line()?.trim_end_matches('L'))?),
            _ => {
                let length =
                    if opcode == 0x8A { self.stream.u8()?.into() } else { self.stream.u32()? };
                long(self.stream.take(length.into())?).map_or(Value::Other, Value::Int)
            }
        };
        self.push(value)
    }

    fn text(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'S' => Value::Text(unquoted(self.stream.line()?)?.to_owned()),
            b'V' => Value::Text(self.stream.line()?.to_owned()),
            b'T' | b'B' => {
                let length = self.stream.u32()?;
                self.bytes_or_text(opcode == b'T', length.into())?
            }
            b'U' | b'C' => {
                let length = self.stream.u8()?;
                self.bytes_or_text(opcode == b'U', length.into())?
            }
            0x8E | 0x96 => {
                let length = self.stream.u64()?;
                self.bytes_or_text(false, length)?
            }
            _ => {
                let length = match opcode {
                    b'X' => self.stream.u32()?.into(),
                    0x8C => self.stream.u8()?.into(),
                    _ => self.stream.u64()?,
                };
                self.bytes_or_text(true, length)?
            }
        };
        self.push(value)
    }

    fn bytes_or_text(&mut self, is_text: bool, length: u64) -> Result<Value> {
        Ok(match is_text {
            true => Value::Text(self.stream.utf8(length)?),
            false => Value::Bytes(self.stream.take(length)?.to_vec()),
        })
    }

    fn list(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            b']' | 0x8F => return self.push(Value::List(Vec::new())),
            b'l' | 0x91 => {
                let items = self.pop_to_mark()?;
                return self.push(Value::List(items));
            }
            _ => {}
        }
        let items = if opcode == b'a' { vec![self.pop()?] } else { self.pop_to_mark()? };
        match self.top()? {
            Value::List(list) => list.extend(items),
            Value::Other => {}
            _ => return Err(CheckpointError::damaged("an item is added to what is no list")),
        }
        Ok(())
    }

    fn tuple(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            b')' => Vec::new(),
            b't' => self.pop_to_mark()?,
            _ => self.pop_many(usize::from(opcode - 0x84))?,
        };
        self.push(Value::Tuple(items))
    }

    fn dict(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            b'}' => Vec::new(),
            b's' => self.pop_many(2)?,
            _ => self.pop_to_mark()?,
        };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(CheckpointError::damaged("a key without a value"));
        }
        let pairs = pairs.iter().map(|[key, value]| (*key, *value));
        if matches!(opcode, b'}' | b'd') {
            return self.push(Value::Dict(pairs.collect()));
        }
        match self.top()? {
            Value::Dict(dict) => dict.extend(pairs),
            Value::Other => {}
            _ => return Err(CheckpointError::damaged("a key is set in what is no dictionary")),
        }
        Ok(())
    }

    fn remember(&mut self, opcode: u8) -> Result<()> {
        let key = match opcode {
            b'p' => decimal(self.stream.line()?)?,
            b'q' => self.stream.u8()?.into(),
            b'r' => self.stream.u32()?,
            _ => self.memo.len() as u32, // bounded by MAX_VALUES
        };
        let id = *self.stack.last().ok_or_else(empty)?;
        if self.memo.len() >= MAX_VALUES {
            return Err(too_much());
        }
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, opcode: u8) -> Result<()> {
        let key = match opcode {
            b'g' => decimal(self.stream.line()?)?,
            b'h' => self.stream.u8()?.into(),
            _ => self.stream.u32()?,
        };
        let id = self.memo.get(&key).copied();
        self.push_id(id.ok_or_else(|| CheckpointError::damaged("it recalls what it never kept"))?)
    }

    fn global(&mut self, opcode: u8) -> Result<()> {
        let global = if opcode == b'c' {
            resolve(self.stream.line()?, self.stream.line()?, self.trust)?
        } else {
            let names = self.pop_many(2)?;
            match (self.value(names[0]), self.value(names[1])) {
                (Value::Text(module), Value::Text(name)) => resolve(module, name, self.trust)?,
                _ => return Err(CheckpointError::damaged("a global without a name")),
            }
        };
        self.push(Value::Global(global))
    }

    fn call_opcode(&mut self, opcode: u8) -> Result<()> {
        let (callee, arguments) = match opcode {
            b'i' => {
                let global = resolve(self.stream.line()?, self.stream.line()?, self.trust)?;
                (global, self.pop_to_mark()?)
            }
            b'o' => {
                let mut items = self.pop_to_mark()?;
                if items.is_empty() {
                    return Err(empty());
                }
                (self.callee(items.remove(0))?, items)
            }
            _ => {
                if opcode == 0x92 {
                    self.pop()?; // keyword arguments: no class we build has any
                }
                let arguments = self.pop()?;
                let arguments = self.items(arguments)?;
                let callee = self.pop()?;
                (self.callee(callee)?, arguments)
            }
        };
        let result = self.call(&callee, &arguments)?;
        self.push_id(result)
    }

    fn callee(&self, id: Id) -> Result<Global> {
        match self.value(id) {
            Value::Global(global) => Ok(global.clone()),
            _ => Err(CheckpointError::damaged("it calls what is no function")),
        }
    }

    /// Gives an object its attributes. On other values they carry nothing we use.
    fn build(&mut self) -> Result<()> {
        let attributes = self.pop()?;
        match self.top()? {
            Value::Object { state, .. } => *state = Some(attributes),
            Value::Global(_) => {
                return Err(CheckpointError::damaged("it changes a class or a function"));
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn value(&self, id: Id) -> &Value {
        &self.values[id.0 as usize]
    }

    fn top(&mut self) -> Result<&mut Value> {
        let id = *self.stack.last().ok_or_else(empty)?;
        Ok(&mut self.values[id.0 as usize])
    }

    pub(super) fn add(&mut self, value: Value) -> Result<Id> {
        if self.values.len() >= MAX_VALUES {
            return Err(too_much());
        }
        self.values.push(value);
        Ok(Id(self.values.len() as u32 - 1))
    }

    pub(super) fn push(&mut self, value: Value) -> Result<()> {
        let id = self.add(value)?;
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<()> {
        if self.stack.len() >= MAX_VALUES {
            return Err(too_much());
        }
        self.stack.push(id);
        Ok(())
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() >= MAX_VALUES {
            return Err(too_much());
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// `POP`, which takes a mark off when that is on top.
    fn discard(&mut self) -> Result<()> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    pub(super) fn pop(&mut self) -> Result<Id> {
        if self.marks.last().is_some_and(|mark| *mark >= self.stack.len()) {
            return Err(empty());
        }
        self.stack.pop().ok_or_else(empty)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= floor => Ok(self.stack.split_off(start)),
            _ => Err(empty()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let start = self.marks.pop().ok_or_else(empty)?;
        Ok(self.stack.split_off(start)) // no pop goes below a mark
    }
}

fn refused(opcode: u8) -> CheckpointError {
    match opcode {
        0x82..=0x84 => {
            CheckpointError::ForbiddenGlobal { global: "an entry of the extension registry".into() }
        }
        0x97 | 0x98 => CheckpointError::unsupported("a pickle with buffers outside of it"),
        b'P' => CheckpointError::damaged("an external value that is no storage"),
        other => CheckpointError::damaged(format!("there is no pickle instruction {other:#04x}")),
    }
}

pub(super) fn empty() -> CheckpointError {
    CheckpointError::damaged("the pickle takes a value that it has not made")
}

pub(super) fn too_much() -> CheckpointError {
    CheckpointError::limit(format!("a pickle of more than {MAX_VALUES} values"))
}
