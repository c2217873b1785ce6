//! Splits as types, so that what belongs to the test split cannot be mistaken for another.

use std::marker::PhantomData;

/// One of the three splits of a corpus.
pub trait Split: Copy + std::fmt::Debug + sealed::Sealed {
    /// Name in file and folder names.
    const NAME: &'static str;
}

/// Split that weights are fitted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Train;

/// Split that chooses the best epoch and moves the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dev;

/// Split that is reported and decides nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Train {}
    impl Sealed for super::Dev {}
    impl Sealed for super::Test {}
}

impl Split for Train {
    const NAME: &'static str = "train";
}

impl Split for Dev {
    const NAME: &'static str = "dev";
}

impl Split for Test {
    const NAME: &'static str = "test";
}

/// A split of one corpus.
#[derive(Debug, Clone)]
pub struct Corpus<S, D> {
    /// Name of the corpus, for reports.
    pub name: String,
    /// Its rows.
    pub rows: D,
    split: PhantomData<S>,
}

impl<S: Split, D> Corpus<S, D> {
    /// Says which split rows belong to; for whoever reads them from that split's files.
    pub fn new(name: impl Into<String>, rows: D) -> Self {
        Self { name: name.into(), rows, split: PhantomData }
    }
}
