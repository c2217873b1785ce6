//! Two synthetic corpora in a folder: videos, tables, and the hidden labels of the other task.
//!
//! ```text
//! DIR/emotions.toml  traits.toml             the corpora, for `meptr extract`
//! DIR/emotions/{train,dev,test}.csv          video_name, text, Neutral .. Surprise
//! DIR/emotions/video/{train,dev,test}/*.mp4, *.mkv
//! DIR/traits/...                             video_name, text, openness .. non-neuroticism
//! DIR/hidden/emotions.toml  traits.toml      the same corpora with the other task's labels,
//! DIR/hidden/{emotions,traits}/*.csv         for evaluation alone
//! ```

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use meptr_core::files;
use meptr_core::rng::SeedStreams;
use meptr_core::{Emotion, PersonalityTrait, Task};
use rayon::prelude::*;

use super::encode::{Container, encode};
use super::film::{FRAMES_PER_SECOND, Film};
use super::plan::Plan;
use super::voice::{Voice, loudness};
use super::words::speech;
use crate::{Error, Result};

/// Minimum number of videos of a corpus, so that every split has one.
pub const MIN_VIDEOS: usize = 5;
/// Splits, each with its share of the videos in fifths.
const SPLITS: [(&str, usize); 3] = [("train", 3), ("dev", 1), ("test", 1)];
/// Frames of the shortest clip.
const MIN_PICTURES: usize = 27;
/// Number of different lengths of clips, one frame apart.
const MORE_PICTURES: usize = 7;

/// Two corpora to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corpora {
    /// Videos of each corpus, at least [`MIN_VIDEOS`].
    pub videos: usize,
    /// Seed, which determines all videos and tables.
    pub seed: u64,
}

/// One video of a corpus.
#[derive(Debug, Clone, PartialEq)]
pub struct SyntheticClip {
    /// Task whose labels its corpus has.
    pub told: Task,
    /// `train`, `dev` or `test`.
    pub split: &'static str,
    /// Its name in the tables, and that of its file without ending.
    pub name: String,
    /// Text that is spoken.
    pub text: String,
    /// Cues of the modalities, and labels.
    pub plan: Plan,
    seconds: f32,
    container: Container,
}

impl Corpora {
    /// All clips of both corpora, in the order of the tables. A clip depends on the seed and its
    /// number alone, its split also on how many there are.
    pub fn clips(&self) -> Vec<SyntheticClip> {
        let of = |told| (0..self.videos).map(move |number| self.clip(told, number));
        of(Task::Emotion).chain(of(Task::Personality)).collect()
    }

    fn clip(&self, told: Task, number: usize) -> SyntheticClip {
        let streams = SeedStreams::new(self.seed);
        let name = format!("{}-{number:05}", folder_of(told));
        let plan = Plan::draw(&streams, &name);
        let text = speech(&plan.cues.text, &mut streams.stream(&format!("{name}/words")));
        let mut random = streams.stream(&format!("{name}/file"));
        let pictures = MIN_PICTURES + random.below(MORE_PICTURES);
        let seconds = pictures as f32 / FRAMES_PER_SECOND as f32;
        let container = [Container::Mp4, Container::Matroska][random.below(2)];
        SyntheticClip { told, split: self.split(number), name, text, plan, seconds, container }
    }

    /// Split of a clip: about 60, 20 and 20 per cent for train, dev and test.
    fn split(&self, number: usize) -> &'static str {
        let test = (self.videos / 5).max(1);
        match number {
            number if number + 2 * test < self.videos => SPLITS[0].0,
            number if number + test < self.videos => SPLITS[1].0,
            _ => SPLITS[2].0,
        }
    }

    /// Writes everything into `folder`, the videos in parallel on all threads; calls `done` after
    /// each video.
    ///
    /// Returns `false` when `stop` was set before all was written. There are no tables then, so
    /// that the folder cannot be taken for complete corpora.
    ///
    /// # Errors
    /// When FFmpeg lacks an encoder or a file cannot be written.
    pub fn write(
        &self,
        folder: &Path,
        stop: &AtomicBool,
        done: impl Fn(&SyntheticClip) + Sync,
    ) -> Result<bool> {
        let clips = self.clips();
        clips.par_iter().try_for_each(|clip| -> Result<()> {
            if !stop.load(Ordering::Relaxed) {
                write_whole(&clip.path(folder), &clip.video(self.seed)?)?;
                done(clip);
            }
            Ok(())
        })?;
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        for told in [Task::Emotion, Task::Personality] {
            for (split, _) in SPLITS {
                let rows: Vec<&SyntheticClip> =
                    clips.iter().filter(|one| one.told == told && one.split == split).collect();
                let (own, file) = (folder_of(told), format!("{split}.csv"));
                let hidden = folder.join("hidden").join(own).join(&file);
                write_whole(&hidden, table(&rows, other(told)).as_bytes())?;
                write_whole(&folder.join(own).join(&file), table(&rows, told).as_bytes())?;
            }
        }
        for told in [Task::Emotion, Task::Personality] {
            let (own, file) = (folder_of(told), format!("{}.toml", folder_of(told)));
            let hidden =
                corpus_toml(own, other(told), &format!("../{own}"), &format!("../hidden/{own}/"));
            write_whole(&folder.join("hidden").join(&file), hidden.as_bytes())?;
            write_whole(&folder.join(file), corpus_toml(own, told, own, "").as_bytes())?;
        }
        Ok(true)
    }
}

