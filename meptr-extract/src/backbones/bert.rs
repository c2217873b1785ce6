//! BERT.

use std::sync::Arc;

use candle::{DType, Result, Tensor};
use meptr_core::kernels::Activation;
use meptr_core::weights::{FrozenBuilder, MappedFile, Matrix};
use serde::Deserialize;

use super::checkpoint_folder::{CheckpointConfig, Problems};
use super::from_checkpoint::FromCheckpoint;
use super::layers::{FrozenLayerNorm, LayerNames, TransformerEncoder, TransformerEncoderConfig};

/// `config.json` of a BERT model; other keys are ignored.
///
/// Missing keys have the values of BERT base, as in transformers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// Must be `bert`.
    pub model_type: String,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the sequence.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads, a divisor of `hidden_size`.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward blocks.
    pub intermediate_size: usize,
    /// Activation of the feed-forward blocks.
    pub hidden_act: Activation,
    /// Longest sequence in tokens.
    pub max_position_embeddings: usize,
    /// Number of segment types; all tokens here are of type 0.
    pub type_vocab_size: usize,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f64,
    /// Must be `absolute`.
    pub position_embedding_type: String,
    /// Must be false.
    pub is_decoder: bool,
}

impl BertConfig {
    /// `BAAI/bge-small-en-v1.5`.
    pub fn bge_small() -> Self {
        Self { hidden_size: 384, intermediate_size: 1536, ..Self::default() }
    }
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            model_type: "bert".into(),
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            position_embedding_type: "absolute".into(),
            is_decoder: false,
        }
    }
}

impl CheckpointConfig for BertConfig {
    fn problems(&self) -> Vec<String> {
        let mut problems = Problems::default();
        problems.require(
            self.model_type == "bert",
            format!("`model_type` is `{}`, not `bert`", self.model_type),
        );
        problems.require_encoder(
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
        );
        problems.require_sizes(&[
            ("vocab_size", self.vocab_size),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ]);
        problems.require(
            self.position_embedding_type == "absolute",
            format!(
                "`position_embedding_type` is `{}`, not `absolute`",
                self.position_embedding_type
            ),
        );
        problems.require(!self.is_decoder, "`is_decoder` is true");
        problems.into_vec()
    }
}

const LAYER_NAMES: LayerNames = LayerNames {
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    fc1: "intermediate.dense",
    fc2: "output.dense",
    feed_forward_norm: "output.LayerNorm",
};

/// BERT's encoder: token ids to one vector per token.
///
/// Devlin et al. 2019, <https://arxiv.org/abs/1810.04805>. The output is the last hidden state of
/// every position, the special tokens included; there is no pooler.
///
/// Weights, with or without the prefix `bert.`: `embeddings.{word_embeddings,
/// position_embeddings, token_type_embeddings, LayerNorm}` and `encoder.layer.N`.
#[derive(Debug)]
pub struct Bert {
    config: BertConfig,
    file: Option<Arc<MappedFile>>,
    word_embeddings: Matrix,
    /// Position embeddings, with the one embedding of segment 0 added to each.
    position_embeddings: Tensor,
    norm: FrozenLayerNorm,
    encoder: TransformerEncoder,
}

impl Bert {
    /// Builds the encoder of the weights in `vb`.
    ///
    /// # Errors
    /// When the configuration is unsupported or a weight is missing or misshapen.
    pub fn load<'a>(config: &BertConfig, vb: impl Into<FrozenBuilder<'a>>) -> Result<Self> {
        let vb = vb.into();
        config.check()?;
        let is_prefixed = vb.contains_tensor("bert.embeddings.word_embeddings.weight");
        let vb = if is_prefixed { vb.pp("bert") } else { vb };
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let encoder = TransformerEncoderConfig {
            width,
            heads: config.num_attention_heads,
            feed_forward_width: config.intermediate_size,
            layers: config.num_hidden_layers,
            norm_eps: eps,
            activation: config.hidden_act,
            pre_norm: false,
            key_has_bias: true,
        };
        let embeddings = vb.pp("embeddings");
        let table = |rows, name: &str| embeddings.pp(name).get((rows, width), "weight");
        let segment = table(config.type_vocab_size, "token_type_embeddings")?.narrow(0, 0, 1)?;
        let positions = table(config.max_position_embeddings, "position_embeddings")?;
        Ok(Self {
            config: config.clone(),
            file: vb.file(),
            word_embeddings: embeddings
                .pp("word_embeddings")
                .matrix((config.vocab_size, width), "weight")?,
            position_embeddings: positions.broadcast_add(&segment)?,
            norm: FrozenLayerNorm::load(width, eps, &embeddings.pp("LayerNorm"))?,
            encoder: TransformerEncoder::load(&encoder, &LAYER_NAMES, &vb.pp("encoder.layer"))?,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// Computes the last hidden state of some sequences.
    ///
    /// - `ids`: `(batch, tokens)`, integers, at most `max_position_embeddings` tokens
    /// - `lengths`: real tokens of each row; the rest is padding, which is not attended to
    /// - returns `(batch, tokens, hidden_size)`, f32; unspecified at padding
    ///
    /// # Errors
    /// When a shape differs from the above or an id is not in the vocabulary.
    pub fn forward(&self, ids: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (batch, tokens) = ids.dims2()?;
        let width = self.config.hidden_size;
        let ids = ids.to_dtype(DType::U32)?.flatten_all()?;
        let words = self.word_embeddings.select_rows(&ids)?.reshape((batch, tokens, width))?;
        let hidden = words.broadcast_add(&self.position_embeddings.narrow(0, 0, tokens)?)?;
        self.encoder.forward(self.norm.forward(&hidden)?, lengths)?.to_dtype(DType::F32)
    }
}

impl FromCheckpoint for Bert {
    type Config = BertConfig;
    const CONFIG_NAME: &'static str = "BERT configuration";

    fn from_weights(config: &BertConfig, vb: FrozenBuilder) -> Result<Self> {
        Self::load(config, vb)
    }

    // The pooler, the position indices and the heads of the pre-training tasks.
    fn is_unused(name: &str) -> bool {
        let name = name.strip_prefix("bert.").unwrap_or(name);
        name.starts_with("pooler.")
            || name.starts_with("cls.")
            || name.starts_with("classifier.")
            || name == "embeddings.position_ids"
            || name == "embeddings.token_type_ids"
    }

    fn mapped_file(&self) -> Option<&MappedFile> {
        self.file.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsupported_options_are_refused_by_name() {
        let refused = |json: &str| serde_json::from_str::<BertConfig>(json).unwrap().problems();
        assert!(refused("{}").is_empty());
        assert!(refused(r#"{"model_type": "roberta"}"#)[0].contains("roberta"));
        let relative = refused(r#"{"position_embedding_type": "relative_key"}"#);
        assert!(relative[0].contains("relative_key"));
        assert!(refused(r#"{"is_decoder": true}"#)[0].contains("is_decoder"));
        let relu = serde_json::from_str::<BertConfig>(r#"{"hidden_act": "relu"}"#);
        assert!(relu.unwrap_err().to_string().contains("relu"));
    }
}
