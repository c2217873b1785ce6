//! `meptr extract`: features of a corpus, written to a feature store.

use std::collections::BTreeMap;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::Args;
use meptr_core::Bundle;
use meptr_core::store::{
    FeatureFile, Provenance, SourceFile, Storage, Store, VideoRecord, digest_of, weights_digests,
    write_features,
};
use meptr_extract::allocator;
use meptr_extract::decode::Limits;
use meptr_extract::pipeline::{
    ComputeTarget, Extractor, TranscriptChoice, VideoSources, collect_features, settings_digest,
};
use meptr_train::data::{Clip, DescribedCorpus, Media};

use super::weights::{FirstUseArgs, asked};
use crate::progress::Bars;
use crate::report::extraction::{Entry, ExtractionReport, Outcome};
use crate::workers::{DeviceArgs, catch_panic, open_all, run_ordered, workers_per_device};
use crate::{Finish, interrupt, output};

/// Extract the features of a corpus into a feature store, for training
///
/// A second run extracts only features that are missing or no longer valid.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// Description of the corpus; configs/corpus.toml explains every key
    #[arg(value_name = "CORPUS.toml")]
    corpus: PathBuf,
    /// Folder of the feature store; created if needed, and shared by any number of corpora
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Weight bundle, named as for `meptr predict`
    #[arg(long, value_name = "DIR|NAME")]
    weights: Option<PathBuf>,
    /// Data type of stored features: f32, or f16 for half the space
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    storage: Storage,
    #[command(flatten)]
    devices: DeviceArgs,
    /// File for a list of all videos and their outcomes, written at the end: .json or .csv
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    first_use: FirstUseArgs,
}

/// Extracts every video without valid stored features; one that fails does not stop the others.
///
/// # Errors
/// When an argument cannot work, the corpus, the weights or the store cannot be used, or the store
/// cannot be written.
pub fn run(args: &ExtractArgs, quiet: bool) -> anyhow::Result<Finish> {
    allocator::keep();
    let targets = args.devices.open()?;
    let mut report = ExtractionReport::new(args.report.clone())?;
    let corpus = DescribedCorpus::read_with_media(&args.corpus)?;
    args.check_report(&corpus)?;
    for warning in &corpus.warnings {
        tracing::warn!("{warning}");
    }
    let folder = args.first_use.bundle(args.weights.as_deref(), quiet, &asked)?;
    let in_folder = || format!("cannot use the weights in `{}`", folder.display());
    let bundle = Bundle::open(&folder).with_context(in_folder)?;
    let store = Store::at(&args.store);
    let _lock = store.lock()?;
    let job = Job {
        weights: weights_digests(bundle.manifest()),
        settings_sha256: settings_digest(args.storage),
        storage: args.storage,
    };
    let todo = job.todo(&corpus, &store, &mut report);
    let stop = interrupt::flag()?;
    let result = match todo.is_empty() {
        true => Ok(()),
        false => {
            let open = |target: ComputeTarget| {
                let mut extractor = Extractor::open_at(&bundle, &target, Limits::default(), false)
                    .with_context(in_folder)?;
                extractor.set_decoder_threads(args.devices.decoder_threads(extractor.is_on_gpu()));
                Ok(extractor)
            };
            let extractors = open_all(targets, open)?;
            job.run(extractors, todo, &mut report, RunControl { stop: &stop, quiet })
        }
    };
    let name = &corpus.name;
    output::line(format_args!("{name} in `{}`: {}", store.root().display(), report.summary()))?;
    let is_complete = report.finish()?;
    result?;
    Ok(if is_complete { Finish::Complete } else { Finish::SomeFailed })
}

impl ExtractArgs {
    /// Refuses a report that would overwrite a file of the corpus.
    fn check_report(&self, corpus: &DescribedCorpus) -> anyhow::Result<()> {
        let Some(report) = &self.report else { return Ok(()) };
        let media = corpus.splits().iter().flat_map(|split| &split.media).flatten();
        let media = media.flat_map(|media| iter::once(&media.video).chain(&media.audio));
        let tables = corpus.splits().iter().map(|split| &split.table);
        output::ensure_output_is_not_an_input(
            report,
            iter::once(&self.corpus).chain(tables).chain(media),
        )
    }
}

/// Weights and settings of the run, on which features depend.
struct Job {
    weights: BTreeMap<String, String>,
    settings_sha256: String,
    storage: Storage,
}

/// Control of a run.
#[derive(Clone, Copy)]
struct RunControl<'a> {
    /// Set when the run shall end.
    stop: &'a AtomicBool,
    /// Whether progress is hidden.
    quiet: bool,
}

/// A video to extract.
struct Task<'a> {
    /// Index of its entry in the report.
    entry: usize,
    split: &'static str,
    clip: &'a Clip,
    media: &'a Media,
    path: PathBuf,
}

