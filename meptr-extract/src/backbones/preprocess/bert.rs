//! Tokenizer of BERT.

use std::path::{Path, PathBuf};

use meptr_core::files::read_small;
use tokenizers::{Tokenizer, TruncationParams};

use crate::backbones::checkpoint_folder::unusable;
use crate::{Error, Result};

/// Tokenizes text by a `tokenizer.json`, special tokens included.
#[derive(Debug)]
pub struct BertTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
}

impl BertTokenizer {
    /// Reads `tokenizer.json` of a folder; `max_tokens` is the longest sequence the network takes
    /// ([`BertConfig::max_position_embeddings`](crate::backbones::BertConfig::max_position_embeddings)).
    ///
    /// # Errors
    /// When the file is missing or is no tokenizer.
    pub fn open(folder: &Path, max_tokens: usize) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let mut tokenizer = read_tokenizer(&path)?;
        let broken = |why: tokenizers::Error| unusable(&path, "tokenizer", why.to_string());
        let limit = TruncationParams { max_length: max_tokens, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(limit)).map_err(broken)?;
        tokenizer.with_padding(None);
        Ok(Self { path, tokenizer })
    }

    /// Token ids of one text with its special tokens, truncated at the limit.
    ///
    /// `None` when the text holds no token (it is empty, or all spaces).
    ///
    /// # Errors
    /// When the tokenizer cannot express the text.
    pub fn tokens(&self, text: &str) -> Result<Option<Vec<u32>>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, true)
            .map_err(|why| unusable(&self.path, "tokenizer", why.to_string()))?;
        let is_special = encoding.get_special_tokens_mask();
        let has_words = is_special.contains(&0);
        Ok(has_words.then(|| encoding.get_ids().to_vec()))
    }
}

/// Reads a `tokenizer.json`.
pub(crate) fn read_tokenizer(path: &Path) -> Result<Tokenizer> {
    let bytes = read_small(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Tokenizer::from_bytes(bytes).map_err(|why| unusable(path, "tokenizer", why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENIZER: &str = r###"{"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [], "normalizer": {"type": "BertNormalizer", "clean_text": true,
        "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": null,
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "good": 4, "##bye": 5}}}"###;

    fn input(max_tokens: usize) -> BertTokenizer {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), TOKENIZER).unwrap();
        BertTokenizer::open(folder.path(), max_tokens).unwrap()
    }

    #[test]
    fn special_tokens_survive_truncation() {
        let tokens = |limit, text| input(limit).tokens(text).unwrap().unwrap();
        assert_eq!(tokens(512, "Goodbye good you"), [2, 4, 5, 4, 1, 3]);
        assert_eq!(tokens(4, "goodbye good you"), [2, 4, 5, 3]);
        assert_eq!(tokens(512, &"good ".repeat(2000)).len(), 512);
    }

    #[test]
    fn a_text_without_tokens_is_none() {
        for text in ["", "  \n\t "] {
            assert_eq!(input(512).tokens(text).unwrap(), None, "{text:?}");
        }
    }

    #[test]
    fn a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        let error = BertTokenizer::open(folder.path(), 512).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
    }
}
