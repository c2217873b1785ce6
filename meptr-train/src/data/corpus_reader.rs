//! A corpus as its files describe it: the tables of all splits and, where asked for, the videos.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use meptr_core::Task;

use super::corpus_config::{CorpusConfig, MissingVideos};
use super::emotion_labels::EmotionsAs;
use super::media::{Media, Stems};
use super::table::{Clip, TableFormat, read_table, some_of};
use super::{Corpus, Dev, Split, Test, Train};
use crate::config::read_toml;
use crate::{Error, Result};

/// A corpus whose tables make sense.
#[derive(Debug, Clone)]
pub struct DescribedCorpus {
    /// Its name, and that of its folder in a feature store.
    pub name: String,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Scale of the emotion labels in its tables; those of [`Clip`] are shares in any case.
    pub emotions_as: EmotionsAs,
    splits: Vec<DescribedSplit>,
}

/// One split of a corpus.
#[derive(Debug, Clone)]
pub struct DescribedSplit {
    /// `train`, `dev` or `test`: the name of its folder in a feature store.
    pub name: &'static str,
    /// The CSV file it is from.
    pub table: PathBuf,
    /// Its rows.
    pub clips: Vec<Clip>,
    /// The files of each row, `None` where they are missing; empty when they were not looked for.
    pub media: Vec<Option<Media>>,
}

impl DescribedCorpus {
    /// Reads `CORPUS.toml` and its tables; enough to train on stored features.
    ///
    /// # Errors
    /// [`Error::Unfit`] lists everything that is wrong; the others say why there is nothing to
    /// check.
    pub fn read(path: &Path) -> Result<Self> {
        Self::check(path, false)
    }

    /// Like [`Self::read`], with the videos found; extraction needs this.
    ///
    /// # Errors
    /// As [`DescribedCorpus::read`]; missing videos are problems unless the corpus skips them.
    pub fn read_with_media(path: &Path) -> Result<Self> {
        Self::check(path, true)
    }

    fn check(path: &Path, needs_media: bool) -> Result<Self> {
        let (config, mut problems) = read_toml::<CorpusConfig>(path)?;
        problems.extend(config.problems());
        let base = path.parent().unwrap_or(Path::new("")).join(&config.base);
        let mut warnings = Vec::new();
        let mut splits = Vec::new();
        let mut labelled = Vec::new();
        for (key, file) in config.splits.given() {
            let file = base.join(file);
            let format = TableFormat {
                columns: &config.columns,
                tasks: config.tasks.as_deref(),
                emotions_as: config.emotions_as,
            };
            let table = read_table(&file, format, &mut problems);
            if table.dropped > 0 && !table.clips.is_empty() {
                let (file, dropped) = (file.display(), table.dropped);
                warnings.push(format!("`{file}`: {dropped} rows with an empty cell are left out"));
            }
            labelled.push((key, table.tasks));
            let name = if key == "val" { Dev::NAME } else { key };
            let clips = table.clips;
            let mut split = DescribedSplit { name, table: file, clips, media: Vec::new() };
            if needs_media {
                let folders = Folders { base: &base, key, missing: config.missing_videos };
                split.media = folders.find(&split.clips, &mut problems, &mut warnings);
            }
            splits.push(split);
        }
        warnings.extend(unlabelled(&labelled));
        warnings.extend(shared_names(&splits));
        match problems.is_empty() {
            true => {
                let emotions_as = config.emotions_as;
                Ok(Self { name: config.name, warnings, emotions_as, splits })
            }
            false => Err(Error::Unfit { path: path.to_owned(), problems }),
        }
    }

    /// All splits, to extract features from.
    pub fn splits(&self) -> &[DescribedSplit] {
        &self.splits
    }

    /// The rows of the train split, where there is one.
    pub fn train(&self) -> Option<Corpus<Train, Vec<Clip>>> {
        self.split()
    }

    /// The rows of the dev split, where there is one.
    pub fn dev(&self) -> Option<Corpus<Dev, Vec<Clip>>> {
        self.split()
    }

    /// The rows of the test split, where there is one.
    pub fn test(&self) -> Option<Corpus<Test, Vec<Clip>>> {
        self.split()
    }

    fn split<S: Split>(&self) -> Option<Corpus<S, Vec<Clip>>> {
        let split = self.splits.iter().find(|split| split.name == S::NAME)?;
        Some(Corpus::new(self.name.clone(), split.clips.clone()))
    }
}

/// Folders of the videos and of the sound of a split.
struct Folders<'a> {
    base: &'a Path,
    key: &'a str,
    missing: MissingVideos,
}

