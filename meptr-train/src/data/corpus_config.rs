//! `CORPUS.toml`: where a corpus lies and what its columns are called.

use std::path::{Path, PathBuf};

use meptr_core::paths::is_file_name;
use meptr_core::{Emotion, PersonalityTrait, Task};
use serde::{Deserialize, Serialize};

use super::emotion_labels::EmotionsAs;

/// A corpus of videos, described by one CSV file per split. Every key is explained in
/// `configs/corpus.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CorpusConfig {
    /// Name of the corpus, and of its folder in a feature store.
    pub name: String,
    /// Folder of the CSV files and of `video/`, relative to the configuration file.
    #[serde(default = "same_folder")]
    pub base: PathBuf,
    /// CSV file of each split.
    pub splits: SplitFiles,
    /// Tasks that every split has labels of; without it, those whose columns are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<Task>>,
    /// Scale of the emotion labels.
    #[serde(default)]
    pub emotions_as: EmotionsAs,
    /// Treatment of rows without a video.
    #[serde(default)]
    pub missing_videos: MissingVideos,
    /// Names of the columns.
    #[serde(default)]
    pub columns: Columns,
}

/// CSV files relative to the base folder. A split's videos are in `video/` and its sound, if it
/// has files of its own, in `audio/`, both in a folder of the name that is its key here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the names say it
pub struct SplitFiles {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<PathBuf>,
    /// The other name of this split is `val`; only one of them may be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
}

/// Treatment of rows without a video.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingVideos {
    /// Refuse the corpus.
    #[default]
    Error,
    /// Leave the rows out.
    Skip,
}

/// Column names; the defaults are those of CMU-MOSEI's and First Impressions' tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Columns {
    /// Names of the videos: file names without ending.
    pub video_name: String,
    /// Column of the spoken words; empty = the tables hold no text.
    pub text: String,
    /// The emotions, in the order of [`Emotion::ALL`].
    pub emotions: Vec<String>,
    /// The traits, in the order of [`PersonalityTrait::ALL`].
    pub traits: Vec<String>,
    /// Columns that do not matter.
    pub ignored: Vec<String>,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            video_name: "video_name".to_owned(),
            text: "text".to_owned(),
            emotions: Emotion::ALL.map(|one| one.name().to_owned()).to_vec(),
            traits: PersonalityTrait::ALL.map(|one| one.name().to_lowercase()).to_vec(),
            ignored: Vec::new(),
        }
    }
}

impl Columns {
    /// The label columns of a task.
    pub fn of(&self, task: Task) -> &[String] {
        match task {
            Task::Emotion => &self.emotions,
            Task::Personality => &self.traits,
        }
    }

    /// Every column that has a meaning.
    fn meant(&self) -> Vec<&String> {
        let named = [&self.video_name, &self.text].into_iter().filter(|name| !name.is_empty());
        named.chain(&self.emotions).chain(&self.traits).collect()
    }
}

impl SplitFiles {
    /// The splits there are, by their keys.
    pub fn given(&self) -> Vec<(&'static str, &Path)> {
        let all =
            [("train", &self.train), ("dev", &self.dev), ("val", &self.val), ("test", &self.test)];
        all.into_iter().filter_map(|(key, file)| Some((key, file.as_deref()?))).collect()
    }
}

impl CorpusConfig {
    /// Everything that makes no sense, before any other file is touched.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !is_file_name(&self.name) || self.name.starts_with('.') {
            problems.push(format!("`name` is `{}`, which cannot name a folder", self.name));
        }
        if self.splits.given().is_empty() {
            problems.push("`splits` is empty; give `train`, `dev` or `test`".to_owned());
        }
        if self.splits.dev.is_some() && self.splits.val.is_some() {
            problems.push("`splits.dev` and `splits.val` are two names of one split".to_owned());
        }
        for (key, task) in [("emotions", Task::Emotion), ("traits", Task::Personality)] {
            let (found, needed) = (self.columns.of(task).len(), task.outputs());
            if found != needed {
                problems.push(format!("`columns.{key}` has {found} names instead of {needed}"));
            }
        }
        if self.columns.video_name.is_empty() {
            problems.push("`columns.video_name` is empty".to_owned());
        }
        let mut meant = self.columns.meant();
        meant.sort();
        for pair in meant.windows(2).filter(|pair| pair[0] == pair[1]) {
            problems.push(format!("`columns` uses the name `{}` twice", pair[0]));
        }
        problems
    }
}

fn same_folder() -> PathBuf {
    PathBuf::from(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With every key that is commented out switched on, the file says what the defaults say.
    #[test]
    fn the_commented_file_shows_the_defaults() {
        let text = include_str!("../../../configs/corpus.toml");
        let switched_on = text.replace("\n# tasks", "\ntasks").replace("\n# ignored", "\nignored");
        let keys =
            ["base", "emotions_as", "missing_videos", "video_name", "text", "emotions", "traits"];
        let switched_on = keys.iter().fold(switched_on, |text, key| {
            text.replace(&format!("\n# {key} = "), &format!("\n{key} = "))
        });
        let parse = |text: &str| toml::from_str::<CorpusConfig>(text).unwrap();
        let (short, mut long) = (parse(text), parse(&switched_on));
        assert_eq!(long.tasks.take(), Some(vec![Task::Emotion, Task::Personality]));
        assert_eq!(short, long);
        assert!(short.problems().is_empty(), "{:?}", short.problems());
    }

    #[test]
    fn five_mistakes_are_five_problems() {
        let config = CorpusConfig {
            name: "../a".to_owned(),
            base: same_folder(),
            splits: SplitFiles::default(),
            tasks: None,
            emotions_as: EmotionsAs::default(),
            missing_videos: MissingVideos::Error,
            columns: Columns {
                video_name: String::new(),
                text: "Neutral".to_owned(),
                traits: vec!["openness".to_owned()],
                ..Columns::default()
            },
        };
        assert_eq!(config.problems().len(), 5, "{:?}", config.problems());
    }
}
