//! From a video to the features of its modalities.
//!
//! One thread decodes; another looks, listens and reads. Between them stands a short queue, so
//! that memory does not grow with the length of the video. Features are handed to a
//! [`FeatureSink`] as soon as a window is complete.

mod ear;
mod eye;
mod listener;
mod queue;
mod span;
mod steps;
mod watch;
mod words;

use std::path::{Path, PathBuf};

use candle::{Device, Tensor};
use meptr_core::bundle::{Bundle, FolderPart};
use meptr_core::prediction::ChosenFrame;
use meptr_core::{Modality, Precision};

pub use ear::{MAX_PIECE_SECONDS, SoundPiece};
pub use eye::Seen;
pub use steps::Steps;
pub use words::{TranscriptChoice, WordSource, Words, files_beside};

use crate::decode::{
    Cue, DecodeOptions, DecodeReport, Dump, Event, FramePlan, Limits, MediaInfo, TimeWindow,
    load_ffmpeg, probe,
};
use crate::detect::Detector;
use crate::detect::tracker::BotSortConfig;
use crate::progress::Progress;
use crate::speech::Whisper;
use crate::unfit::{NOTED, Unfit};
use crate::{Result, memory};
use ear::{Cutter, Ear};
use eye::Eye;
use listener::Listener;
use watch::Watch;
use words::WordReader;

/// The frozen part of the system: detectors and backbones.
#[derive(Debug)]
pub struct Extractor {
    eye: Eye,
    ear: Ear,
    reader: WordReader,
    whisper: Option<Whisper>,
    limits: Limits,
    tracking: Option<BotSortConfig>,
    decoder_threads: usize,
}

/// Where backbones compute, and with which numbers. Detectors always use f32.
#[derive(Debug, Clone)]
pub struct Place {
    /// The device.
    pub device: Device,
    /// The numbers.
    pub precision: Precision,
}

/// What is asked about one video.
#[derive(Debug, Clone, Default)]
pub struct ExtractRequest {
    /// Where words come from.
    pub transcript: TranscriptChoice,
    /// Stretches to read instead of the whole.
    pub window: Option<Windowing>,
    /// Folder to write what the models saw to.
    pub dump: Option<PathBuf>,
}

/// How a video is cut into stretches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Windowing {
    /// Length of a stretch, above 0.
    pub window_seconds: f64,
    /// From the start of one to the start of the next, above 0.
    pub hop_seconds: f64,
}

/// Why a modality is absent of which the extractor handed out nothing.
pub(crate) fn why_nothing(modality: Modality) -> &'static str {
    match modality {
        Modality::Text => "no transcript was given or found",
        Modality::Audio => "there is no sound",
        _ => "there are no pictures",
    }
}

/// What was seen in the chosen frames of a window.
#[derive(Debug, Clone)]
pub struct Pictures {
    /// The frames.
    pub frames: Vec<ChosenFrame>,
    /// What they show; `None` without frames.
    pub seen: Option<Seen>,
}

/// Takes the features of a video, window by window (number 0 is the whole when there are none).
///
/// The parts of a window come in any order, mixed with those of others.
pub trait FeatureSink {
    /// The pictures of a window. They may come a second time, when a file holds other frames than
    /// it says; the second time counts.
    ///
    /// # Errors
    /// What it returns ends the extraction.
    fn pictures(&mut self, window: usize, pictures: Pictures, steps: &mut Steps) -> Result<()>;

    /// The next piece of a window's sound.
    ///
    /// # Errors
    /// What it returns ends the extraction.
    fn sound(&mut self, window: usize, piece: SoundPiece, steps: &mut Steps) -> Result<()>;

    /// The words of a window, `(1, tokens, width)`, or why there are none.
    ///
    /// # Errors
    /// What it returns ends the extraction.
    fn words(
        &mut self,
        window: usize,
        features: std::result::Result<Tensor, String>,
        steps: &mut Steps,
    ) -> Result<()>;
}

