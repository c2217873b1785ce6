//! `meptr extract`: what is kept, what is done again, and what an early end leaves.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meptr_core::Modality;
use meptr_core::store::{FeatureFile, Store};
use serde_json::Value;

use crate::support::film;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/demo");

/// A corpus and its store in a folder of their own.
struct Corpus {
    folder: tempfile::TempDir,
}

impl Corpus {
    /// Splits with their clips, each with a number of frames; all say "Good day".
    fn new(splits: &[(&str, &[(&str, usize)])]) -> Result<Self> {
        let corpus = Self { folder: tempfile::tempdir()? };
        let mut toml = "name = \"small\"\n[splits]\n".to_owned();
        for (split, clips) in splits {
            toml += &format!("{split} = \"{split}.csv\"\n");
            std::fs::create_dir_all(corpus.at(&format!("video/{split}/deep")))?;
            let mut table = "video_name,text\n".to_owned();
            for (name, frames) in *clips {
                table += &format!("{name},\"Good day, {name}\"\n");
                film(*frames).write(&corpus.video(split, name))?;
            }
            std::fs::write(corpus.at(&format!("{split}.csv")), table)?;
        }
        std::fs::write(corpus.at("corpus.toml"), toml)?;
        Ok(corpus)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn video(&self, split: &str, name: &str) -> PathBuf {
        self.at(&format!("video/{split}/deep/{name}.mp4"))
    }

    fn stored(&self, split: &str, name: &str) -> PathBuf {
        Store::at(self.at("store")).path("small", split, name)
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meptr"));
        command.arg("extract").arg(self.at("corpus.toml")).arg("--store").arg(self.at("store"));
        command.args(["--weights", DEMO]).arg("--report").arg(self.at("report.json")).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end; gives the exit code, standard error, and `split/video: outcome` of each.
    fn extract(&self, more: &[&str]) -> Result<(i32, String, Vec<String>)> {
        let done = self.command(more).output()?;
        let code = done.status.code().context("it was killed")?;
        Ok((code, String::from_utf8(done.stderr)?, self.outcomes()?))
    }

    fn outcomes(&self) -> Result<Vec<String>> {
        let report: Vec<Value> = serde_json::from_slice(&std::fs::read(self.at("report.json"))?)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let outcome = |entry: &Value| {
            let [split, video, outcome] =
                ["split", "video", "outcome"].map(|key| text(&entry[key]));
            format!("{split}/{video}: {outcome}")
        };
        Ok(report.iter().map(outcome).collect())
    }
}

fn wait_for(path: &Path, child: &mut Child) -> Result<()> {
    let start = Instant::now();
    while !path.exists() {
        ensure!(child.try_wait()?.is_none(), "it ended before `{}` was there", path.display());
        ensure!(start.elapsed() < Duration::from_secs(120), "nothing comes");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[test]
fn what_holds_is_kept_and_what_changed_is_done_again() -> Result<()> {
    let corpus = Corpus::new(&[("train", &[("a", 3), ("b", 4)]), ("val", &[("c", 2)])])?;
    let (code, err, outcomes) = corpus.extract(&[])?;
    assert_eq!(code, 0, "{err}");
    assert_eq!(outcomes, ["train/a: extracted", "train/b: extracted", "dev/c: extracted"]);
    let file = FeatureFile::open(&corpus.stored("train", "b"))?;
    assert_eq!(file.record().frames.len(), 4);
    let scene = file.sequence(Modality::Scene)?.context("a scene")?;
    assert_eq!(scene.dims()[0], 4);
    assert_eq!(file.record().modalities.scene.frames, [0, 1, 2, 3]);
    for modality in Modality::ALL {
        let is_there = file.sequence(modality)?.is_some();
        assert_eq!(is_there, file.record().modalities[modality].reason.is_none(), "{modality}");
    }
    assert!(file.width(Modality::Text).is_some(), "the table's text was not read");

    let (code, err, outcomes) = corpus.extract(&[])?;
    assert_eq!(code, 0, "{err}");
    assert!(outcomes.iter().all(|one| one.ends_with("up_to_date")), "{outcomes:?}");

    film(5).write(&corpus.video("train", "a"))?;
    let table = std::fs::read_to_string(corpus.at("val.csv"))?;
    std::fs::write(corpus.at("val.csv"), table.replace("Good day", "Good night"))?;
    let (_, _, outcomes) = corpus.extract(&[])?;
    assert_eq!(outcomes, ["train/a: extracted", "train/b: up_to_date", "dev/c: extracted"]);
    assert_eq!(FeatureFile::open(&corpus.stored("train", "a"))?.record().frames.len(), 5);

    std::fs::write(corpus.stored("train", "b"), "damaged")?;
    let mut bytes = std::fs::read(corpus.stored("dev", "c"))?;
    *bytes.last_mut().context("numbers")? ^= 1;
    std::fs::write(corpus.stored("dev", "c"), bytes)?;
    let (_, _, outcomes) = corpus.extract(&[])?;
    assert_eq!(outcomes, ["train/a: up_to_date", "train/b: extracted", "dev/c: extracted"]);
    let (_, _, outcomes) = corpus.extract(&["--storage", "f16"])?;
    assert!(outcomes.iter().all(|one| one.ends_with(": extracted")), "{outcomes:?}");
    Ok(())
}

#[test]
fn a_broken_video_is_reported_and_the_others_are_done() -> Result<()> {
    let corpus = Corpus::new(&[("train", &[("a", 2), ("b", 2), ("c", 2)])])?;
    std::fs::write(corpus.video("train", "b"), "no video")?;
    let (code, err, outcomes) = corpus.extract(&[])?;
    assert_eq!(code, 1, "{err}");
    assert_eq!(outcomes, ["train/a: extracted", "train/b: failed", "train/c: extracted"]);
    assert_eq!(err.matches("train/b").count(), 1, "{err}");
    assert!(err.contains("failed: train/b"), "{err}");
    assert!(!corpus.stored("train", "b").exists());
    let report: Vec<Value> = serde_json::from_slice(&std::fs::read(corpus.at("report.json"))?)?;
    let has_file: Vec<bool> = report.iter().map(|entry| entry["file"].is_string()).collect();
    assert_eq!(has_file, [true, false, true]);
    film(2).write(&corpus.video("train", "b"))?;
    let (code, _, outcomes) = corpus.extract(&[])?;
    assert_eq!((code, outcomes[1].as_str()), (0, "train/b: extracted"));
    Ok(())
}

#[test]
fn a_report_never_overwrites_a_table_of_the_corpus() -> Result<()> {
    let corpus = Corpus::new(&[("train", &[("a", 1)])])?;
    let before = std::fs::read_to_string(corpus.at("train.csv"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_meptr"));
    command.arg("extract").arg(corpus.at("corpus.toml")).arg("--store").arg(corpus.at("store"));
    let done = command.arg("--report").arg(corpus.at("train.csv")).output()?;
    let err = String::from_utf8(done.stderr)?;
    assert_eq!(done.status.code(), Some(2), "{err}");
    assert!(err.contains("train.csv"), "{err}");
    assert_eq!(std::fs::read_to_string(corpus.at("train.csv"))?, before);
    Ok(())
}

#[test]
fn a_killed_run_is_completed_by_the_next() -> Result<()> {
    let names: Vec<String> = (0..12).map(|number| format!("clip{number}")).collect();
    let clips: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 3)).collect();
    let corpus = Corpus::new(&[("test", &clips)])?;
    let mut child = corpus.command(&[]).spawn()?;
    wait_for(&corpus.stored("test", "clip1"), &mut child)?;
    child.kill()?; // SIGKILL
    child.wait()?;
    for name in &names {
        let path = corpus.stored("test", name);
        assert!(!path.exists() || FeatureFile::open(&path).is_ok(), "{name} is damaged");
    }
    let (code, err, outcomes) = corpus.extract(&[])?;
    assert_eq!(code, 0, "{err}");
    assert_eq!(outcomes[1], "test/clip1: up_to_date");
    assert!(names.iter().all(|name| FeatureFile::open(&corpus.stored("test", name)).is_ok()));
    Ok(())
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_run_after_the_current_video() -> Result<()> {
    let names: Vec<String> = (0..30).map(|number| format!("clip{number}")).collect();
    let clips: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 3)).collect();
    let corpus = Corpus::new(&[("test", &clips)])?;
    let mut child = corpus.command(&[]).spawn()?;
    wait_for(&corpus.stored("test", "clip0"), &mut child)?;
    Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status()?;
    let done = child.wait_with_output()?;
    let err = String::from_utf8(done.stderr)?;
    assert_eq!(done.status.code(), Some(1), "{err}");
    assert!(err.contains("videos are left"), "{err}");
    let outcomes = corpus.outcomes()?;
    let done = outcomes.iter().filter(|one| one.ends_with(": extracted")).count();
    let left = outcomes.iter().filter(|one| one.ends_with(": left")).count();
    assert!(done >= 1 && left >= 1 && done + left == 30, "{outcomes:?}");
    Ok(())
}

#[test]
fn everything_wrong_with_a_corpus_is_told_before_any_work() -> Result<()> {
    let corpus = Corpus::new(&[("train", &[("a", 1)])])?;
    let toml =
        "name = \"a/b\"\nunheard = 1\n[splits]\ntrain = \"train.csv\"\ntest = \"gone.csv\"\n";
    std::fs::write(corpus.at("corpus.toml"), toml)?;
    std::fs::write(corpus.at("train.csv"), "video_name,text,extra\na,x,1\nlost,x,1\n")?;
    let done = corpus.command(&[]).output()?;
    let err = String::from_utf8(done.stderr)?;
    assert_eq!(done.status.code(), Some(2), "{err}");
    for part in ["unheard", "a/b", "gone.csv", "`extra`", "video/test"] {
        assert!(err.contains(part), "{part} is not in {err}");
    }
    assert!(!corpus.at("store").exists());
    Ok(())
}
