//! A file as a stream of frames, sound and subtitles, in file order and flat memory.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;

use ffmpeg::Packet;
use ffmpeg::format::context::Input;
use serde::{Deserialize, Serialize};

use super::audio::AudioTrack;
use super::frame_sampling::FRAMES_PER_CLIP;
use super::frame_selection::{FramePlan, Schedule};
use super::limits::Limits;
use super::probe::{self, MediaInfo, VideoInfo};
use super::subtitle::SubtitleTrack;
use super::timestamps::Clock;
use super::video::VideoTrack;
use super::{packet_scan, source, transcript::Cue};
use crate::{Error, Result, RgbImage};

/// How far beyond the stated length of a file a timestamp of its sound is believed. What lies
/// before a timestamp is filled with silence, so a lie would cost time and memory.
const TRUSTED_OVERRUN_SECONDS: f64 = 60.0;

/// How to decode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeOptions {
    /// Frames to keep of each window, at least 1; 30.
    pub frames_per_window: usize,
    /// Frame threads of the video decoder, 1 for none; 2. Memory grows with each. Pictures are the
    /// same with any number: at the first flaw, they are decoded anew with one. (Of flipped bytes
    /// that FFmpeg 5.1's decoder of HEVC did not notice, 1 file in 20 came out otherwise.)
    pub threads: usize,
    /// What one file may ask for.
    pub limits: Limits,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { frames_per_window: FRAMES_PER_CLIP, threads: 2, limits: Limits::default() }
    }
}

/// Something that a file holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A frame to keep, upright, at its own size.
    Frame {
        /// Number of the window in the [`FramePlan`].
        window: usize,
        /// Place among the frames kept of that window, from 0.
        index_in_window: usize,
        /// Number of the frame among all that decode, from 0.
        index: usize,
        /// Presentation time since time zero of the file.
        time_seconds: f64,
        /// The picture.
        image: RgbImage,
    },
    /// The next stretch of sound; stretches follow one another without holes.
    Audio {
        /// Mono, 16 kHz, -1 to 1.
        samples: Vec<f32>,
        /// Time of the first sample since time zero of the file.
        start_seconds: f64,
    },
    /// A subtitle of the chosen embedded stream.
    Subtitle(Cue),
    /// The file is damaged or held other frames than its headers said: forget all frames of these
    /// windows, they come again. Sound and subtitles do not.
    Restart {
        /// Numbers of the windows.
        windows: Vec<usize>,
    },
    /// Nothing comes after this.
    End(DecodeReport),
}

/// What decoding a file came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DecodeReport {
    /// Frames that decoded.
    pub frames_decoded: u64,
    /// Of these, frames that the decoder marked as damaged; they are used all the same.
    pub frames_damaged: u64,
    /// Packets that could not be read or decoded, of all streams; skipped.
    pub corrupt_packets: u64,
    /// How often the size or pixel format changed from one frame to the next.
    pub size_changes: u64,
    /// Whether the frames had to be decoded twice because the file held others than it said.
    pub second_pass: bool,
    /// Length of the sound, including silence put where the file has holes.
    pub audio_seconds: f64,
    /// Presentation time of the first frame since time zero of the file.
    pub first_frame_seconds: Option<f64>,
    /// Presentation time of the last frame since time zero of the file.
    pub last_frame_seconds: Option<f64>,
}

