//! Configuration files: TOML whose mistakes are all named at once.

use std::path::Path;

use meptr_core::files::read_small_text;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Reads a TOML file; returns what it says and every key in it that means nothing.
///
/// # Errors
/// When the file cannot be read, is not TOML, lacks a key, or a value has the wrong type.
pub fn read_toml<T: Serialize + DeserializeOwned>(path: &Path) -> Result<(T, Vec<String>)> {
    understood(path, &read_text(path)?)
}

/// The text of a configuration.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    read_small_text(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// Parses the text of a configuration.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    toml::from_str(text)
        .map_err(|source| Error::Toml { path: path.to_owned(), source: Box::new(source) })
}

fn understood<T: Serialize + DeserializeOwned>(
    path: &Path,
    text: &str,
) -> Result<(T, Vec<String>)> {
    let given: toml::Table = parse(path, text)?;
    let config: T = parse(path, text)?;
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
    use crate::stage::{StageOne, StageThree, StageTwo};

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
                "train.toml" | "synthetic.toml" => {
                    let table = crate::experiment::ExperimentConfig::table(&path).unwrap();
                    crate::experiment::ExperimentConfig::of(&[table]).1
                }
                "stage1.toml" => shows_the_defaults::<StageOne>(&path, StageOne::problems),
                "stage2.toml" => shows_the_defaults::<StageTwo>(&path, StageTwo::problems),
                "stage3.toml" => shows_the_defaults::<StageThree>(&path, StageThree::problems),
                name if name.starts_with("objective-") => shows_an_objective(&path),
                other => panic!("no test reads configs/{other}"),
            };
            assert!(unknown.is_empty(), "{}: {unknown:?}", path.display());
            count += 1;
        }
        assert!(count > 0);
    }

    /// A file says what the defaults say, as it is and with every key switched on that is commented
    /// out; its examples are understood, too.
    fn shows_the_defaults<T>(path: &Path, problems: fn(&T) -> Vec<String>) -> Vec<String>
    where
        T: Serialize + DeserializeOwned + Default + PartialEq + std::fmt::Debug,
    {
        let text = std::fs::read_to_string(path).unwrap();
        let is_assignment = |line: &str| {
            let mut words = line.split(' ');
            words.next().is_some_and(is_key) && words.next() == Some("=") || line.starts_with('[')
        };
        let on = |mark: &str| -> String {
            let line = |line: &str| match line.strip_prefix(mark) {
                Some(rest) if is_assignment(rest) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            };
            text.lines().map(line).collect()
        };
        let (shown, examples) = (on("# "), on("#   "));
        assert!(shown != text && examples != text);
        for text in [&text, &shown] {
            let (config, unknown) = understood::<T>(path, text).unwrap();
            assert_eq!((config, unknown), (T::default(), Vec::new()), "{}", path.display());
        }
        let (config, unknown) = understood::<T>(path, &examples).unwrap();
        assert!(config != T::default());
        assert_eq!(problems(&config), Vec::<String>::new());
        unknown
    }

    /// A file of an objective says what the defaults of its kind say, as it is and with every key
    /// switched on.
    fn shows_an_objective(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let switched_on: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| is_key(key)) => {
                    format!("{rest}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        assert!(switched_on != text);
        let of = |text: &str| {
            let (config, unknown) =
                crate::experiment::ExperimentConfig::of(&[parse(path, text).unwrap()]);
            (config.stage3.objective, unknown)
        };
        let (given, (shown, unknown)) = (of(&text).0, of(&switched_on));
        assert_eq!(given, shown, "{}", path.display());
        let name = path.file_stem().unwrap().to_str().unwrap();
        let kind = crate::settings::to_json(&shown)["kind"].as_str().unwrap().to_owned();
        assert_eq!(name, format!("objective-{kind}"));
        unknown.into_iter().filter(|problem| problem.contains("objective")).collect()
    }

    fn is_key(text: &str) -> bool {
        !text.is_empty() && text.chars().all(|one| one.is_ascii_lowercase() || one == '_')
    }

    #[test]
    fn five_mistakes_are_five_problems() {
        let text = "seed = 1\nmodalitys = ['face']\ntasks = []\n[loss]\npersonality_weight = -1.0\n\
                    [training]\nbatch_size = 0\n[training_overrides.face]\nlearning_rate = 0.0\n";
        let (config, mut problems) = understood::<StageOne>(Path::new(""), text).unwrap();
        problems.extend(config.problems());
        assert_eq!(
            problems,
            [
                "unknown key `modalitys`",
                "`tasks` is empty",
                "`loss.personality_weight` must be 0 or more",
                "`training.batch_size` must be at least 1",
                "`training_overrides.face.learning_rate` must be above 0",
            ]
        );
        let text = "[objective]\nkind = 'published'\nlambda = -0.4\nmin_emotion_probability = 2.0\n\
                    min_trait_confidence = 0.3\n\
                    [model]\nhidden_dim = 30\nnum_heads = 8\ndropout = 1.0\n";
        let (config, mut problems) = understood::<StageThree>(Path::new(""), text).unwrap();
        problems.extend(config.problems());
        assert_eq!(problems.len(), 5, "{problems:?}");
    }

    #[test]
    fn every_unknown_key_is_named() {
        let text = "size = 3\nsiez = 4\n[inner]\nname = 'a'\nnmae = 'b'\n[other]\nx = 1\n";
        let (config, unknown) = understood::<Outer>(Path::new(""), text).unwrap();
        assert_eq!((config.size, config.inner.unwrap().name.as_str()), (3, "a"));
        assert_eq!(
            unknown,
            ["unknown key `inner.nmae`", "unknown key `other`", "unknown key `siez`"]
        );
        assert!(understood::<Outer>(Path::new(""), "size = 3").unwrap().1.is_empty());
        assert!(understood::<Outer>(Path::new(""), "size = 'a'").is_err());
    }
}
