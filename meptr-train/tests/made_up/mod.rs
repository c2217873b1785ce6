//! Small made-up corpora in a feature store, and a listener that stops trainings.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use candle::{DType, Device, Tensor};
use meptr_core::rng::{RandomStream, SeedStreams};
use meptr_core::store::{
    Provenance, SequenceRecord, SourceFile, Storage, Store, VideoRecord, write_features,
};
use meptr_core::{Emotion, Modality, PerModality, Task};
use meptr_train::data::{Clip, Corpus, Split, StoredClips};
use meptr_train::stage::{
    Control, EpochReport, Observer, Outcome, Progress, Start, StepReport, TrainingState,
};
use serde_json::Value;

/// Width of every sequence.
pub const WIDTH: usize = 8;

/// A split of a corpus: what its videos are like.
pub struct MadeUp<'a> {
    pub corpus: &'a str,
    pub videos: usize,
    /// Tasks that the videos are labelled for.
    pub tasks: &'a [Task],
    /// Digest of the weights that made the features.
    pub weights: &'a str,
}

impl MadeUp<'_> {
    /// Writes the features. A column of each step tells the emotion, and the traits follow from it;
    /// every third video lacks its text, and the sound has two pieces.
    pub fn store<S: Split>(&self, folder: &Path) -> Result<Arc<StoredClips>> {
        let store = Store::at(folder);
        let mut stream = SeedStreams::new(11).stream(&format!("{} {}", self.corpus, S::NAME));
        let mut clips = Vec::new();
        for number in 0..self.videos {
            let name = format!("v{number}");
            let class = stream.below(Emotion::COUNT);
            let mut sequences = PerModality::default();
            let mut records = PerModality::from_fn(|_| SequenceRecord::absent("made up"));
            for modality in Modality::ALL {
                if modality == Modality::Text && number.is_multiple_of(3) {
                    continue;
                }
                let steps = 2 + stream.below(3);
                sequences[modality] = Some(sequence(class, steps, &mut stream)?);
                let pieces = match modality {
                    Modality::Audio => vec![1, steps - 1],
                    _ => vec![steps],
                };
                records[modality] = SequenceRecord { pieces, ..SequenceRecord::default() };
            }
            let path = store.path(self.corpus, S::NAME, &name);
            write_features(&path, &self.record(&name, records), &sequences, Storage::F32)?;
            let emotion = || std::array::from_fn(|index| f32::from(u8::from(index == class)));
            let traits = || std::array::from_fn(|index| ((class + index) % 7) as f32 / 8.0);
            clips.push(Clip {
                name,
                text: None,
                emotion: self.tasks.contains(&Task::Emotion).then(emotion),
                personality: self.tasks.contains(&Task::Personality).then(traits),
            });
        }
        let corpus = Corpus::<S, _>::new(self.corpus, clips);
        Ok(Arc::new(StoredClips::open(&store, &corpus, None)?))
    }

    fn record(&self, name: &str, modalities: PerModality<SequenceRecord>) -> VideoRecord {
        VideoRecord {
            schema: VideoRecord::SCHEMA.to_owned(),
            video: name.to_owned(),
            provenance: Provenance {
                video: SourceFile { bytes: 1, modified_ns: None, sha256: String::new() },
                audio: None,
                text_sha256: None,
                weights: BTreeMap::from([("made up".to_owned(), self.weights.to_owned())]),
                settings_sha256: String::new(),
            },
            duration_seconds: 1.0,
            frames: Vec::new(),
            modalities,
        }
    }
}

fn sequence(class: usize, steps: usize, stream: &mut RandomStream) -> Result<Tensor> {
    let cells = (0..steps * WIDTH).map(|index| {
        let signal = if index % WIDTH == class { 2.0 } else { 0.0 };
        signal + 0.3 * stream.normal() as f32
    });
    Ok(Tensor::from_vec(cells.collect::<Vec<_>>(), (steps, WIDTH), &Device::Cpu)?)
}

/// Keeps what it hears, and stops a training after some steps.
#[derive(Default)]
pub struct Watcher {
    pub stop_after: Option<usize>,
    pub steps: Vec<StepReport>,
    pub reports: Vec<EpochReport>,
    pub last: Option<TrainingState>,
}

