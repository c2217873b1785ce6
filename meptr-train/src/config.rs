//! Configuration files: TOML whose mistakes are all named at once.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Reads a TOML file; returns what it says and every key in it that means nothing.
///
/// # Errors
/// When the file cannot be read, is not TOML, lacks a key, or a value has the wrong type.
pub fn read_toml<T: Serialize + DeserializeOwned>(path: &Path) -> Result<(T, Vec<String>)> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    parse(&text).map_err(|source| Error::Toml { path: path.to_owned(), source: source.into() })
}

fn parse<T: Serialize + DeserializeOwned>(text: &str) -> Result<(T, Vec<String>), toml::de::Error> {
    let given: toml::Table = toml::from_str(text)?;
    let config: T = toml::from_str(text)?;
    // What was understood comes back when the configuration is written again.
    let understood = toml::Table::try_from(&config).unwrap_or_default();
    let mut unknown = Vec::new();
    find_unknown(&given, &understood, "", &mut unknown);
    Ok((config, unknown))
}

fn find_unknown(given: &toml::Table, known: &toml::Table, place: &str, unknown: &mut Vec<String>) {
    for (key, value) in given {
        match (value, known.get(key)) {
            (_, None) => unknown.push(format!("unknown key `{place}{key}`")),
            (toml::Value::Table(given), Some(toml::Value::Table(known))) => {
                find_unknown(given, known, &format!("{place}{key}."), unknown);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Outer {
        size: u32,
        inner: Option<Inner>,
    }

    #[derive(Serialize, Deserialize)]
    struct Inner {
        name: String,
    }

    #[test]
    fn every_file_in_configs_is_understood() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let unknown = match path.file_name().unwrap().to_str().unwrap() {
                "corpus.toml" => read_toml::<crate::data::CorpusConfig>(&path).unwrap().1,
                other => panic!("no test reads configs/{other}"),
            };
            assert!(unknown.is_empty(), "{}: {unknown:?}", path.display());
            count += 1;
        }
        assert!(count > 0);
    }

    #[test]
    fn every_unknown_key_is_named() {
        let text = "size = 3\nsiez = 4\n[inner]\nname = 'a'\nnmae = 'b'\n[other]\nx = 1\n";
        let (config, unknown) = parse::<Outer>(text).unwrap();
        assert_eq!((config.size, config.inner.unwrap().name.as_str()), (3, "a"));
        assert_eq!(
            unknown,
            ["unknown key `inner.nmae`", "unknown key `other`", "unknown key `siez`"]
        );
        assert!(parse::<Outer>("size = 3").unwrap().1.is_empty());
        assert!(parse::<Outer>("size = 'a'").is_err());
    }
}
