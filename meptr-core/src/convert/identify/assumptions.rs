//! Configuration values that shapes of tensors do not show.

use serde::Serialize;

use super::stage_config::StageConfig;
use super::{Assumed, Basis, Shapes};
use crate::Task;
use crate::models::{CrossTaskConfig, EncoderConfig, SequenceConfig, UnimodalConfig};

/// Configuration values that leave no trace in the tensors of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unrecorded {
    /// Whether positions are unrecorded: no layer stores a table of them. Otherwise a layer without
    /// a table has no positions.
    positions: bool,
}

impl Unrecorded {
    pub(super) fn new(shapes: &Shapes) -> Self {
        Self { positions: !shapes.names().any(|name| name.ends_with("positional_encoding.pe")) }
    }

    /// The candidate, if it equals the recorded values wherever there are any.
    pub(super) fn matching(
        self,
        recorded: &StageConfig,
        candidate: &StageConfig,
    ) -> Option<StageConfig> {
        (self.completed(recorded, candidate) == *candidate).then(|| candidate.clone())
    }

    /// The recorded values, with the rest from `other` as far as both are of one kind.
    pub(super) fn completed(self, recorded: &StageConfig, other: &StageConfig) -> StageConfig {
        let mut config = recorded.clone();
        match (&mut config, other) {
            (StageConfig::CrossTask(own), StageConfig::CrossTask(other)) => {
                self.complete_unimodal(&mut own.emotion, &other.emotion);
                self.complete_unimodal(&mut own.personality, &other.personality);
                self.complete_fusion(&mut own.fusion, &other.fusion);
            }
            (StageConfig::Unimodal(_, own), StageConfig::Unimodal(_, other)) => {
                self.complete_unimodal(own, other);
            }
            _ => {}
        }
        config
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

    /// All unrecorded values that change predictions (so no dropout).
    pub(super) fn list(self, config: &StageConfig, basis: Basis) -> Vec<Assumed> {
        let mut list = List { assumed: Vec::new(), basis, positions: self.positions };
        match config {
            StageConfig::CrossTask(config) => {
                list.unimodal("emotion.", &config.emotion, Task::Emotion);
                list.unimodal("personality.", &config.personality, Task::Personality);
                list.fusion(&config.fusion);
            }
            StageConfig::Unimodal(task, config) => list.unimodal("", config, *task),
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
