//! Pickles as data: the values they describe, without running anything.
//!
//! A pickle is a program for a stack machine with instructions such as "import this" and "call
//! that". An import looks the name up in an allow-list ([`globals`]) and fails when it is absent. A
//! call picks one of a few constructors in this crate. Nothing in a pickle reaches a shell, a file,
//! an interpreter or a library loader.
//!
//! Source: `pickletools` of Python 3.13 (all opcodes, protocols 0 to 5) and the layout that
//! `torch.save` gives tensors (PyTorch 2.6).

mod construct;
mod element;
mod globals;
mod stream;
mod value;
mod vm;

pub(super) use element::Element;
pub use globals::Trust;
pub(super) use value::{Id, Pickle, StorageRef, TensorRef, Value};
pub(super) use vm::{MAX_PICKLE_BYTES, read};
