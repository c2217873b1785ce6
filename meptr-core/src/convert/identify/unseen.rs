//! What the shapes of a head do not tell.

use serde::Serialize;

use super::head::Parts;
use super::{Assumed, Basis, Shapes};
use crate::Task;
use crate::models::{CrossTaskConfig, EncoderConfig, SequenceConfig, UnimodalConfig};

/// The values that leave no trace in the tensors of one file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unseen {
    /// False when the file stores tables of positions: a layer without one then has no positions.
    positions: bool,
}

impl Unseen {
    pub(super) fn of(shapes: &Shapes) -> Self {
        Self { positions: !shapes.names().any(|name| name.ends_with("positional_encoding.pe")) }
    }

    /// The candidate, if what was seen fits it in all that can be seen.
    pub(super) fn fit(self, seen: &Parts, candidate: &Parts) -> Option<Parts> {
        (self.completed(seen, candidate) == *candidate).then(|| candidate.clone())
    }

    /// What was seen, with the rest from `other` as far as the two are of one kind.
    pub(super) fn completed(self, seen: &Parts, other: &Parts) -> Parts {
        let mut parts = seen.clone();
        match (&mut parts, other) {
            (Parts::Head(own), Parts::Head(other)) => {
                self.complete_unimodal(&mut own.emotion, &other.emotion);
                self.complete_unimodal(&mut own.personality, &other.personality);
                self.complete_fusion(&mut own.fusion, &other.fusion);
            }
            (Parts::Unimodal(_, own), Parts::Unimodal(_, other)) => {
                self.complete_unimodal(own, other);
            }
            _ => {}
        }
        parts
    }

    fn complete_unimodal(self, own: &mut UnimodalConfig, other: &UnimodalConfig) {
        match (own, other) {
            (UnimodalConfig::Sequence(own), UnimodalConfig::Sequence(other)) => {
                (own.activation, own.dropout) = (other.activation, other.dropout);
                self.complete_encoder(own, other);
            }
            (UnimodalConfig::Audio(own), UnimodalConfig::Audio(other)) => {
                own.dropout = other.dropout;
            }
            _ => {}
        }
    }

    fn complete_encoder(self, own: &mut SequenceConfig, other: &SequenceConfig) {
        let EncoderConfig::Transformer { heads, positions, .. } = &mut own.encoder else { return };
        let EncoderConfig::Transformer { heads: others, positions: other_positions, .. } =
            other.encoder
        else {
            return;
        };
        if own.width.is_multiple_of(others) {
            *heads = others;
        }
        if self.positions {
            *positions = other_positions;
        }
    }

    fn complete_fusion(self, own: &mut CrossTaskConfig, other: &CrossTaskConfig) {
        match (own, other) {
            (CrossTaskConfig::Transformer(own), CrossTaskConfig::Transformer(other)) => {
                (own.activation, own.dropout) = (other.activation, other.dropout);
                own.hidden_activation = other.hidden_activation;
                if own.width.is_multiple_of(other.heads) {
                    own.heads = other.heads;
                }
                if self.positions {
                    own.positions = other.positions;
                }
            }
            (
                CrossTaskConfig::Attention { width, heads, dropout },
                CrossTaskConfig::Attention { heads: other_heads, dropout: other_dropout, .. },
            ) => {
                *dropout = *other_dropout;
                if width.is_multiple_of(*other_heads) {
                    *heads = *other_heads;
                }
            }
            _ => {}
        }
    }

    /// Every value that was not seen and that changes predictions (so no dropout).
    pub(super) fn list(self, parts: &Parts, basis: Basis) -> Vec<Assumed> {
        let mut list = List { assumed: Vec::new(), basis, positions: self.positions };
        match parts {
            Parts::Head(config) => {
                list.unimodal("emotion.", &config.emotion, Task::Emotion);
                list.unimodal("personality.", &config.personality, Task::Personality);
                list.fusion(&config.fusion);
            }
            Parts::Unimodal(task, config) => list.unimodal("", config, *task),
        }
        list.assumed
    }
}

struct List {
    assumed: Vec<Assumed>,
    basis: Basis,
    positions: bool,
}

impl List {
    fn add(&mut self, key: String, value: impl Serialize) {
        let value = serde_json::to_value(value).expect("numbers, flags and names are JSON");
        self.assumed.push(Assumed { key, value, basis: self.basis });
    }

    fn unimodal(&mut self, path: &str, config: &UnimodalConfig, task: Task) {
        let UnimodalConfig::Sequence(config) = config else { return };
        if let EncoderConfig::Transformer { heads, positions, .. } = config.encoder {
            self.add(format!("{path}sequence.encoder.transformer.heads"), heads);
            if self.positions {
                self.add(format!("{path}sequence.encoder.transformer.positions"), positions);
            }
        }
        if task == Task::Personality {
            self.add(format!("{path}sequence.activation"), config.activation);
        }
    }

    fn fusion(&mut self, config: &CrossTaskConfig) {
        match config {
            CrossTaskConfig::Transformer(config) => {
                self.add("fusion.transformer.heads".to_owned(), config.heads);
                if self.positions {
                    self.add("fusion.transformer.positions".to_owned(), config.positions);
                }
                self.add("fusion.transformer.activation".to_owned(), config.activation);
                let inner = config.hidden_activation;
                self.add("fusion.transformer.hidden_activation".to_owned(), inner);
            }
            CrossTaskConfig::Attention { heads, .. } => {
                self.add("fusion.attention.heads".to_owned(), heads);
            }
        }
    }
}
