//! Text encoder: BERT over the words of a window.

use candle::{Device, Tensor};
use meptr_core::bundle::Bundle;

use super::compute_target::ComputeTarget;
use crate::backbones::{Bert, BertTokenizer, FromCheckpoint};
use crate::{Error, Result};

/// BERT and its tokenizer.
#[derive(Debug)]
pub(super) struct TextEncoder {
    input: BertTokenizer,
    model: Bert,
    device: Device,
}

impl TextEncoder {
    pub(super) fn open(bundle: &Bundle, target: &ComputeTarget) -> Result<Self> {
        let folder = bundle.path(&bundle.manifest().parts.bert.folder);
        let model = Bert::open(&folder, &target.device, target.precision)?;
        let input = BertTokenizer::open(&folder, model.config().max_position_embeddings)?;
        Ok(Self { input, model, device: target.device.clone() })
    }

    /// Features of a text, `(1, tokens, width)`, f32; `None` when it has no words.
    pub(super) fn encode(&self, text: &str) -> Result<Option<Tensor>> {
        let Some(ids) = self.input.tokens(text)? else { return Ok(None) };
        let length = ids.len();
        let run = || {
            let ids = Tensor::from_vec(ids, (1, length), &self.device)?;
            self.model.forward(&ids, &[length])
        };
        run().map(Some).map_err(Error::doing("running BERT"))
    }
}
