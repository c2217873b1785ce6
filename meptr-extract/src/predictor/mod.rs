//! From a video to emotions and traits, in one call.
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

use meptr_core::bundle::{Bundle, Standing};
use meptr_core::prediction::{
    MediaSummary, Scope, Segment, Transcript, VideoPrediction, WeightFileSummary, WeightsSummary,
};

pub use request::{PersonChoice, PredictorOptions, Request};
pub use scoring::{FusedScores, HeadScores, Scorer};

use crate::decode::VideoInfo;
use crate::detect::tracker::BotSortConfig;
use crate::detect::{Detector, FaceDetector};
use crate::load_errors::{NOTED, Unfit};
use crate::pipeline::{Extraction, Extractor, Place, Steps, Words, at_once};
use crate::progress::{Progress, Unwatched};
use crate::{Error, Result};
use person_selection::Cast;
use window_scores::Board;

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
    /// When the device cannot be had, the bundle is not whole, or a part does not fit its
    /// configuration.
    pub fn open_with(bundle: &Path, options: &PredictorOptions) -> Result<Self> {
        let bundle = Bundle::open(bundle)?;
        let device = options.device.open()?;
        let place = Place { device: device.clone(), precision: options.precision };
        let (limits, listens) = (options.limits.clone(), options.listens);
        let (extractor, scorer) = at_once(
            &device,
            || Extractor::open_at(&bundle, &place, limits, listens),
            || Scorer::open(&bundle, &device),
        );
        let mut unfit = Unfit::default();
        let (extractor, scorer) = (unfit.note(extractor)?, unfit.note(scorer)?);
        unfit.finish()?;
        let mut extractor = extractor.expect(NOTED);
        if let Some(model) = options.face_model {
            extractor.set_face_detector(Box::new(FaceDetector::bundled(model, &device)?));
        }
        Ok(Self { extractor, scorer: scorer.expect(NOTED), weights: weights_summary(&bundle) })
    }

    /// Whether it computes on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        self.extractor.is_on_gpu()
    }

    /// Finds bodies with another detector than the bundle's; they are tracked, see
    /// [`Extractor::set_body_detector`].
    pub fn set_body_detector(&mut self, detector: Box<dyn Detector>) {
        self.extractor.set_body_detector(detector);
    }

    /// Follows bodies in another way than the reference does by default, or not at all, see
    /// [`Extractor::set_body_tracking`].
    pub fn set_body_tracking(&mut self, tracking: Option<BotSortConfig>) {
        self.extractor.set_body_tracking(tracking);
    }

    /// Decodes with so many threads, see [`Extractor::set_decoder_threads`].
    pub fn set_decoder_threads(&mut self, threads: usize) {
        self.extractor.set_decoder_threads(threads);
    }

    /// Predicts a video the reference's way: the whole of it in one pass, all people pooled.
    ///
    /// # Errors
    /// As [`Predictor::predict_with`].
    pub fn predict(&self, video: &Path) -> Result<VideoPrediction> {
        self.predict_with(video, &Request::default(), &Unwatched)
    }

    /// Predicts a video as asked, and says how far it is.
    ///
    /// # Errors
    /// When the file cannot be decoded at all or is over a limit, when nothing in it can be
    /// predicted from, or when the device fails.
    pub fn predict_with(
        &self,
        video: &Path,
        request: &Request,
        progress: &dyn Progress,
    ) -> Result<VideoPrediction> {
        let start = std::time::Instant::now();
        let cast = Cast::new(request.person, request.per_person);
        let mut board = Board::new(&self.scorer, self.extractor.detectors(), cast);
        let mut found = self.extractor.extract(video, &request.extract, &mut board, progress)?;
        let scope = if request.extract.window.is_some() { Scope::Window } else { Scope::Video };
        let mut predictions = board.scores(scope, &found.windows, &mut found.steps)?;
        if scope == Scope::Window
            && let Some(summary) = window_average::summary(&predictions)
        {
            predictions.insert(0, summary);
        }
        if predictions.is_empty() {
            return Err(Error::NothingToPredict { path: video.to_owned() });
        }
        found.steps.add("in all", start.elapsed());
        Ok(VideoPrediction {
            schema: VideoPrediction::SCHEMA.to_owned(),
            video: video.display().to_string(),
            media: media_summary(&found),
            predictions,
            people: board.people(),
            transcript: found.words.as_ref().map(transcript),
            notes: self.notes(&found),
            steps: Steps::report(&found.steps),
            weights: self.weights.clone(),
        })
    }

    fn notes(&self, found: &Extraction) -> Vec<String> {
        let report = &found.report;
        let standing = match self.weights.standing {
            Standing::Untrained => Some("the weights are untrained: these numbers mean nothing"),
            Standing::Demonstration => Some(
                "the weights were trained on synthetic data: these numbers mean nothing about people",
            ),
            Standing::Trained => None,
        };
        let corrupt = (report.corrupt_packets > 0).then(|| {
            format!("{} packets could not be decoded and were left out", report.corrupt_packets)
        });
        let damaged = (report.frames_damaged > 0).then(|| {
            format!("{} pictures are damaged and were used all the same", report.frames_damaged)
        });
        let changes = (report.size_changes > 0)
            .then(|| format!("the pictures change their size {} times", report.size_changes));
        let notes = [standing.map(str::to_owned), corrupt, damaged, changes];
        notes.into_iter().flatten().chain(found.notes.iter().cloned()).collect()
    }
}

fn weights_summary(bundle: &Bundle) -> WeightsSummary {
    let manifest = bundle.manifest();
    let files = manifest.files.iter();
    WeightsSummary {
        name: manifest.name.clone(),
        about: manifest.about.clone(),
        standing: manifest.standing,
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
        frame_size: video.map(shown_size),
        frames: found.report.frames_decoded,
        corrupt: found.report.corrupt_packets,
        audio_seconds: found.media.audio.as_ref().map(|_| found.report.audio_seconds),
    }
}

/// Width and height of a picture once it is turned upright.
fn shown_size(video: &VideoInfo) -> (usize, usize) {
    match video.orientation.rotation_degrees() {
        90 | 270 => (video.height, video.width),
        _ => (video.width, video.height),
    }
}

fn transcript(words: &Words) -> Transcript {
    let cues = words.transcript.cues.iter();
    Transcript {
        source: words.source.name().to_owned(),
        text: words.transcript.text.clone(),
        language: words.language.clone(),
        segments: cues
            .map(|cue| Segment {
                t_start: cue.start_seconds,
                t_end: cue.end_seconds,
                text: cue.text.clone(),
            })
            .collect(),
    }
}
