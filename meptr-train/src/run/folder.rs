//! The folder of one model's training: its log, its curves, its checkpoints.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use candle::Tensor;
use meptr_core::files::read_small_text;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::events::Events;
use super::files::{make_folder, write_whole};
use super::scalars::scalars;
use super::{checkpoint, plots};
use crate::stage::{EpochReport, Progress, TrainingState};
use crate::{Error, Result};

/// Folder that a training writes to and resumes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    path: PathBuf,
    stage: &'static str,
    model: String,
}

const LOG: &str = "log.jsonl";
const EVENTS: &str = "events.out.tfevents.meptr";
const LAST: &str = "last.safetensors";
const BEST: &str = "best.safetensors";

impl ModelFolder {
    /// The folder of a model in a run, which need not exist.
    pub fn new(run: &Path, stage: &'static str, model: impl Into<String>) -> Self {
        let model = model.into();
        Self { path: run.join(stage).join(&model), stage, model }
    }

    /// `STAGE MODEL`, for people.
    pub fn title(&self) -> String {
        format!("{} {}", self.stage, self.model)
    }

    /// Weights of the best epoch.
    pub fn best(&self) -> PathBuf {
        self.path.join(BEST)
    }

    /// State in which an earlier run left the training; none when there was none.
    ///
    /// # Errors
    /// When the checkpoint is damaged or cannot be read.
    pub fn state(&self) -> Result<Option<TrainingState>> {
        let path = self.path.join(LAST);
        let saved = if_there(checkpoint::load::<Saved<Progress>>(&path))?;
        let state = |(tensors, saved): (_, Saved<Progress>)| {
            TrainingState::from_parts(saved.progress, tensors)
        };
        saved.map(state).transpose()
    }

    /// Settings that an earlier run trained with; none when there was none.
    ///
    /// # Errors
    /// As [`ModelFolder::state`].
    pub fn settings(&self) -> Result<Option<Value>> {
        let saved = checkpoint::load_beside::<Saved<Value>>(&self.path.join(LAST));
        Ok(if_there(saved)?.map(|saved| saved.settings))
    }

    /// Finds out whether the log has all epochs of the checkpoint.
    ///
    /// # Errors
    /// When it has not, or cannot be read.
    pub fn ensure_logged(&self, epochs: usize) -> Result<()> {
        kept_lines(&self.path.join(LOG), epochs).map(drop)
    }

    /// The log so far, one line per epoch; empty before the first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn lines(&self) -> Result<Vec<Value>> {
        read_lines(&self.path.join(LOG))
    }

    /// Makes the folder and starts its log, or goes on with it after `epochs` epochs.
    ///
    /// `frozen` are the weights that the model has beside those that are trained, `settings` what it
    /// is trained with.
    ///
    /// # Errors
    /// When the folder cannot be written, or the log of an earlier run cannot be read.
    pub fn journal(
        &self,
        epochs: usize,
        frozen: BTreeMap<String, Tensor>,
        settings: Value,
    ) -> Result<Journal<'_>> {
        make_folder(&self.path)?;
        let (lines, left_out) = kept_lines(&self.path.join(LOG), epochs)?;
        let mut text = String::new();
        let mut events = Events::head(lines.first().map_or_else(now, time_of));
        for line in &lines {
            text += &format!("{line}\n");
            add_to(&mut events, line);
        }
        write_whole(&self.path.join(LOG), text.as_bytes())?;
        write_whole(&self.path.join(EVENTS), events.bytes())?;
        Ok(Journal { folder: self, frozen, settings, lines, left_out })
    }
}

/// Writes what there is to write about a training.
#[derive(Debug)]
pub struct Journal<'a> {
    folder: &'a ModelFolder,
    frozen: BTreeMap<String, Tensor>,
    settings: Value,
    lines: Vec<Value>,
    left_out: usize,
}

/// Content of a checkpoint beside the tensors.
#[derive(Serialize, Deserialize)]
struct Saved<P> {
    progress: P,
    settings: Value,
}

/// A line of the log.
#[derive(Serialize)]
struct Line<'a> {
    stage: &'static str,
    model: &'a str,
    /// Seconds since 1970.
    time: f64,
    #[serde(flatten)]
    report: &'a EpochReport,
}

