//! Names and shapes of tensors.

use std::collections::{BTreeMap, BTreeSet};

use candle::Tensor;

use super::unknown;
use crate::convert::error::Result;

/// The shape of every tensor of a model, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shapes(BTreeMap<String, Vec<usize>>);

impl Shapes {
    /// The shapes of some tensors.
    pub fn of(tensors: &BTreeMap<String, Tensor>) -> Self {
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// One axis of a tensor that the model must have, and that is not empty.
    pub(super) fn dim(&self, name: &str, axis: usize) -> Result<usize> {
        let dims = self.0.get(name).ok_or_else(|| unknown(format!("there is no `{name}`")))?;
        let dim = dims.get(axis).copied().filter(|_| !dims.contains(&0));
        dim.ok_or_else(|| unknown(format!("`{name}` has the shape {dims:?}")))
    }

    /// The tensors below `prefix.`, by the rest of their names.
    pub(super) fn below(&self, prefix: &str) -> Self {
        let rest = |name: &str| Some(name.strip_prefix(prefix)?.strip_prefix('.')?.to_owned());
        self.0.iter().filter_map(|(name, dims)| Some((rest(name)?, dims.clone()))).collect()
    }

    /// Number of members `prefix.0`, `prefix.1`, ... without a gap.
    pub(super) fn count(&self, prefix: &str) -> usize {
        let indices: BTreeSet<usize> = self.indices(prefix).collect();
        indices.iter().zip(0..).take_while(|(index, expected)| *index == expected).count()
    }

    /// The largest index of a member.
    pub(super) fn last(&self, prefix: &str) -> Option<usize> {
        self.indices(prefix).max()
    }

    fn indices(&self, prefix: &str) -> impl Iterator<Item = usize> {
        self.names().filter_map(move |name| {
            let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
            rest.split('.').next()?.parse().ok()
        })
    }
}

impl FromIterator<(String, Vec<usize>)> for Shapes {
    fn from_iter<I: IntoIterator<Item = (String, Vec<usize>)>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}