impl Observer for Watcher {
    fn step(&mut self, step: &StepReport) -> Control {
        self.steps.push(*step);
        match self.stop_after {
            Some(count) if self.steps.len() >= count => Control::Stop,
            _ => Control::Continue,
        }
    }

    fn epoch(&mut self, report: &EpochReport, state: &TrainingState) -> meptr_train::Result<()> {
        self.reports.push(report.clone());
        self.last = Some(state.clone());
        Ok(())
    }
}

impl Watcher {
    /// The reports without what differs from run to run.
    fn told(&self) -> Result<Vec<Value>> {
        let told = |report: &EpochReport| -> Result<Value> {
            let mut json = serde_json::to_value(report)?;
            json["seconds"] = Value::Null;
            Ok(json)
        };
        self.reports.iter().map(told).collect()
    }
}

/// A training that is stopped after any of `stops` steps, saved to a file and gone on with is the
/// uninterrupted one, bit for bit; so is one from the state after its first epoch.
pub fn ensure_resumes(
    stops: &[usize],
    train: impl Fn(Start, &mut Watcher) -> Result<Outcome>,
) -> Result<()> {
    let fresh = || Start::Fresh(SeedStreams::new(1).stream("dropout"));
    let mut whole = Watcher::default();
    let outcome = train(fresh(), &mut whole)?;
    ensure!(outcome.is_finished && whole.reports.len() > 1);
    for stop in stops {
        let mut first = Watcher { stop_after: Some(*stop), ..Watcher::default() };
        let stopped = train(fresh(), &mut first)?;
        ensure!(!stopped.is_finished && first.steps.len() == *stop, "it did not stop");
        let mut rest = Watcher::default();
        let resumed = train(Start::After(Box::new(saved(&stopped.state)?)), &mut rest)?;
        first.steps.append(&mut rest.steps);
        first.reports.append(&mut rest.reports);
        ensure!(first.steps == whole.steps, "the steps differ after a stop at {stop}");
        ensure!(first.told()? == whole.told()?, "the epochs differ after a stop at {stop}");
        ensure_equal(&resumed.state, &outcome.state)?;
    }
    Ok(())
}

/// State after a round trip through a file.
fn saved(state: &TrainingState) -> Result<TrainingState> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint.safetensors");
    meptr_core::weights::save_file(&path, &state.to_tensors())?;
    let tensors = candle::safetensors::load(&path, &Device::Cpu)?.into_iter().collect();
    let progress: Progress = serde_json::from_str(&serde_json::to_string(&state.progress)?)?;
    Ok(TrainingState::from_parts(progress, tensors)?)
}

fn ensure_equal(found: &TrainingState, expected: &TrainingState) -> Result<()> {
    ensure!(found.progress == expected.progress, "the progress differs");
    ensure!(bits(&found.to_tensors())? == bits(&expected.to_tensors())?, "the tensors differ");
    Ok(())
}

pub fn bits(tensors: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Vec<u32>>> {
    let bits = |tensor: &Tensor| -> Result<Vec<u32>> {
        let tensor = tensor.to_dtype(DType::F32)?.flatten_all()?;
        Ok(tensor.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
    };
    tensors.iter().map(|(name, tensor)| Ok((name.clone(), bits(tensor)?))).collect()
}

/// Every parameter was moved along a finite gradient that is not all 0; Adam's memory tells.
pub fn ensure_all_trained(state: &TrainingState, is_exempt: impl Fn(&str) -> bool) -> Result<()> {
    for name in state.parameters.keys().filter(|name| !is_exempt(name)) {
        let squares = state.optimiser.get(&format!("{name}.second_moment"));
        let squares = match squares {
            Some(squares) => squares.flatten_all()?.to_vec1::<f32>()?,
            None => anyhow::bail!("no gradient ever reached {name}"),
        };
        ensure!(squares.iter().all(|square| square.is_finite()), "{name} is not finite");
        ensure!(squares.iter().any(|square| *square > 0.0), "the gradient of {name} is 0");
    }
    Ok(())
}