impl Journal<'_> {
    /// After an epoch: log and events, then the checkpoints.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn epoch(&mut self, report: &EpochReport, state: &TrainingState) -> Result<()> {
        let ModelFolder { path, stage, model } = self.folder;
        let line = Line { stage, model, time: now(), report };
        let line = serde_json::to_value(line).expect("a report is numbers and names");
        append(&path.join(LOG), format!("{line}\n").as_bytes())?;
        let mut events = Events::default();
        add_to(&mut events, &line);
        append(&path.join(EVENTS), events.bytes())?;
        self.lines.push(line);
        if report.is_best {
            let mut tensors = state.best_parameters.clone();
            tensors.extend(self.frozen.clone());
            checkpoint::save(&self.folder.best(), &tensors, &report.epoch)?;
        }
        self.save(state)
    }

    /// Keeps the state, so that the training can go on from it.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn save(&self, state: &TrainingState) -> Result<()> {
        let saved = Saved { progress: &state.progress, settings: self.settings.clone() };
        checkpoint::save(&self.folder.path.join(LAST), &state.to_tensors(), &saved)
    }

    /// Lines of an earlier run that its checkpoint knows nothing of, and that are gone now.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Draws the curves, and the confusion counts of the best epoch.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn draw(&self) -> Result<()> {
        let best = self.lines.iter().rev().find(|line| line["is_best"] == true);
        let write = |name: &str, svg: Result<Option<String>, Box<dyn std::error::Error>>| {
            let path = self.folder.path.join(name);
            match svg {
                Ok(Some(svg)) => write_whole(&path, svg.as_bytes()),
                Ok(None) => Ok(()),
                Err(error) => {
                    Err(Error::NotOfARun { path, why: format!("cannot be drawn: {error}") })
                }
            }
        };
        write("curves.svg", plots::curves(&self.lines).map(Some))?;
        write("loss_weights.svg", plots::loss_weights(&self.lines))?;
        write("confusion.svg", best.map_or(Ok(None), plots::confusion))
    }
}

/// The lines of an earlier run up to an epoch, one for each, and how many others there are.
fn kept_lines(path: &Path, epochs: usize) -> Result<(Vec<Value>, usize)> {
    let lines = read_lines(path)?;
    let count = lines.len();
    let numbered = lines.into_iter().filter_map(|line| Some((line["epoch"].as_u64()?, line)));
    let kept: BTreeMap<u64, Value> =
        numbered.filter(|(epoch, _)| (1..=epochs as u64).contains(epoch)).collect();
    if kept.len() == epochs {
        return Ok((kept.into_values().collect(), count - epochs));
    }
    let folder = path.parent().unwrap_or(path).display();
    let why = format!(
        "holds {} of the {epochs} epochs that the checkpoint has; delete the folder `{folder}` to \
         train that model again",
        kept.len()
    );
    Err(Error::NotOfARun { path: path.to_owned(), why })
}