/// Decodes a file once, front to back, and hands out [`Event`]s when asked.
///
/// Memory does not grow with length but for 8 bytes a frame. Not `Send`: open it in the thread that
/// reads from it. Iterates over `Result<Event>`; nothing comes after the first error.
pub struct Reader {
    path: PathBuf,
    options: DecodeOptions,
    plan: FramePlan,
    info: MediaInfo,
    input: Input,
    video: Option<VideoTrack>,
    audio: Option<AudioTrack>,
    subtitle: Option<SubtitleTrack>,
    expected: Expected,
    /// A decoder with several threads met a flaw.
    is_flawed: bool,
    /// Corrupt packets of the sound, which is read once however often the pictures are.
    corrupt_sound: u64,
    events: VecDeque<Event>,
    report: DecodeReport,
    is_finished: bool,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens a file and decides which frames to keep.
    ///
    /// How many frames there are is taken from the container if it says and a whole video is
    /// asked for, else from reading the file once without decoding.
    ///
    /// # Errors
    /// As [`probe`](super::probe::probe).
    pub fn open(path: &Path, plan: FramePlan, options: &DecodeOptions) -> Result<Self> {
        let input = source::open(path)?;
        let info = probe::media_info(path, &input, &options.limits)?;
        let mut reader = Self {
            path: path.to_owned(),
            options: options.clone(),
            plan,
            info,
            input,
            video: None,
            audio: None,
            subtitle: None,
            expected: Expected::Count(0),
            is_flawed: false,
            corrupt_sound: 0,
            events: VecDeque::new(),
            report: DecodeReport::default(),
            is_finished: false,
        };
        reader.open_tracks()?;
        Ok(reader)
    }

    /// What the file says it holds.
    pub fn info(&self) -> &MediaInfo {
        &self.info
    }

    fn open_tracks(&mut self) -> Result<()> {
        let limits = &self.options.limits;
        if let Some(audio) = &self.info.audio {
            let clock = self.clock(audio.stream);
            let stated =
                self.info.duration_seconds.map(|seconds| seconds + TRUSTED_OVERRUN_SECONDS);
            let longest =
                stated.map_or(limits.max_seconds, |stated| stated.min(limits.max_seconds));
            let max_rate = limits.max_audio_rate_hz;
            let track = AudioTrack::open(&self.input, audio.stream, clock, longest, max_rate);
            self.audio = Some(track.map_err(probe::cannot_open(&self.path, "audio"))?);
        }
        self.subtitle = SubtitleTrack::choose(&self.info.subtitles, |stream| self.clock(stream));
        self.start_first_pass()
    }

    fn start_first_pass(&mut self) -> Result<()> {
        if let Some(video) = self.info.video.clone() {
            let clock = self.clock(video.stream);
            let schedule = self.first_schedule(&video, clock)?;
            self.video = Some(self.open_video(&video, clock, schedule)?);
        }
        Ok(())
    }

    fn open_video(
        &self,
        video: &VideoInfo,
        clock: Clock,
        schedule: Schedule,
    ) -> Result<VideoTrack> {
        VideoTrack::open(&self.input, video, clock, schedule, &self.options)
            .map_err(probe::cannot_open(&self.path, "video"))
    }

    fn clock(&self, stream: usize) -> Clock {
        let stream = self.input.stream(stream).expect("named by the probe of this file");
        Clock::of(&stream, source::start_microseconds(&self.input))
    }

    /// Chooses frames by what the file says before anything is decoded.
    fn first_schedule(&mut self, video: &VideoInfo, clock: Clock) -> Result<Schedule> {
        let per_window = self.options.frames_per_window;
        let believed =
            video.claimed_frames.filter(|&claim| claim <= self.options.limits.max_frames);
        if let (FramePlan::Whole, Some(claim)) = (&self.plan, believed) {
            let claim = usize::try_from(claim).expect("within the limit on frames");
            self.expected = Expected::Count(claim);
            return Ok(Schedule::whole(claim, per_window));
        }
        let ticks = packet_scan::ticks(&self.path, video, clock, &self.options.limits)?;
        let schedule = match &self.plan {
            FramePlan::Whole => Schedule::whole(ticks.len(), per_window),
            plan @ FramePlan::Windows(windows) => {
                Schedule::windows(plan, 0..windows.len(), &ticks, clock, per_window, true)
            }
        };
        self.expected = match &self.plan {
            FramePlan::Whole => Expected::Count(ticks.len()),
            FramePlan::Windows(_) => Expected::Ticks(ticks),
        };
        Ok(schedule)
    }

