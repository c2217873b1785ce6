//! Prediction of emotions and traits of a video, in one call.
//!
//! ```no_run
//! use meptr_extract::Predictor;
//!
//! let predictor = Predictor::open("weights/demo".as_ref())?;
//! let prediction = predictor.predict("samples/portrait.mp4".as_ref())?;
//! for one in &prediction.predictions[0].emotions {
//!     println!("{:10} {:.3}", one.emotion.name(), one.probability);
//! }
//! # Ok::<(), meptr_extract::Error>(())
//! ```

mod person_selection;
mod request;
mod scoring;
mod window_average;
mod window_scores;

use std::path::Path;

use meptr_core::bundle::{Bundle, TrainingStatus};
use meptr_core::prediction::{
    MediaSummary, Scope, TranscriptReport, TranscriptSegment, VideoPrediction, WeightFileSummary,
    WeightsSummary,
};

pub use request::{PersonChoice, PredictorOptions, Request};
pub use scoring::{FusedScores, HeadScores, Scorer};

use crate::decode::VideoInfo;
use crate::detect::tracker::BotSortConfig;
use crate::detect::{Detector, FaceDetector};
use crate::load_errors::{COLLECTED, LoadErrors};
use crate::pipeline::{ComputeTarget, Extraction, Extractor, SourcedTranscript, join_on_cpu};
use crate::progress::{Progress, Unwatched};
use crate::{Error, Result};
use person_selection::PersonSelection;
use window_scores::ScoreAccumulator;

/// A weight bundle, loaded and ready for any number of videos.
#[derive(Debug)]
pub struct Predictor {
    extractor: Extractor,
    scorer: Scorer,
    weights: WeightsSummary,
}

impl Predictor {
    /// Loads a bundle with the default options.
    ///
    /// # Errors
    /// As [`Predictor::open_with`].
    pub fn open(bundle: &Path) -> Result<Self> {
        Self::open_with(bundle, &PredictorOptions::default())
    }

    /// Loads a bundle.
    ///
    /// # Errors
    /// When the device is not available, the bundle is incomplete, or a part does not fit its
    /// configuration.
    pub fn open_with(bundle: &Path, options: &PredictorOptions) -> Result<Self> {
        let target = ComputeTarget { device: options.device.open()?, precision: options.precision };
        Self::open_at(bundle, &target, options)
    }

    /// Loads a bundle on a device that is open already; `options` without its device and precision.
    ///
    /// # Errors
    /// As [`Predictor::open_with`].
    pub fn open_at(
        bundle: &Path,
        target: &ComputeTarget,
        options: &PredictorOptions,
    ) -> Result<Self> {
        let bundle = Bundle::open(bundle)?;
        let device = &target.device;
        let (limits, transcribes) = (options.limits.clone(), options.transcribes);
        let (extractor, scorer) = join_on_cpu(
            device,
            || Extractor::open_at(&bundle, target, limits, transcribes),
            || Scorer::open(&bundle, device),
        );
        let mut errors = LoadErrors::default();
        let (extractor, scorer) = (errors.collect(extractor)?, errors.collect(scorer)?);
        errors.finish()?;
        let mut extractor = extractor.expect(COLLECTED);
        if let Some(model) = options.face_model {
            extractor.set_face_detector(Box::new(FaceDetector::bundled(model, device)?));
        }
        Ok(Self { extractor, scorer: scorer.expect(COLLECTED), weights: weights_summary(&bundle) })
    }

