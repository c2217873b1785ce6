//! Decoding of a file to a stream of events, in file order and constant memory.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;

use ffmpeg::Packet;
use ffmpeg::format::context::Input;

use super::audio::AudioTrack;
use super::event::{DecodeOptions, DecodeReport, Event};
use super::frame_selection::{FrameKey, FrameSchedule, FrameTimes};
use super::limits::Limits;
use super::probe::{self, MediaInfo, VideoInfo};
use super::subtitle::SubtitleTrack;
use super::timestamps::TimeBase;
use super::video::VideoTrack;
use super::{packet_scan, source};
use crate::windows::WindowPlan;
use crate::{Error, Result};

/// Seconds beyond the stated length of a file up to which timestamps of its sound are accepted. The
/// time before a timestamp is filled with silence, so a false one would cost time and memory.
const TRUSTED_OVERRUN_SECONDS: f64 = 60.0;

/// Decodes a file once, front to back, as an iterator over `Result<Event>`.
///
/// Memory grows with the length of the file by 8 bytes per frame only. Not `Send`: open it in the
/// thread that reads from it. The first error is the last item.
pub struct Reader {
    path: PathBuf,
    options: DecodeOptions,
    plan: WindowPlan,
    info: MediaInfo,
    input: Input,
    video: Option<VideoTrack>,
    audio: Option<AudioTrack>,
    subtitle: Option<SubtitleTrack>,
    expected: Expected,
    /// Whether a decoder with several threads met damaged data.
    is_flawed: bool,
    /// Corrupt packets of the sound, which is read once even if the frames are decoded twice.
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
    /// Opens a file and selects the frames to keep.
    ///
    /// The number of frames is the one that the container states, if it does and the whole video is
    /// asked for; else the packets are counted in a pass without decoding.
    ///
    /// # Errors
    /// As [`probe`](super::probe::probe).
    pub fn open(path: &Path, plan: WindowPlan, options: &DecodeOptions) -> Result<Self> {
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

    /// Streams of the file, as its headers describe them.
    pub fn info(&self) -> &MediaInfo {
        &self.info
    }

    fn open_tracks(&mut self) -> Result<()> {
        let limits = &self.options.limits;
        if let Some(audio) = &self.info.audio {
            let time_base = self.time_base(audio.stream);
            let stated =
                self.info.duration_seconds.map(|seconds| seconds + TRUSTED_OVERRUN_SECONDS);
            let longest =
                stated.map_or(limits.max_seconds, |stated| stated.min(limits.max_seconds));
            let max_rate = limits.max_audio_rate_hz;
            let track = AudioTrack::open(&self.input, audio.stream, time_base, longest, max_rate);
            self.audio = Some(track.map_err(probe::cannot_open(&self.path, "audio"))?);
        }
        self.subtitle =
            SubtitleTrack::choose(&self.info.subtitles, |stream| self.time_base(stream));
        self.start_first_pass()
    }

    fn start_first_pass(&mut self) -> Result<()> {
        if let Some(video) = self.info.video.clone() {
            let time_base = self.time_base(video.stream);
            let schedule = self.first_schedule(&video, time_base)?;
            self.video = Some(self.open_video(&video, time_base, schedule)?);
        }
        Ok(())
    }

    fn open_video(
        &self,
        video: &VideoInfo,
        time_base: TimeBase,
        schedule: FrameSchedule,
    ) -> Result<VideoTrack> {
        VideoTrack::open(&self.input, video, time_base, schedule, &self.options)
            .map_err(probe::cannot_open(&self.path, "video"))
    }

    fn time_base(&self, stream: usize) -> TimeBase {
        let stream = self.input.stream(stream).expect("named by the probe of this file");
        TimeBase::of(&stream, source::start_microseconds(&self.input))
    }

    /// Selects frames by the headers and packets, before anything is decoded.
    fn first_schedule(&mut self, video: &VideoInfo, time_base: TimeBase) -> Result<FrameSchedule> {
        let per_window = self.options.frames_per_window;
        let accepted =
            video.claimed_frames.filter(|&claim| claim <= self.options.limits.max_frames);
        if let (WindowPlan::Whole, Some(claim)) = (&self.plan, accepted) {
            let claim = usize::try_from(claim).expect("within the limit on frames");
            self.expected = Expected::Count(claim);
            return Ok(FrameSchedule::whole(claim, per_window));
        }
        let ticks = packet_scan::ticks(&self.path, video, time_base, &self.options.limits)?;
        let schedule = match &self.plan {
            WindowPlan::Whole => FrameSchedule::whole(ticks.len(), per_window),
            plan @ WindowPlan::Windows(windows) => {
                let times = FrameTimes { ticks: &ticks, time_base };
                FrameSchedule::windows(plan, 0..windows.len(), times, per_window, FrameKey::Tick)
            }
        };
        self.expected = match &self.plan {
            WindowPlan::Whole => Expected::Count(ticks.len()),
            WindowPlan::Windows(_) => Expected::Ticks(ticks),
        };
        Ok(schedule)
    }

    /// Decodes until there is an event.
    fn next_event(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.is_finished {
                return Ok(None);
            }
            if !self.resample_audio()? {
                self.read_packet()?;
            }
        }
    }

