//! Pickles as data: the values they describe, without running anything.
//!
//! A pickle is a program for a stack machine whose instructions include "import this" and "call
//! that". Here an import looks the name up in a fixed list ([`globals`]) and fails when it is not
//! there; a call picks one of a few constructors written in this crate. Nothing that a pickle says
//! reaches a shell, a file, an interpreter or a library loader.
//!
//! Source: `pickletools` of Python 3.13 (all opcodes, protocols 0 to 5) and the layout that
//! `torch.save` gives tensors (PyTorch 2.6).

mod construct;
mod globals;
mod machine;
mod stream;
mod value;

pub use globals::Trust;
pub(super) use machine::{MAX_PICKLE_BYTES, read};
pub(super) use value::{Element, Id, Pickle, StorageRef, TensorRef, Value};