impl SyntheticClip {
    /// Path of its video below the folder of the corpora.
    pub fn path(&self, folder: &Path) -> PathBuf {
        let file = format!("{}.{}", self.name, self.container.extension());
        folder.join(folder_of(self.told)).join("video").join(self.split).join(file)
    }

    /// The bytes of its video, about 3 s.
    ///
    /// # Errors
    /// When FFmpeg lacks an encoder.
    pub fn video(&self, seed: u64) -> Result<Vec<u8>> {
        let streams = SeedStreams::new(seed);
        let mut random = streams.stream(&format!("{}/voice", self.name));
        let voice = Voice::of_cue(&self.plan.cues.audio, &mut random);
        let samples = voice.speak(self.seconds, &mut random);
        let film = Film::new(&streams, &self.name, &self.plan.cues);
        let frames = (self.seconds * FRAMES_PER_SECOND as f32).round() as usize;
        let levels = loudness(&samples, frames).into_iter().enumerate();
        let pictures: Vec<_> = levels
            .map(|(number, level)| film.picture(number as f32 / FRAMES_PER_SECOND as f32, level))
            .collect();
        encode(self.container, &pictures, FRAMES_PER_SECOND, &samples)
    }
}

fn folder_of(told: Task) -> &'static str {
    match told {
        Task::Emotion => "emotions",
        Task::Personality => "traits",
    }
}

fn other(task: Task) -> Task {
    match task {
        Task::Emotion => Task::Personality,
        Task::Personality => Task::Emotion,
    }
}

/// A CSV table; no cell holds a quotation mark or a line break.
fn table(clips: &[&SyntheticClip], task: Task) -> String {
    let names: Vec<String> = match task {
        Task::Emotion => Emotion::ALL.map(|one| one.name().to_owned()).to_vec(),
        Task::Personality => PersonalityTrait::ALL.map(|one| one.name().to_lowercase()).to_vec(),
    };
    let mut table = format!("video_name,text,{}\n", names.join(","));
    for SyntheticClip { name, text, plan, .. } in clips {
        let labels = match task {
            Task::Emotion => plan.shares().to_vec(),
            Task::Personality => plan.traits.to_vec(),
        };
        let _ = write!(table, "{name},\"{text}\""); // writing to a String cannot fail
        for label in labels {
            let _ = write!(table, ",{}", (label * 10_000.0).round() / 10_000.0);
        }
        table.push('\n');
    }
    table
}

fn corpus_toml(name: &str, task: Task, base: &str, tables: &str) -> String {
    let task = match task {
        Task::Emotion => "emotion",
        Task::Personality => "personality",
    };
    let mut toml = format!(
        "# A synthetic corpus, made by `meptr synth`; configs/corpus.toml explains every key.\n\
         name = \"synthetic-{name}\"\nbase = \"{base}\"\ntasks = [\"{task}\"]\n\n[splits]\n"
    );
    for (split, _) in SPLITS {
        let _ = writeln!(toml, "{split} = \"{tables}{split}.csv\""); // as above
    }
    toml
}

/// Writes a file, and creates its folder if needed.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    folder
        .and_then(|()| files::write_whole(path, bytes))
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(videos: usize) -> [usize; 3] {
        let clips = Corpora { videos, seed: 1 }.clips();
        assert_eq!(clips.len(), 2 * videos);
        ["train", "dev", "test"]
            .map(|split| clips[..videos].iter().filter(|clip| clip.split == split).count())
    }

    #[test]
    fn every_split_has_its_share() {
        assert_eq!(splits(5), [3, 1, 1]);
        assert_eq!(splits(9), [7, 1, 1]);
        assert_eq!(splits(100), [60, 20, 20]);
    }

    #[test]
    fn a_clip_is_the_same_however_many_there_are() {
        let of = |videos| Corpora { videos, seed: 3 }.clip(Task::Personality, 4);
        let (few, many) = (of(5), of(50));
        assert_eq!((few.split, many.split), ("test", "train"));
        assert_eq!(SyntheticClip { split: "train", ..few }, many);
    }

    #[test]
    fn videos_repeat_byte_by_byte() -> anyhow::Result<()> {
        let corpora = Corpora { videos: 5, seed: 2 };
        let clips = corpora.clips();
        let videos = || clips[..4].iter().map(|clip| clip.video(2)).collect::<Result<Vec<_>>>();
        let (first, second) = (videos()?, videos()?);
        assert!(first == second);
        assert!(first[0] != first[1]);
        Ok(())
    }
}