    /// Resamples sound that was decoded; `false` when there is none.
    fn resample_audio(&mut self) -> Result<bool> {
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
        // An empty packet would signal the end of the stream to a decoder.
        if packet.size() == 0 {
            return Ok(());
        }
        let mut errors = u64::from(packet.is_corrupt());
        let stream = packet.stream();
        if let Some(video) = self.video.as_mut().filter(|video| video.stream == stream) {
            errors = errors.max(video.send(Some(packet), &mut self.events));
            self.check_length()?;
            if self.suspends_video(errors) {
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

    /// Whether decoding of frames is suspended, because of these errors or a damaged frame.
    ///
    /// The result of several threads on damaged data depends on timing. So one thread decodes all
    /// frames again after the sound is complete.
    fn suspends_video(&mut self, errors: u64) -> bool {
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

    /// Checks the frames so far against the limits.
    fn check_length(&self) -> Result<()> {
        let Some(video) = &self.video else { return Ok(()) };
        let Limits { max_frames, max_seconds, .. } = self.options.limits;
        if video.ticks.len() as u64 > max_frames {
            let what = format!("it has more than {max_frames} frames; cut it into parts");
            return Err(source::over_limit(&self.path, what));
        }
        match video.ticks.last() {
            Some(last) if video.time_base.seconds(*last) > max_seconds => Err(self.too_long()),
            _ => Ok(()),
        }
    }

    fn too_long(&self) -> Error {
        packet_scan::too_long(&self.path, &self.options.limits)
    }

    /// Drains the decoders after the last packet, then checks that the right frames were kept.
    fn reach_end(&mut self) -> Result<()> {
        if let Some(audio) = &mut self.audio {
            if !audio.is_drained() {
                let errors = audio.send(None);
                return self.count_corrupt_sound(errors); // resampled before this is reached again
            }
            let errors = audio.finish(&mut self.events);
            self.report.audio_seconds = audio.seconds();
            self.audio = None;
            self.count_corrupt_sound(errors)?;
        }
        self.subtitle = None;
        let errors = self.video.as_mut().map_or(0, |video| video.send(None, &mut self.events));
        if self.suspends_video(errors) {
            return self.start_single_threaded_pass();
        }
        self.count_corrupt(errors)?;
        self.check_length()?;
        match self.video.take() {
            Some(video) => self.check_frames(video),
            None => self.finish(),
        }
    }

    /// Decodes a damaged video again from its start, with one thread.
    fn start_single_threaded_pass(&mut self) -> Result<()> {
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
            false => self.expected.differing(&self.plan, &video.ticks, video.time_base),
        };
        report.frames_decoded = video.ticks.len() as u64;
        report.frames_damaged = video.damaged;
        report.size_changes = video.changes;
        let seconds = |tick: &i64| video.time_base.seconds(*tick);
        report.first_frame_seconds = video.ticks.first().map(seconds);
        report.last_frame_seconds = video.ticks.last().map(seconds);
        if windows.is_empty() || video.ticks.is_empty() {
            return self.finish();
        }
        self.start_second_pass(windows, &video.ticks, video.time_base)
    }

    /// Decodes the video again, with its real frames known.
    fn start_second_pass(
        &mut self,
        windows: Vec<usize>,
        ticks: &[i64],
        time_base: TimeBase,
    ) -> Result<()> {
        let per_window = self.options.frames_per_window;
        let again = windows.iter().copied();
        let times = FrameTimes { ticks, time_base };
        let schedule =
            FrameSchedule::windows(&self.plan, again, times, per_window, FrameKey::Ordinal);
        self.rewind()?;
        let video = self.info.video.clone().expect("frames were decoded");
        self.video = Some(self.open_video(&video, time_base, schedule)?);
        self.report.second_pass = true;
        self.events.push_back(Event::Restart { windows });
        Ok(())
    }

    /// Opens the file again, for its frames.
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
        // Decoders keep a dozen frames each; the steps after the end need the memory.
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

/// Frames that a file should have, before it is decoded.
enum Expected {
    /// Number of frames of a whole video.
    Count(usize),
    /// Timestamps of the frames, ascending.
    Ticks(Vec<i64>),
}

impl Expected {
    /// Windows that have other frames than expected.
    fn differing(&self, plan: &WindowPlan, found: &[i64], time_base: TimeBase) -> Vec<usize> {
        match self {
            Self::Count(count) if *count == found.len() => Vec::new(),
            Self::Count(_) => (0..plan.window_count()).collect(),
            Self::Ticks(ticks) => {
                FrameTimes { ticks: found, time_base }.differing_windows(plan, ticks)
            }
        }
    }
}