impl Job {
    /// Adds every video to the report; returns those to extract.
    fn todo<'a>(
        &self,
        corpus: &'a DescribedCorpus,
        store: &Store,
        report: &mut ExtractionReport,
    ) -> Vec<Task<'a>> {
        let mut todo = Vec::new();
        for split in corpus.splits() {
            for (clip, media) in split.clips.iter().zip(&split.media) {
                let path = store.path(&corpus.name, split.name, &clip.name);
                let mut add = |outcome, note: Option<String>| {
                    report.add(Entry {
                        split: split.name,
                        video: clip.name.clone(),
                        outcome,
                        note,
                        file: path.clone(),
                    })
                };
                let Some(media) = media else {
                    add(Outcome::Missing, None);
                    continue;
                };
                match self.stale(&path, clip, media) {
                    None => {
                        add(Outcome::UpToDate, None);
                    }
                    Some(why) => {
                        let entry = add(Outcome::Left, Some(why));
                        todo.push(Task { entry, split: split.name, clip, media, path });
                    }
                }
            }
        }
        todo
    }

    /// Reason why the features in `path` are not valid; `None` when they are.
    fn stale(&self, path: &Path, clip: &Clip, media: &Media) -> Option<String> {
        if !path.exists() {
            return Some("new".to_owned());
        }
        let file = match FeatureFile::open(path) {
            Ok(file) => file,
            Err(error) => return Some(error.to_string()),
        };
        let was = &file.record().provenance;
        let differs = |file: &SourceFile, path: &Path| !file.is_still(path).unwrap_or(false);
        let audio_differs = match (&was.audio, &media.audio) {
            (Some(file), Some(path)) => differs(file, path),
            (was, is) => was.is_some() != is.is_some(),
        };
        let reasons = [
            (differs(&was.video, &media.video), "the video changed"),
            (audio_differs, "the sound changed"),
            (was.text_sha256 != text_digest(clip), "the text changed"),
            (was.weights != self.weights, "the weights changed"),
            (was.settings_sha256 != self.settings_sha256, "the settings changed"),
        ];
        let why = reasons.into_iter().find(|(applies, _)| *applies).map(|(_, why)| why.to_owned());
        why.or_else(|| file.verify().err().map(|error| error.to_string())) // last: it reads all
    }

    /// Extracts videos until all are done or `stop` is set, with the extractors of all devices.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn run(
        &self,
        extractors: Vec<Extractor>,
        todo: Vec<Task<'_>>,
        report: &mut ExtractionReport,
        control: RunControl<'_>,
    ) -> anyhow::Result<()> {
        let bars = Bars::new(todo.len(), control.quiet);
        let extract = |extractor: &&Extractor, task: Task<'_>| {
            bars.start(&task.media.video);
            let result = self.extract(extractor, &task, &bars);
            bars.end();
            (task.entry, result.map_err(|failure| failure.report(&task, &bars)))
        };
        let workers = workers_per_device(&extractors, |extractor| !extractor.is_on_gpu());
        run_ordered(workers, todo, control.stop, extract, |(entry, result)| match result {
            Ok(()) => {
                report.set(entry, Outcome::Extracted, None);
                Ok(())
            }
            Err(Failure::Video(error)) => {
                report.set(entry, Outcome::Failed, Some(format!("{error:#}")));
                Ok(())
            }
            Err(Failure::Store(error)) => Err(error),
        })
    }

    fn extract(&self, extractor: &Extractor, task: &Task<'_>, bars: &Bars) -> Result<(), Failure> {
        let Task { clip, media, path, .. } = task;
        let provenance = self.provenance(clip, media).map_err(Failure::Video)?;
        let transcript = match &clip.text {
            Some(text) => TranscriptChoice::Text(text.clone()),
            None => TranscriptChoice::Find,
        };
        let sources =
            VideoSources { video: &media.video, audio: media.audio.as_deref(), transcript };
        let features =
            catch_panic(&media.video, || Ok(collect_features(extractor, &sources, bars)?))
                .map_err(Failure::Video)?;
        let record = VideoRecord {
            schema: VideoRecord::SCHEMA.to_owned(),
            video: clip.name.clone(),
            provenance,
            duration_seconds: features.duration_seconds,
            frames: features.frames,
            modalities: features.records,
        };
        match write_features(path, &record, &features.sequences, self.storage) {
            Ok(()) => Ok(()),
            Err(error @ meptr_core::Error::Write { .. }) => Err(Failure::Store(error.into())),
            Err(error) => Err(Failure::Video(error.into())),
        }
    }

    /// State of the source files, taken before extraction, so that a file that changes meanwhile is
    /// extracted again next time.
    fn provenance(&self, clip: &Clip, media: &Media) -> anyhow::Result<Provenance> {
        let measure = |path: &Path| {
            SourceFile::of(path).with_context(|| format!("cannot read `{}`", path.display()))
        };
        Ok(Provenance {
            video: measure(&media.video)?,
            audio: media.audio.as_deref().map(measure).transpose()?,
            text_sha256: text_digest(clip),
            weights: self.weights.clone(),
            settings_sha256: self.settings_sha256.clone(),
        })
    }
}

/// Reason why a video has no features.
enum Failure {
    /// Failure of the video: the others may succeed.
    Video(anyhow::Error),
    /// Failure of the store: the others will fail too.
    Store(anyhow::Error),
}

impl Failure {
    /// Reports a failed video at once, and deletes its old features.
    fn report(self, task: &Task<'_>, bars: &Bars) -> Self {
        if let Self::Video(error) = &self {
            // Features of an earlier version of the video must not be used for training.
            let _ = std::fs::remove_file(&task.path); // there may be none
            bars.aside(|| tracing::error!("failed: {}/{}: {error:#}", task.split, task.clip.name));
        }
        self
    }
}

fn text_digest(clip: &Clip) -> Option<String> {
    clip.text.as_ref().map(|text| digest_of(text.as_bytes()))
}
