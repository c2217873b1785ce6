//! Extractor: the frozen part of the system, from a video to the features of its modalities.

use std::path::{Path, PathBuf};

use candle::{Device, Tensor};
use meptr_core::Precision;
use meptr_core::bundle::Bundle;

use super::audio_chunks::AudioChunker;
use super::compute_target::ComputeTarget;
use super::decode_thread::for_each_event;
use super::encoders::Encoders;
use super::fallback;
use super::feature_sink::FeatureSink;
use super::frame_buffer::FrameBuffer;
use super::streaming_transcriber::StreamingTranscriber;
use super::timings::StepTimings;
use super::transcript_source::{
    SourcedTranscript, TranscriptChoice, embedded_transcript, known_transcript,
};
use super::truncation::truncation_note;
use super::video_pass::VideoPass;
use crate::decode::{
    DecodeOptions, DecodeReport, Dump, Event, Limits, MediaInfo, length_seconds, probe,
};
use crate::detect::Detector;
use crate::detect::tracker::BotSortConfig;
use crate::progress::Progress;
use crate::windows::{SlidingWindow, TextRule, TimeWindow, WindowPlan, end_of_video};
use crate::{Error, Result};

/// Detectors and backbones of a bundle, ready for any number of videos.
#[derive(Debug)]
pub struct Extractor {
    encoders: Encoders,
    limits: Limits,
    tracking: Option<BotSortConfig>,
    decoder_threads: usize,
}

/// Options for one video.
#[derive(Debug, Clone, Default)]
pub struct ExtractRequest {
    /// Source of the transcript.
    pub transcript: TranscriptChoice,
    /// Windows to process instead of the whole video.
    pub window: Option<SlidingWindow>,
    /// Folder to write the inputs of the models to.
    pub dump: Option<PathBuf>,
}

/// Facts about a video, known once it was read to its end.
#[derive(Debug, Clone)]
pub struct Extraction {
    /// Streams of the file.
    pub media: MediaInfo,
    /// Counts of the decoder.
    pub report: DecodeReport,
    /// Windows in seconds since time zero; one for a whole video.
    pub windows: Vec<TimeWindow>,
    /// Transcript, if there is one.
    pub transcript: Option<SourcedTranscript>,
    /// Remarks for readers of the results.
    pub notes: Vec<String>,
    /// Wall time of the steps.
    pub timings: StepTimings,
}

impl Extractor {
    /// Loads detectors and backbones of a bundle, with backbones in f32; `transcribes` says whether
    /// its speech recognition is used, if it has one.
    ///
    /// # Errors
    /// When a part cannot be read or does not fit its configuration, or FFmpeg cannot be loaded.
    pub fn open(
        bundle: &Bundle,
        device: &Device,
        limits: Limits,
        transcribes: bool,
    ) -> Result<Self> {
        let target = ComputeTarget { device: device.clone(), precision: Precision::F32 };
        Self::open_at(bundle, &target, limits, transcribes)
    }