impl Folders<'_> {
    fn find(
        &self,
        clips: &[Clip],
        problems: &mut Vec<String>,
        warnings: &mut Vec<String>,
    ) -> Vec<Option<Media>> {
        let names: Vec<&str> = clips.iter().map(|clip| clip.name.as_str()).collect();
        let videos = self.files("video", &names, problems);
        let has_audio = self.base.join("audio").join(self.key).is_dir();
        let audio = match has_audio {
            true => self.files("audio", &names, problems),
            false => vec![None; names.len()],
        };
        let missing = |files: &[Option<PathBuf>]| -> Vec<String> {
            let missing = names.iter().zip(files).filter(|(_, file)| file.is_none());
            missing.map(|(name, _)| format!("`{name}`")).collect()
        };
        let (lost, silent) = (missing(&videos), missing(&audio));
        let say = |what: &str, names: &[String]| {
            format!("{}: {} of {} {what}: {}", self.key, names.len(), clips.len(), some_of(names))
        };
        let all_are_lost = lost.len() == clips.len();
        match self.missing {
            _ if lost.is_empty() => {}
            MissingVideos::Skip if !all_are_lost => warnings.push(say("videos are missing", &lost)),
            MissingVideos::Error if !all_are_lost => problems.push(format!(
                "{}; `missing_videos = \"skip\"` leaves their rows out",
                say("videos are missing", &lost)
            )),
            _ => problems.push(say("videos are missing", &lost)),
        }
        if has_audio && !silent.is_empty() {
            warnings.push(say("have no file below `audio`; their video's sound is used", &silent));
        }
        let both = videos.into_iter().zip(audio);
        both.map(|(video, audio)| video.map(|video| Media { video, audio })).collect()
    }

    fn files(
        &self,
        kind: &str,
        names: &[&str],
        problems: &mut Vec<String>,
    ) -> Vec<Option<PathBuf>> {
        let folder = self.base.join(kind).join(self.key);
        Stems::below(&folder, problems).files(names, &folder, problems)
    }
}

/// Splits without the labels of a task that another split has.
fn unlabelled(splits: &[(&str, Vec<Task>)]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (task, name) in [(Task::Emotion, "emotion"), (Task::Personality, "trait")] {
        if splits.iter().all(|(_, tasks)| !tasks.contains(&task)) {
            continue;
        }
        let without = splits.iter().filter(|(_, tasks)| !tasks.contains(&task));
        warnings.extend(without.map(|(key, _)| {
            format!("the {key} split has no {name} labels, another split of the corpus has them")
        }));
    }
    warnings
}

/// Names in more than one split, which may be a leak.
fn shared_names(splits: &[DescribedSplit]) -> Vec<String> {
    let mut first = HashMap::new();
    let mut shared = Vec::new();
    for (number, split) in splits.iter().enumerate() {
        for clip in &split.clips {
            if *first.entry(&clip.name).or_insert(number) != number {
                shared.push(format!("`{}`", clip.name));
            }
        }
    }
    match shared.is_empty() {
        true => Vec::new(),
        false => vec![format!("names in more than one split: {}", some_of(&shared))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "video_name,text,openness,conscientiousness,extraversion,agreeableness,non-neuroticism\n";

    fn corpus(toml: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let path = folder.path().join("corpus.toml");
        std::fs::write(&path, toml).unwrap();
        (folder, path)
    }

    #[test]
    fn splits_and_videos_are_found() {
        let rows = format!("{HEAD}a,Hi,0,0,0,0,0\nb,Hi,0,,0,0,0\n");
        let toml = "name = 'x'\n[splits]\ntrain = 't.csv'\nval = 'v.csv'\n";
        let (folder, path) = corpus(
            toml,
            &[
                ("t.csv", &rows),
                ("v.csv", "video_name,text\nc,Hi\n"),
                ("video/train/deep/a.mp4", ""),
                ("audio/train/a.wav", ""),
                ("video/val/c.mkv", ""),
            ],
        );
        let found = DescribedCorpus::read_with_media(&path).unwrap();
        let [train, dev] = found.splits() else { panic!("{found:?}") };
        assert_eq!((train.name, dev.name), ("train", "dev"));
        let media = train.media[0].clone().unwrap();
        assert_eq!(media.video, folder.path().join("video/train/deep/a.mp4"));
        assert_eq!(media.audio, Some(folder.path().join("audio/train/a.wav")));
        assert_eq!(found.dev().unwrap().rows[0].name, "c");
        assert!(found.test().is_none());
        assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
        assert!(found.warnings[1].contains("the val split has no trait labels"));
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let toml = "name = 'x'\nbsae = '.'\n[splits]\ntrain = 't.csv'\ntest = 'gone.csv'\n\
                    [columns]\nemotions = ['Happy']\n";
        let rows = format!("{HEAD}a,Hi,0,0,0,0,7\na,Hi,0,0,0,0,0\n");
        let (_folder, path) = corpus(toml, &[("t.csv", &rows), ("video/train/b.mp4", "")]);
        let Err(Error::Unfit { problems, .. }) = DescribedCorpus::read_with_media(&path) else {
            panic!("it was taken")
        };
        let text = problems.join("\n");
        for part in [
            "unknown key `bsae`",
            "`columns.emotions` has 1 names instead of 7",
            "out of range",
            "names twice",
            "gone.csv` cannot be read",
            "train: 2 of 2 videos are missing",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn missing_videos_can_be_skipped_but_not_all() {
        let toml = "name = 'x'\nmissing_videos = 'skip'\n[splits]\ntrain = 't.csv'\n";
        let rows = "video_name,text\na,Hi\nb,Hi\n";
        let (folder, path) = corpus(toml, &[("t.csv", rows), ("video/train/a.mp4", "")]);
        let found = DescribedCorpus::read_with_media(&path).unwrap();
        assert_eq!(found.splits()[0].media[1], None);
        assert!(found.warnings[0].contains("1 of 2 videos are missing: `b`"));
        std::fs::write(&path, toml.replace("missing_videos = 'skip'\n", "")).unwrap();
        let Err(Error::Unfit { problems, .. }) = DescribedCorpus::read_with_media(&path) else {
            panic!("it was taken")
        };
        assert!(problems[0].contains("`missing_videos = \"skip\"`"), "{problems:?}");
        std::fs::write(&path, toml).unwrap();
        std::fs::remove_file(folder.path().join("video/train/a.mp4")).unwrap();
        assert!(DescribedCorpus::read_with_media(&path).is_err());
    }
}