    /// Reads on until there is an event to hand out.
    fn next_event(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.is_finished {
                return Ok(None);
            }
            if !self.hear()? {
                self.read_packet()?;
            }
        }
    }

    /// Works on sound that was decoded; `false` when there is none.
    fn hear(&mut self) -> Result<bool> {
        let Some(audio) = &mut self.audio else { return Ok(false) };
        let had_work = audio.advance(&mut self.events);
        let seconds = audio.seconds();
        if seconds > self.options.limits.max_seconds {
            return Err(self.too_long());
        }
        had_work.or_else(|_| self.count_corrupt_sound(1).map(|()| true))
    }

    fn read_packet(&mut self) -> Result<()> {
        let mut packet = Packet::empty();
        match packet.read(&mut self.input) {
            Ok(()) => self.route(&packet),
            Err(ffmpeg::Error::Eof) => self.reach_end(),
            Err(source @ ffmpeg::Error::Other { errno: ffmpeg::error::EIO }) => {
                let (path, what) = (self.path.clone(), "the disk failed while reading it".into());
                Err(Error::Decode { path, what, source: Some(source) })
            }
            Err(ffmpeg::Error::InvalidData | ffmpeg::Error::Other { .. }) => self.count_corrupt(1),
            Err(_) => self.reach_end(),
        }
    }

    fn route(&mut self, packet: &Packet) -> Result<()> {
        // An empty packet would tell a decoder that nothing follows.
        if packet.size() == 0 {
            return Ok(());
        }
        let mut errors = u64::from(packet.is_corrupt());
        let stream = packet.stream();
        if let Some(video) = self.video.as_mut().filter(|video| video.stream == stream) {
            errors = errors.max(video.send(Some(packet), &mut self.events));
            self.check_length()?;
            if self.is_set_aside(errors) {
                return Ok(());
            }
        } else if let Some(audio) = self.audio.as_mut().filter(|audio| audio.stream == stream) {
            errors = errors.max(audio.send(Some(packet)));
            return self.count_corrupt_sound(errors);
        } else if let Some(subtitle) = self.subtitle.as_ref() {
            self.events.extend(subtitle.read(packet).map(Event::Subtitle));
        }
        self.count_corrupt(errors)
    }

    /// Whether the pictures are given up for now, because of these errors or a damaged picture.
    ///
    /// What several threads make of a flaw depends on which was faster, so that one decodes all again
    /// once the sound is through.
    fn is_set_aside(&mut self, errors: u64) -> bool {
        let is_flawed = |video: &mut VideoTrack| video.has_threads && errors + video.damaged > 0;
        self.is_flawed |= self.video.take_if(is_flawed).is_some();
        self.is_flawed
    }

    fn count_corrupt_sound(&mut self, errors: u64) -> Result<()> {
        self.corrupt_sound += errors;
        self.count_corrupt(errors)
    }

    fn count_corrupt(&mut self, errors: u64) -> Result<()> {
        self.report.corrupt_packets += errors;
        let limit = self.options.limits.max_corrupt_packets;
        if self.report.corrupt_packets <= limit {
            return Ok(());
        }
        let what = format!(
            "more than {limit} of its packets are corrupt (`meptr predict --max-corrupt-packets` \
             raises that)"
        );
        Err(source::over_limit(&self.path, what))
    }

    /// Holds the pictures so far to the limits.
    fn check_length(&self) -> Result<()> {
        let Some(video) = &self.video else { return Ok(()) };
        let Limits { max_frames, max_seconds, .. } = self.options.limits;
        if video.ticks.len() as u64 > max_frames {
            let what = format!("it holds more than {max_frames} pictures; cut it into parts");
            return Err(source::over_limit(&self.path, what));
        }
        match video.ticks.last() {
            Some(last) if video.clock.seconds(*last) > max_seconds => Err(self.too_long()),
            _ => Ok(()),
        }
    }

    fn too_long(&self) -> Error {
        packet_scan::too_long(&self.path, &self.options.limits)
    }

    /// After the last packet: drains the decoders, then checks whether the right frames were kept.
    fn reach_end(&mut self) -> Result<()> {
        if let Some(audio) = &mut self.audio {
            if !audio.is_drained() {
                let errors = audio.send(None);
                return self.count_corrupt_sound(errors); // heard before this is reached again
            }
            let errors = audio.finish(&mut self.events);
            self.report.audio_seconds = audio.seconds();
            self.audio = None;
            self.count_corrupt_sound(errors)?;
        }
        self.subtitle = None;
        let errors = self.video.as_mut().map_or(0, |video| video.send(None, &mut self.events));
        if self.is_set_aside(errors) {
            return self.start_careful_pass();
        }
        self.count_corrupt(errors)?;
        self.check_length()?;
        match self.video.take() {
            Some(video) => self.check_frames(video),
            None => self.finish(),
        }
    }

    /// Decodes a damaged video from its start, with one thread.
    fn start_careful_pass(&mut self) -> Result<()> {
        (self.is_flawed, self.options.threads) = (false, 1);
        self.rewind()?;
        self.start_first_pass()?;
        let windows = (0..self.plan.window_count()).collect();
        self.events.push_back(Event::Restart { windows });
        Ok(())
    }

    fn check_frames(&mut self, video: VideoTrack) -> Result<()> {
        let report = &mut self.report;
        let windows = match report.second_pass {
            true => Vec::new(),
            false => self.expected.differing(&self.plan, &video.ticks, video.clock),
        };
        report.frames_decoded = video.ticks.len() as u64;
        report.frames_damaged = video.damaged;
        report.size_changes = video.changes;
        let seconds = |tick: &i64| video.clock.seconds(*tick);
        report.first_frame_seconds = video.ticks.first().map(seconds);
        report.last_frame_seconds = video.ticks.last().map(seconds);
        if windows.is_empty() || video.ticks.is_empty() {
            return self.finish();
        }
        self.start_second_pass(windows, &video.ticks, video.clock)
    }

    /// Decodes the video again, now that its frames are known.
    fn start_second_pass(
        &mut self,
        windows: Vec<usize>,
        ticks: &[i64],
        clock: Clock,
    ) -> Result<()> {
        let per_window = self.options.frames_per_window;
        let again = windows.iter().copied();
        let schedule = Schedule::windows(&self.plan, again, ticks, clock, per_window, false);
        self.rewind()?;
        let video = self.info.video.clone().expect("frames were decoded");
        self.video = Some(self.open_video(&video, clock, schedule)?);
        self.report.second_pass = true;
        self.events.push_back(Event::Restart { windows });
        Ok(())
    }

    /// Back to the start of the file, for its pictures.
    fn rewind(&mut self) -> Result<()> {
        self.input = source::open(&self.path)?;
        self.report.corrupt_packets = self.corrupt_sound;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.is_finished = true;
        if self.report.frames_decoded == 0 && self.report.audio_seconds == 0.0 {
            let what = format!(
                "neither a frame nor a sound of it decodes ({} corrupt packets)",
                self.report.corrupt_packets
            );
            return Err(source::decode_error(&self.path, what));
        }
        // Decoders keep a dozen frames each; what follows the end needs the room.
        (self.video, self.audio, self.subtitle) = (None, None, None);
        self.events.push_back(Event::End(self.report.clone()));
        Ok(())
    }
}

impl Iterator for Reader {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = self.next_event().transpose()?;
        if event.is_err() {
            self.is_finished = true;
            self.events.clear();
        }
        Some(event)
    }
}

/// What a file seems to hold before it is decoded.
enum Expected {
    /// So many frames of a whole video.
    Count(usize),
    /// Frames at these ticks, ascending.
    Ticks(Vec<i64>),
}

impl Expected {
    /// The windows of which other frames were found than expected.
    fn differing(&self, plan: &FramePlan, found: &[i64], clock: Clock) -> Vec<usize> {
        match self {
            Self::Count(count) if *count == found.len() => Vec::new(),
            Self::Count(_) => (0..plan.window_count()).collect(),
            Self::Ticks(ticks) => plan.differing(ticks, found, clock),
        }
    }
}