    /// Like [`Self::open`], with backbones in the data type of `target`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at(
        bundle: &Bundle,
        target: &ComputeTarget,
        limits: Limits,
        transcribes: bool,
    ) -> Result<Self> {
        Ok(Self {
            encoders: Encoders::open(bundle, target, transcribes)?,
            limits,
            tracking: Some(BotSortConfig::default()),
            decoder_threads: DecodeOptions::default().threads,
        })
    }

    /// Whether it computes on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        self.encoders.visual.is_on_gpu()
    }

    /// Replaces the face detector of the bundle.
    pub fn set_face_detector(&mut self, detector: Box<dyn Detector>) {
        self.encoders.visual.set_face_detector(detector);
    }

    /// Replaces the body detector of the bundle.
    ///
    /// Its detections are tracked like those of the bundle's detector: where the tracker has any
    /// track, its smoothed boxes replace the detections. For a detector whose boxes must not change,
    /// also call [`Self::set_body_tracking`] with `None`.
    pub fn set_body_detector(&mut self, detector: Box<dyn Detector>) {
        self.encoders.visual.set_body_detector(detector);
    }

    /// Changes the tracking of bodies from the reference's default, e.g. to one without camera motion
    /// ([`BotSortConfig::follows_camera`]); `None` turns it off.
    pub fn set_body_tracking(&mut self, tracking: Option<BotSortConfig>) {
        self.tracking = tracking;
    }

    /// Sets the threads of the video decoder; the frames do not depend on it
    /// ([`DecodeOptions::threads`]).
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
        let known = known_transcript(video, &request.transcript, &self.limits, &mut notes)?;
        let media = probe(video, &self.limits)?;
        let plan = self.plan_windows(video, &media, request.window)?;
        let mut pass = self.start_pass(&plan, request, sink)?;
        if !fallback::recognises_while_decoding(known.is_some(), media.has_subtitles()) {
            pass.transcriber = None;
        }
        for_each_event(video, &plan, &self.decode_options(), |event, waited| {
            pass.timings.add("waiting for the decoder", waited);
            progress.step("encoding frames and sound", share_done(&event, &media));
            pass.take(event)
        })?;
        progress.step("encoding text", None);
        let VideoPass { sink, report, mut timings, cues, dump, transcriber, .. } = pass;
        dump.map(Dump::finish).transpose()?;
        let frame_rate = media.video.as_ref().and_then(|video| video.frame_rate);
        let end = end_of_video(report.last_frame_seconds, frame_rate, report.audio_seconds);
        let last_cue = cues.iter().map(|cue| cue.end_seconds).fold(end, f64::max);
        notes.extend(truncation_note(&media, end, last_cue));
        let recognised = transcriber.map(|one| one.finish(&mut timings)).transpose()?.flatten();
        let embedded = embedded_transcript(cues, &media);
        let mut transcript = fallback::first_transcript(known, embedded, recognised);
        if fallback::recognises_after_decoding(transcript.is_some(), media.has_subtitles()) {
            transcript = self.recognise_speech(video, &mut timings)?;
        }
        let windows = plan.trimmed(end);
        for (number, window) in windows.iter().enumerate() {
            let features = self.encode_text(transcript.as_ref(), window, &plan, &mut timings)?;
            sink.text(number, features, &mut timings)?;
        }
        for note in &notes {
            progress.note(video, note);
        }
        Ok(Extraction { media, report, windows, transcript, notes, timings })
    }

    /// A pass over a video that has read nothing yet.
    fn start_pass<'a>(
        &'a self,
        plan: &WindowPlan,
        request: &ExtractRequest,
        sink: &'a mut dyn FeatureSink,
    ) -> Result<VideoPass<'a>> {
        Ok(VideoPass {
            encoders: &self.encoders,
            sink,
            frames: FrameBuffer::new(plan, self.tracking.clone()),
            chunker: AudioChunker::new(plan),
            waiting_chunks: Vec::new(),
            dump: request.dump.as_deref().map(Dump::new).transpose()?,
            transcriber: self.encoders.whisper.as_ref().map(StreamingTranscriber::new),
            cues: Vec::new(),
            report: DecodeReport::default(),
            timings: StepTimings::default(),
        })
    }

    fn decode_options(&self) -> DecodeOptions {
        DecodeOptions {
            threads: self.decoder_threads,
            limits: self.limits.clone(),
            ..DecodeOptions::default()
        }
    }

    /// Windows that a request asks for; the whole video without one.
    fn plan_windows(
        &self,
        video: &Path,
        media: &MediaInfo,
        window: Option<SlidingWindow>,
    ) -> Result<WindowPlan> {
        let Some(window) = window else { return Ok(WindowPlan::Whole) };
        match length_seconds(video, media, &self.limits)? {
            Some(length) => Ok(WindowPlan::sliding(length, window)),
            None => Err(Error::Decode {
                path: video.to_owned(),
                what:
                    "its length is unknown, so it cannot be divided into windows; repack it, for \
                       example with `ffmpeg -i IN -c copy OUT.mkv`"
                        .to_owned(),
                source: None,
            }),
        }
    }

    /// Transcribes the sound of a video in a pass of its own.
    fn recognise_speech(
        &self,
        video: &Path,
        timings: &mut StepTimings,
    ) -> Result<Option<SourcedTranscript>> {
        let Some(whisper) = &self.encoders.whisper else { return Ok(None) };
        let mut transcriber = StreamingTranscriber::new(whisper);
        let no_frames = WindowPlan::Windows(Vec::new());
        for_each_event(video, &no_frames, &self.decode_options(), |event, _| match event {
            Event::Audio { samples, start_seconds } => {
                transcriber.push(start_seconds, &samples, timings)
            }
            _ => Ok(()),
        })?;
        transcriber.finish(timings)
    }

    /// Text features of a window, or the reason why there are none.
    fn encode_text(
        &self,
        transcript: Option<&SourcedTranscript>,
        window: &TimeWindow,
        plan: &WindowPlan,
        timings: &mut StepTimings,
    ) -> Result<std::result::Result<Tensor, String>> {
        let Some(SourcedTranscript { transcript, .. }) = transcript else {
            let has_recognition = self.encoders.whisper.is_some();
            return Ok(Err(fallback::missing_transcript(has_recognition).to_owned()));
        };
        let text = match plan.text_rule(!transcript.cues.is_empty()) {
            TextRule::Everything => transcript.text.clone(),
            TextRule::OverlappingCues => transcript.text_in(window),
            TextRule::Undividable => return Ok(Err(fallback::UNTIMED_TRANSCRIPT.to_owned())),
        };
        let features = timings.time("bert", || self.encoders.text.encode(&text))?;
        Ok(features.ok_or_else(|| fallback::NO_WORDS.to_owned()))
    }
}

/// Share of a video that the decoder has passed, 0 to 1; `None` when it is unknown.
fn share_done(event: &Event, media: &MediaInfo) -> Option<f64> {
    let seconds = match event {
        Event::Frame { time_seconds, .. } => *time_seconds,
        Event::Audio { start_seconds, .. } => *start_seconds,
        _ => return None,
    };
    media.duration_seconds.map(|duration| seconds / duration)
}
