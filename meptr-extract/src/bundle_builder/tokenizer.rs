//! WordPiece tokenizer of bundles with random weights.

use serde_json::{Map, Value, json};

/// Common English words, so that sentences are not split into letters.
const WORDS: &str = include_str!("words.txt");
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const ENDINGS: [&str; 12] = [
    "##s", "##ed", "##ing", "##er", "##ly", "##es", "##est", "##y", "##al", "##ion", "##ness",
    "##d",
];

/// A `tokenizer.json` for BERT with `size` tokens: special tokens, punctuation, letters and digits
/// (alone and as continuations), endings, common words, then unused fillers.
///
/// Any text can be tokenised: unknown characters become `[UNK]`.
pub(super) fn tokenizer_json(size: usize) -> Value {
    let vocabulary: Map<String, Value> =
        tokens(size).into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let entry = |token: &str, id: usize| json!({"id": token, "ids": [id], "tokens": [token]});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, special("[SEP]")],
            "pair": [],
            "special_tokens": {"[CLS]": entry("[CLS]", 2), "[SEP]": entry("[SEP]", 3)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    })
}

fn tokens(size: usize) -> Vec<String> {
    let letters = || ('a'..='z').chain('0'..='9');
    let mut tokens: Vec<String> = SPECIAL.iter().map(|token| (*token).to_owned()).collect();
    tokens.extend("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~".chars().map(String::from));
    tokens.extend(letters().map(String::from));
    tokens.extend(letters().map(|letter| format!("##{letter}")));
    tokens.extend(ENDINGS.iter().filter(|ending| ending.len() > 3).map(|one| (*one).to_owned()));
    // One-letter words are among the letters already.
    tokens.extend(WORDS.split_whitespace().filter(|word| word.len() > 1).map(str::to_owned));
    tokens.truncate(size);
    let fillers = tokens.len()..size;
    tokens.extend(fillers.map(|id| format!("[unused{id}]")));
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_as_many_as_asked_for_and_all_different() {
        for size in [100, 1000, 30_522] {
            let mut tokens = tokens(size);
            assert_eq!(tokens.len(), size);
            tokens.sort();
            tokens.dedup();
            assert_eq!(tokens.len(), size);
        }
    }

    #[test]
    fn sentences_are_words_not_letters() {
        let json = tokenizer_json(1200).to_string();
        let tokenizer: tokenizers::Tokenizer = json.parse().unwrap();
        let tokens = tokenizer.encode("I could not be happier!", true).unwrap();
        let expected = ["[CLS]", "i", "could", "not", "be", "happier", "!", "[SEP]"];
        assert_eq!(tokens.get_tokens(), expected);
        let spelled = tokenizer.encode("zyx é", false).unwrap();
        assert_eq!(spelled.get_tokens(), ["z", "##y", "##x", "e"]);
    }
}