/// Nothing where there is no file.
fn if_there<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(Error::Read { source, .. })
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The lines of a log. A kill may have cut off the last one.
fn read_lines(path: &Path) -> Result<Vec<Value>> {
    match read_small_text(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

fn add_to(events: &mut Events, line: &Value) {
    let numbers = scalars(line);
    let numbers = numbers.iter().map(|(name, value)| (name.as_str(), *value));
    events.scalars(time_of(line), line["epoch"].as_u64().unwrap_or(0), numbers);
}

fn time_of(line: &Value) -> f64 {
    line["time"].as_f64().unwrap_or(0.0)
}

fn now() -> f64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.map_or(0.0, |time| time.as_secs_f64())
}

fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::options().append(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_data()
    };
    write().map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use candle::Device;
    use meptr_core::rng::SeedStreams;

    use super::*;
    use crate::optim::{ScheduleConfig, Scheduler};
    use crate::select::{BestOnDev, CorpusScores, Evaluation};

    fn report(epoch: usize, is_best: bool) -> EpochReport {
        let nothing = CorpusScores { emotion: None, personality: None };
        EpochReport {
            epoch,
            learning_rate: 0.1,
            loss: if epoch == 2 { f64::NAN } else { 1.0 / epoch as f64 },
            train: nothing,
            dev: Evaluation::new(vec![("x".to_owned(), nothing)]),
            dev_score: serde_json::from_str("0.5").unwrap(),
            grad_norm: None,
            is_best,
            seconds: 0.0,
        }
    }

    fn state(epochs: usize) -> TrainingState {
        let weight = Tensor::new(&[epochs as f32], &Device::Cpu).unwrap();
        let parameters = BTreeMap::from([("w".to_owned(), weight)]);
        TrainingState {
            progress: Progress {
                epochs,
                batches: 0,
                loss_sum: 0.0,
                rows: 0,
                grad_norm: None,
                scheduler: Scheduler::new(ScheduleConfig::None, 0.1, 9, 1),
                best: BestOnDev::new(3),
                dropout: SeedStreams::new(1).stream("dropout"),
            },
            best_parameters: parameters.clone(),
            parameters,
            optimiser: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    #[test]
    fn what_a_kill_left_too_much_is_taken_away() {
        let run = tempfile::tempdir().unwrap();
        let folder = ModelFolder::new(run.path(), "stage1", "face-emotion");
        assert!(folder.state().unwrap().is_none() && folder.lines().unwrap().is_empty());
        let mut journal = folder.journal(0, BTreeMap::new(), Value::Null).unwrap();
        for epoch in 1..=2 {
            journal.epoch(&report(epoch, epoch == 1), &state(epoch)).unwrap();
        }
        let events = std::fs::read(folder.path.join(EVENTS)).unwrap();
        let last = std::fs::read(folder.path.join(LAST)).unwrap();
        journal.epoch(&report(3, true), &state(3)).unwrap();
        // Killed after the log of the third epoch and before its checkpoint, in the middle of a line.
        std::fs::write(folder.path.join(LAST), last).unwrap();
        append(&folder.path.join(LOG), b"{\"epoch\": 4, \"lo").unwrap();
        append(&folder.path.join(EVENTS), b"half").unwrap();

        let progress = folder.state().unwrap().unwrap().progress;
        assert_eq!(progress, state(2).progress);
        let journal = folder.journal(progress.epochs, BTreeMap::new(), Value::Null).unwrap();
        journal.draw().unwrap();
        let lines = folder.lines().unwrap();
        assert_eq!(lines.len(), 2);
        assert!(lines[1]["loss"].is_null() && lines[0]["stage"] == "stage1");
        let rebuilt = std::fs::read(folder.path.join(EVENTS)).unwrap();
        // The first record says when the file was begun.
        const FIRST_RECORD_BYTES: usize = 40;
        assert_eq!(rebuilt[FIRST_RECORD_BYTES..], events[FIRST_RECORD_BYTES..]);
        assert!(folder.path.join("curves.svg").exists());
        assert!(folder.ensure_logged(3).is_err(), "an epoch is missing");
    }

    #[test]
    fn a_log_that_two_processes_wrote_is_gone_on_with() {
        let run = tempfile::tempdir().unwrap();
        let folder = ModelFolder::new(run.path(), "stage1", "face-emotion");
        let settings = serde_json::json!({"seed": 3});
        let mut journal = folder.journal(0, BTreeMap::new(), settings.clone()).unwrap();
        for epoch in [1, 1, 2, 2, 3] {
            journal.epoch(&report(epoch, epoch == 1), &state(epoch)).unwrap();
        }
        journal.save(&state(2)).unwrap();
        assert_eq!(folder.settings().unwrap(), Some(settings));
        let journal = folder.journal(2, BTreeMap::new(), Value::Null).unwrap();
        assert_eq!((journal.left_out(), folder.lines().unwrap().len()), (3, 2));
        assert_eq!(folder.lines().unwrap()[1]["epoch"], 2);
    }

    #[test]
    fn the_best_weights_hold_the_frozen_ones_too() {
        let run = tempfile::tempdir().unwrap();
        let folder = ModelFolder::new(run.path(), "stage2", "face");
        let frozen =
            BTreeMap::from([("f".to_owned(), Tensor::new(&[9f32], &Device::Cpu).unwrap())]);
        let mut journal = folder.journal(0, frozen, Value::Null).unwrap();
        journal.epoch(&report(1, true), &state(1)).unwrap();
        journal.epoch(&report(2, false), &state(2)).unwrap();
        let (tensors, epoch): (_, usize) = checkpoint::load(&folder.best()).unwrap();
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["f", "w"]);
        assert_eq!(epoch, 1);
    }

    /// `/dev/full` takes no byte, as a full disk.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_with_the_file() {
        let run = tempfile::tempdir().unwrap();
        let folder = ModelFolder::new(run.path(), "stage1", "face-emotion");
        let mut journal = folder.journal(0, BTreeMap::new(), Value::Null).unwrap();
        std::fs::remove_file(folder.path.join(LOG)).unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path.join(LOG)).unwrap();
        let error = journal.epoch(&report(1, true), &state(1)).unwrap_err();
        let Error::Write { path, source } = error else { panic!("{error}") };
        assert!(path.ends_with(LOG) && source.kind() == std::io::ErrorKind::StorageFull);
    }
}