/// What is known about a video once all of it was read.
#[derive(Debug, Clone)]
pub struct Extraction {
    /// What the file says it holds.
    pub media: MediaInfo,
    /// What decoding came to.
    pub report: DecodeReport,
    /// The windows, in seconds since time zero; one for the whole when none were asked for.
    pub windows: Vec<TimeWindow>,
    /// What is said.
    pub words: Option<Words>,
    /// What a reader of the results should know.
    pub notes: Vec<String>,
    /// How long the steps took.
    pub steps: Steps,
}

impl Extractor {
    /// Loads detectors and backbones of a bundle; `listens` says whether its speech recognition
    /// is used, if it has one.
    ///
    /// # Errors
    /// When a part cannot be read or does not fit its configuration, or FFmpeg cannot be loaded.
    pub fn open(bundle: &Bundle, device: &Device, limits: Limits, listens: bool) -> Result<Self> {
        let place = Place { device: device.clone(), precision: Precision::F32 };
        Self::open_at(bundle, &place, limits, listens)
    }

    /// The same, with backbones that may compute with other numbers than f32.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at(bundle: &Bundle, place: &Place, limits: Limits, listens: bool) -> Result<Self> {
        let transcriber = bundle.manifest().parts.transcriber.as_ref().filter(|_| listens);
        let open_whisper = |part: &FolderPart| {
            let folder = bundle.path(&part.folder);
            Whisper::open(&folder, &place.device, place.precision)
        };
        let (ffmpeg, ((eye, reader), (ear, whisper))) = std::thread::scope(|scope| {
            let ffmpeg = scope.spawn(load_ffmpeg);
            let parts = at_once(
                &place.device,
                || (Eye::open(bundle, place), WordReader::open(bundle, place)),
                || (Ear::open(bundle, place), transcriber.map(open_whisper).transpose()),
            );
            (ffmpeg.join().expect("a failure is an error"), parts)
        });
        ffmpeg?;
        let mut unfit = Unfit::default();
        let whisper = unfit.note(whisper)?;
        let (eye, ear, reader) = (unfit.note(eye)?, unfit.note(ear)?, unfit.note(reader)?);
        unfit.finish()?;
        Ok(Self {
            whisper: whisper.expect(NOTED),
            eye: eye.expect(NOTED),
            ear: ear.expect(NOTED),
            reader: reader.expect(NOTED),
            limits,
            tracking: Some(BotSortConfig::default()),
            decoder_threads: DecodeOptions::default().threads,
        })
    }

    /// Whether it computes on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        self.eye.is_on_gpu()
    }

    /// Whether there is a face detector, and whether there is a body detector.
    pub fn detectors(&self) -> [bool; 2] {
        self.eye.detectors()
    }

    /// Finds faces with another detector than the bundle's.
    pub fn set_face_detector(&mut self, detector: Box<dyn Detector>) {
        self.eye.set_face_detector(detector);
    }

    /// Finds bodies with another detector than the bundle's.
    ///
    /// What it finds is tracked as the bundle's detector's is: where the tracker follows anything,
    /// its smoothed boxes stand in place of the detections. For a detector whose boxes must stay
    /// as they are, also call [`Self::set_body_tracking`] with `None`.
    pub fn set_body_detector(&mut self, detector: Box<dyn Detector>) {
        self.eye.set_body_detector(detector);
    }

    /// Follows bodies from frame to frame in another way than the reference does by default, e.g.
    /// without the camera's motion ([`BotSortConfig::follows_camera`]); `None`: not at all.
    pub fn set_body_tracking(&mut self, tracking: Option<BotSortConfig>) {
        self.tracking = tracking;
    }

    /// Decodes with so many threads; the pictures stay the same ([`DecodeOptions::threads`]).
    pub fn set_decoder_threads(&mut self, threads: usize) {
        self.decoder_threads = threads;
    }

    /// Reads a video once, front to back, and hands its features to `sink`.
    ///
    /// # Errors
    /// When the file cannot be decoded at all, is over a limit, or when the sink fails.
    pub fn extract(
        &self,
        video: &Path,
        request: &ExtractRequest,
        sink: &mut dyn FeatureSink,
        progress: &dyn Progress,
    ) -> Result<Extraction> {
        progress.step("opening", None);
        let mut notes = Vec::new();
        let known = words::known_words(video, &request.transcript, &self.limits, &mut notes)?;
        let media = probe(video, &self.limits)?;
        let plan = span::plan(video, &media, request.window, &self.limits)?;
        let dump = request.dump.as_deref().map(Dump::new).transpose()?;
        let options = DecodeOptions {
            threads: self.decoder_threads,
            limits: self.limits.clone(),
            ..DecodeOptions::default()
        };
        let duration = media.duration_seconds;
        let has_no_words = known.is_none() && media.subtitles.is_empty();
        let mut pass = Pass {
            extractor: self,
            sink,
            watch: Watch::new(&plan, self.tracking.clone()),
            cutter: Cutter::new(&plan),
            unheard: Vec::new(),
            dump,
            listener: self.whisper.as_ref().filter(|_| has_no_words).map(Listener::new),
            cues: Vec::new(),
            report: DecodeReport::default(),
            steps: Steps::default(),
        };
        queue::for_each_event(video, &plan, &options, |event, waited| {
            pass.steps.add("waiting for the decoder", waited);
            progress.step("looking and listening", seconds_of(&event).zip(duration).map(share));
            pass.take(event)
        })?;
        progress.step("reading", None);
        let Pass { report, mut steps, cues, dump, listener, .. } = pass;
        dump.map(Dump::finish).transpose()?;
        let end = span::end_of(&media, &report);
        let windows = span::spans(&plan, end);
        let last_cue = cues.iter().map(|cue| cue.end_seconds).fold(end, f64::max);
        notes.extend(span::cut_short(&media, end, last_cue));
        let heard = listener.map(|listener| listener.finish(&mut steps)).transpose()?.flatten();
        let mut words = known.or_else(|| words::embedded(cues, &media)).or(heard);
        if words.is_none() && !media.subtitles.is_empty() {
            words = self.listen(video, &options, &mut steps)?; // they hold no words
        }
        for (number, window) in windows.iter().enumerate() {
            let features = self.words_of(words.as_ref(), window, &plan, &mut steps)?;
            sink.words(number, features, &mut steps)?;
        }
        for note in &notes {
            progress.note(video, note);
        }
        Ok(Extraction { media, report, windows, words, notes, steps })
    }

    /// Listens to a whole video in a pass of its own.
    fn listen(
        &self,
        video: &Path,
        options: &DecodeOptions,
        steps: &mut Steps,
    ) -> Result<Option<Words>> {
        let Some(whisper) = &self.whisper else { return Ok(None) };
        let mut listener = Listener::new(whisper);
        let no_frames = FramePlan::Windows(Vec::new());
        queue::for_each_event(video, &no_frames, options, |event, _| match event {
            Event::Audio { samples, start_seconds } => {
                listener.take(start_seconds, &samples, steps)
            }
            _ => Ok(()),
        })?;
        listener.finish(steps)
    }

    /// The features of what is said in a window, or why there are none.
    fn words_of(
        &self,
        words: Option<&Words>,
        window: &TimeWindow,
        plan: &FramePlan,
        steps: &mut Steps,
    ) -> Result<std::result::Result<Tensor, String>> {
        let Some(Words { transcript, .. }) = words else {
            return Ok(Err(match self.whisper {
                Some(_) => "no words were given, found or heard",
                None => "no words were given or found, and none were listened for",
            }
            .to_owned()));
        };
        let text = match plan {
            FramePlan::Whole => transcript.text.clone(),
            FramePlan::Windows(_) if transcript.cues.is_empty() => {
                let reason = "the transcript has no times, so it cannot be cut into windows";
                return Ok(Err(reason.to_owned()));
            }
            FramePlan::Windows(_) => transcript.between(window.start_seconds, window.end_seconds),
        };
        let features = steps.time("bert", || self.reader.read(&text))?;
        Ok(features.ok_or_else(|| "nothing is said".to_owned()))
    }
}