    /// Whether the predictor computes on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        self.extractor.is_on_gpu()
    }

    /// Replaces the body detector; its detections are tracked, see
    /// [`Extractor::set_body_detector`].
    pub fn set_body_detector(&mut self, detector: Box<dyn Detector>) {
        self.extractor.set_body_detector(detector);
    }

    /// Changes the tracking of bodies, or turns it off, see [`Extractor::set_body_tracking`].
    pub fn set_body_tracking(&mut self, tracking: Option<BotSortConfig>) {
        self.extractor.set_body_tracking(tracking);
    }

    /// Sets the threads of the video decoder, see [`Extractor::set_decoder_threads`].
    pub fn set_decoder_threads(&mut self, threads: usize) {
        self.extractor.set_decoder_threads(threads);
    }

    /// Predicts a video like the reference: as one window, all persons pooled.
    ///
    /// # Errors
    /// As [`Predictor::predict_with`].
    pub fn predict(&self, video: &Path) -> Result<VideoPrediction> {
        self.predict_with(video, &Request::default(), &Unwatched)
    }

    /// Predicts a video with options, and reports progress.
    ///
    /// # Errors
    /// When the file cannot be decoded at all or is over a limit, when all modalities are absent, or
    /// when the device fails.
    pub fn predict_with(
        &self,
        video: &Path,
        request: &Request,
        progress: &dyn Progress,
    ) -> Result<VideoPrediction> {
        let start = std::time::Instant::now();
        let persons = PersonSelection::new(request.person, request.per_person);
        let mut scores = ScoreAccumulator::new(&self.scorer, persons);
        let mut found = self.extractor.extract(video, &request.extract, &mut scores, progress)?;
        let scope = if request.extract.window.is_some() { Scope::Window } else { Scope::Video };
        let mut predictions = scores.fuse(scope, &found.windows, &mut found.timings)?;
        if let Some(average) = window_average::window_average(&predictions) {
            predictions.insert(0, average);
        }
        if predictions.is_empty() {
            return Err(Error::NothingToPredict { path: video.to_owned() });
        }
        found.timings.add("in all", start.elapsed());
        Ok(VideoPrediction {
            schema: VideoPrediction::SCHEMA.to_owned(),
            video: video.display().to_string(),
            media: media_summary(&found),
            predictions,
            people: scores.persons(),
            transcript: found.transcript.as_ref().map(reported_transcript),
            notes: self.notes(&found),
            steps: found.timings.report(),
            weights: self.weights.clone(),
        })
    }

    fn notes(&self, found: &Extraction) -> Vec<String> {
        let report = &found.report;
        let status = match self.weights.status {
            TrainingStatus::Untrained => {
                Some("the weights are untrained: these numbers mean nothing")
            }
            TrainingStatus::Demonstration => Some(
                "the weights were trained on synthetic data: these numbers mean nothing about people",
            ),
            TrainingStatus::Trained => None,
        };
        let corrupt = (report.corrupt_packets > 0).then(|| {
            format!("{} packets could not be decoded and were left out", report.corrupt_packets)
        });
        let damaged = (report.frames_damaged > 0).then(|| {
            format!("{} frames are damaged and were used nevertheless", report.frames_damaged)
        });
        let changes = (report.size_changes > 0)
            .then(|| format!("the frames change their size {} times", report.size_changes));
        let notes = [status.map(str::to_owned), corrupt, damaged, changes];
        notes.into_iter().flatten().chain(found.notes.iter().cloned()).collect()
    }
}

fn weights_summary(bundle: &Bundle) -> WeightsSummary {
    let manifest = bundle.manifest();
    let files = manifest.files.iter();
    WeightsSummary {
        name: manifest.name.clone(),
        about: manifest.about.clone(),
        status: manifest.status,
        files: files
            .map(|(name, file)| WeightFileSummary {
                name: name.clone(),
                sha256: file.sha256.clone(),
            })
            .collect(),
    }
}

fn media_summary(found: &Extraction) -> MediaSummary {
    let end = found.windows.iter().map(|window| window.end_seconds).fold(0.0, f64::max);
    let video = found.media.video.as_ref();
    MediaSummary {
        duration_seconds: end,
        frame_size: video.map(upright_size),
        frames: found.report.frames_decoded,
        corrupt: found.report.corrupt_packets,
        audio_seconds: found.media.audio.as_ref().map(|_| found.report.audio_seconds),
    }
}

/// Width and height of a frame after rotation.
fn upright_size(video: &VideoInfo) -> (usize, usize) {
    match video.orientation.rotation_degrees() {
        90 | 270 => (video.height, video.width),
        _ => (video.width, video.height),
    }
}

fn reported_transcript(found: &SourcedTranscript) -> TranscriptReport {
    let cues = found.transcript.cues.iter();
    TranscriptReport {
        source: found.source.name().to_owned(),
        text: found.transcript.text.clone(),
        language: found.language.clone(),
        segments: cues
            .map(|cue| TranscriptSegment {
                t_start: cue.start_seconds,
                t_end: cue.end_seconds,
                text: cue.text.clone(),
            })
            .collect(),
    }
}