/// Runs both, on the CPU at the same time.
pub(crate) fn at_once<A: Send, B: Send>(
    device: &Device,
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B + Send,
) -> (A, B) {
    if device.is_cpu() { rayon::join(one, other) } else { (one(), other()) }
}

/// One reading of a video.
struct Pass<'a> {
    extractor: &'a Extractor,
    sink: &'a mut dyn FeatureSink,
    watch: Watch,
    cutter: Cutter,
    /// Pieces of sound that wait for others.
    unheard: Vec<ear::Cut>,
    dump: Option<Dump>,
    listener: Option<Listener<'a>>,
    cues: Vec<Cue>,
    report: DecodeReport,
    steps: Steps,
}

impl Pass<'_> {
    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Frame { window, index, time_seconds, image, .. } => {
                if let Some(dump) = &self.dump {
                    dump.image(&format!("frames/{index:08}"), &image)?;
                }
                let frame = ChosenFrame { index: index as u64, time: time_seconds };
                self.watch.push(window, frame, image);
                self.look(Some(time_seconds))
            }
            Event::Audio { samples, start_seconds } => {
                if let Some(dump) = &mut self.dump {
                    dump.audio(&samples)?;
                }
                if let Some(listener) = &mut self.listener {
                    listener.take(start_seconds, &samples, &mut self.steps)?;
                }
                let cuts = self.cutter.push(start_seconds, &samples);
                self.hear(cuts, false)
            }
            Event::Subtitle(cue) => {
                self.cues.push(cue);
                Ok(())
            }
            Event::Restart { windows } => {
                self.watch.forget(&windows);
                Ok(())
            }
            Event::End(report) => {
                self.report = report;
                self.look(None)?;
                let cuts = self.cutter.finish();
                self.hear(cuts, true)?;
                Ok(())
            }
        }
    }

    /// Looks at frames that wait and hands on the windows that are complete: those that end at or
    /// before `now`, or all of them when nothing more comes.
    fn look(&mut self, now: Option<f64>) -> Result<()> {
        for mut batch in self.watch.ready(now) {
            let images: Vec<_> = batch.images.iter().collect();
            let seen = self.extractor.eye.look(&images, batch.tracker.as_mut(), &mut self.steps)?;
            if let Some(dump) = &self.dump {
                dump_crops(dump, &batch, &seen)?;
            }
            self.watch.put(batch, seen)?;
        }
        if now.is_none() {
            self.extractor.eye.release(); // so that weights are not in memory all at once
            memory::trim();
        }
        for (window, pictures) in self.watch.complete(now) {
            self.sink.pictures(window, pictures, &mut self.steps)?;
        }
        Ok(())
    }

    /// Listens to pieces of sound as soon as there are as many as the device takes at a time, or
    /// nothing more comes.
    fn hear(&mut self, cuts: Vec<ear::Cut>, is_end: bool) -> Result<()> {
        self.unheard.extend(cuts);
        let ear = &self.extractor.ear;
        if !ear.has_enough(&self.unheard) && !is_end {
            return Ok(());
        }
        let cuts = std::mem::take(&mut self.unheard);
        let pieces = self.steps.time("wav2vec2", || ear.hear(&cuts))?;
        if is_end {
            ear.release();
            memory::trim();
        }
        for (cut, piece) in cuts.iter().zip(pieces) {
            self.sink.sound(cut.window, piece, &mut self.steps)?;
        }
        Ok(())
    }
}

fn dump_crops(dump: &Dump, batch: &watch::Batch, seen: &Seen) -> Result<()> {
    let mut number = std::collections::HashMap::new();
    for crop in seen.crops.iter().filter(|crop| crop.modality != Modality::Scene) {
        let count = number.entry((crop.frame, crop.modality)).or_insert(0);
        let index = batch.frames[crop.frame].index;
        let name = format!("{}/{index:08}-{count}", crop.modality);
        dump.image(&name, &crop.bounds.crop(&batch.images[crop.frame]))?;
        *count += 1;
    }
    Ok(())
}

/// How far into the video an event lies.
fn seconds_of(event: &Event) -> Option<f64> {
    match event {
        Event::Frame { time_seconds, .. } => Some(*time_seconds),
        Event::Audio { start_seconds, .. } => Some(*start_seconds),
        _ => None,
    }
}

fn share((seconds, duration): (f64, f64)) -> f64 {
    seconds / duration
}
