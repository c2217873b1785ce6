//! Decoding of sound to mono 16 kHz.

use std::collections::VecDeque;

use ffmpeg_next as ffmpeg;

use ffmpeg::format::context::Input;
use ffmpeg::{ChannelLayout, Packet, decoder, filter, format, frame};

use super::event::Event;
use super::timestamps::TimeBase;
use super::video::{MAX_ERRORS_AT_ONCE, needs_input};

/// Sample rate of the sound that all models read, in Hz.
pub const SAMPLE_RATE_HZ: u32 = 16_000;

/// Samples of silence per frame that fills a gap, at most.
const SILENCE_SAMPLES: u32 = 48_000;

/// Longest gap in the timestamps that swresample fills by itself. Longer gaps are filled with frames
/// of silence, so that memory does not grow with them.
const LONGEST_GAP_SECONDS: i64 = 5;

/// Sample format that the filter graph was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    format: format::Sample,
    rate: u32,
    channels: u16,
    layout: ChannelLayout,
}

/// Resamples to 16 kHz, then takes the mean of the channels, as the reference does.
///
/// The reference runs `ffmpeg -async 1 -vn -acodec pcm_s16le -ar 16000`, which inserts
/// `aresample=async=1:first_pts=0`: sound that starts late is preceded by silence, gaps above 0.1 s
/// are filled and overlaps trimmed. 16-bit samples `s` of all channels come out; librosa then takes
/// the mean of `s / 32768` over the channels in f32.
pub(super) struct Resampler {
    time_base: TimeBase,
    longest_seconds: f64,
    max_rate_hz: u32,
    waiting: VecDeque<frame::Audio>,
    graph: Option<(filter::Graph, Shape)>,
    /// Whether a graph existed before: only the first one starts at time zero.
    is_rebuilt: bool,
    /// Timestamp that the next frame should have, in samples of its own rate since time zero.
    next: Option<i64>,
    /// Added to timestamps after they jumped back.
    offset: i64,
}

impl Resampler {
    /// A resampler for a stream with this time base. Timestamps beyond `longest_seconds` are ignored,
    /// and frames of more than `max_rate_hz` samples per second are dropped.
    pub(super) fn new(time_base: TimeBase, longest_seconds: f64, max_rate_hz: u32) -> Self {
        Self {
            time_base,
            longest_seconds,
            max_rate_hz,
            waiting: VecDeque::new(),
            graph: None,
            is_rebuilt: false,
            next: None,
            offset: 0,
        }
    }

    /// Takes one decoded frame; [`advance`](Self::advance) turns it into samples.
    pub(super) fn push(&mut self, frame: frame::Audio) {
        let has_rate = (1..=self.max_rate_hz).contains(&frame.rate());
        if frame.samples() > 0 && has_rate && frame.channels() > 0 {
            self.waiting.push_back(frame);
        }
    }

    /// Resamples the oldest waiting frame, or a part of the gap before it, and appends the output,
    /// mono 16 kHz, -1 to 1; `false` when nothing waits.
    pub(super) fn advance(&mut self, out: &mut Vec<f32>) -> Result<bool, ffmpeg::Error> {
        let Some(frame) = self.waiting.pop_front() else { return Ok(false) };
        self.rebuild_on_change(&frame, out)?;
        let rate = i64::from(frame.rate());
        let wanted = self.timestamp(frame.timestamp().or(frame.pts()), rate);
        let next = self.next.unwrap_or(0);
        let gap = wanted.saturating_sub(next);
        let is_long = gap > LONGEST_GAP_SECONDS * rate;
        let silence = || silence_like(&frame, frame.rate().min(SILENCE_SAMPLES) as usize);
        let silence = is_long.then(silence).flatten();
        let (mut frame, at) = match silence {
            Some(silence) => {
                self.waiting.push_front(frame);
                (silence, next)
            }
            None if is_long => {
                self.offset = self.offset.saturating_sub(gap); // it is left out
                (frame, next)
            }
            None => (frame, wanted),
        };
        frame.set_pts(Some(at));
        self.next = Some(at + frame.samples() as i64);
        self.feed(&frame, out)?;
        Ok(true)
    }

    /// Appends the samples that the filters still hold.
    pub(super) fn finish(&mut self, out: &mut Vec<f32>) -> Result<(), ffmpeg::Error> {
        let Some((mut graph, shape)) = self.graph.take() else { return Ok(()) };
        source(&mut graph)?.source().flush()?;
        drain(&mut graph, shape.channels, out)
    }

    /// Position of a frame in samples since time zero. Continues where the last frame ended when the
    /// file states no time or an impossible one, or when its timestamps jump back by seconds.
    fn timestamp(&mut self, ticks: Option<i64>, rate: i64) -> i64 {
        let next = self.next.unwrap_or(0);
        let Some(ticks) = ticks else { return next };
        let seconds = self.time_base.seconds(ticks);
        if seconds.abs() > self.longest_seconds {
            return next;
        }
        let stated = (seconds * rate as f64).round() as i64;
        let wanted = stated.saturating_add(self.offset);
        if self.next.is_some() && wanted.saturating_add(LONGEST_GAP_SECONDS * rate) < next {
            self.offset = next.saturating_sub(stated);
            return next;
        }
        wanted
    }

    fn feed(&mut self, frame: &frame::Audio, out: &mut Vec<f32>) -> Result<(), ffmpeg::Error> {
        let (graph, shape) = self.graph.as_mut().expect("built before feeding");
        source(graph)?.source().add(frame)?;
        drain(graph, shape.channels, out)
    }

    fn rebuild_on_change(
        &mut self,
        frame: &frame::Audio,
        out: &mut Vec<f32>,
    ) -> Result<(), ffmpeg::Error> {
        let shape = Shape {
            format: frame.format(),
            rate: frame.rate(),
            channels: frame.channels(),
            layout: frame.channel_layout(),
        };
        if self.graph.as_ref().is_some_and(|(_, built)| *built == shape) {
            return Ok(());
        }
        if let Some((_, old)) = &self.graph {
            let old_rate = i64::from(old.rate);
            let rescale = |samples: i64| samples.saturating_mul(i64::from(shape.rate)) / old_rate;
            self.next = self.next.map(rescale);
            self.offset = rescale(self.offset);
            self.finish(out)?;
        }
        self.graph = Some((new_graph(shape, !self.is_rebuilt)?, shape));
        self.is_rebuilt = true;
        Ok(())
    }
}

/// One pass over an audio stream.
pub(super) struct AudioTrack {
    pub(super) stream: usize,
    decoder: decoder::Audio,
    resampler: Resampler,
    samples_out: u64,
    is_drained: bool,
}

impl AudioTrack {
    pub(super) fn open(
        input: &Input,
        stream: usize,
        time_base: TimeBase,
        longest_seconds: f64,
        max_rate_hz: u32,
    ) -> Result<Self, ffmpeg::Error> {
        let decoder = super::source::decoder_of(input, stream, 1, ffmpeg::Dictionary::new())?;
        Ok(Self {
            stream,
            decoder: decoder.audio()?,
            resampler: Resampler::new(time_base, longest_seconds, max_rate_hz),
            samples_out: 0,
            is_drained: false,
        })
    }

    /// Decodes one packet, or (`None`) what is left in the decoder; returns the number of errors.
    pub(super) fn send(&mut self, packet: Option<&Packet>) -> u64 {
        self.is_drained = packet.is_none();
        let sent = match packet {
            Some(packet) => self.decoder.send_packet(packet),
            None => self.decoder.send_eof(),
        };
        let mut errors = u64::from(sent.is_err());
        while errors < MAX_ERRORS_AT_ONCE {
            let mut frame = frame::Audio::empty();
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => self.resampler.push(frame),
                Err(error) if needs_input(error) => break,
                Err(_) => errors += 1,
            }
        }
        errors
    }

    /// Whether the decoder was told that no packet follows.
    pub(super) fn is_drained(&self) -> bool {
        self.is_drained
    }

    /// Seconds of sound output so far.
    pub(super) fn seconds(&self) -> f64 {
        self.samples_out as f64 / f64::from(SAMPLE_RATE_HZ)
    }

    /// Turns some of the decoded sound into events; `false` when none waits.
    pub(super) fn advance(&mut self, events: &mut VecDeque<Event>) -> Result<bool, ffmpeg::Error> {
        let mut samples = Vec::new();
        let had_work = self.resampler.advance(&mut samples);
        self.emit(samples, events);
        had_work
    }

    /// Outputs the last samples; returns the number of errors.
    pub(super) fn finish(&mut self, events: &mut VecDeque<Event>) -> u64 {
        let mut samples = Vec::new();
        let finished = self.resampler.finish(&mut samples);
        self.emit(samples, events);
        u64::from(finished.is_err())
    }

    fn emit(&mut self, samples: Vec<f32>, events: &mut VecDeque<Event>) {
        if samples.is_empty() {
            return;
        }
        let start_seconds = self.seconds();
        self.samples_out += samples.len() as u64;
        events.push_back(Event::Audio { samples, start_seconds });
    }
}

fn source(graph: &mut filter::Graph) -> Result<filter::Context, ffmpeg::Error> {
    graph.get("in").ok_or(ffmpeg::Error::FilterNotFound)
}

/// `abuffer -> aresample -> aformat -> abuffersink`, sample clock in and 16-bit packed out.
fn new_graph(shape: Shape, is_first: bool) -> Result<filter::Graph, ffmpeg::Error> {
    let Shape { format, rate, channels, .. } = shape;
    let filter_named = |name| filter::find(name).ok_or(ffmpeg::Error::FilterNotFound);
    // The FFmpeg wrapper has fewer channel names than FFmpeg and drops the others from a layout.
    let is_whole = |layout: &ChannelLayout| layout.channels() == i32::from(channels);
    let usual = ChannelLayout::default(i32::from(channels));
    let layout = match [shape.layout, usual].into_iter().find(is_whole) {
        Some(layout) if layout.bits() != 0 => format!("channel_layout={:#x}", layout.bits()),
        _ => format!("channels={channels}"),
    };
    let name = format.name();
    let input = format!("time_base=1/{rate}:sample_rate={rate}:sample_fmt={name}:{layout}");
    let first = if is_first { ":first_pts=0" } else { "" };
    let chain =
        format!("aresample=async=1{first},aformat=sample_fmts=s16:sample_rates={SAMPLE_RATE_HZ}");
    let mut graph = filter::Graph::new();
    graph.add(&filter_named("abuffer")?, "in", &input)?;
    let sink = filter_named("abuffersink")?;
    // Without this, channels that have no layout are refused; FFmpeg 8 has no such option.
    if graph.add(&sink, "out", "all_channel_counts=1").is_err() {
        graph.add(&sink, "out", "")?;
    }
    graph.output("in", 0)?.input("out", 0)?.parse(&chain)?;
    graph.validate()?;
    Ok(graph)
}

/// Reads all output that the graph has ready.
fn drain(
    graph: &mut filter::Graph,
    channels: u16,
    out: &mut Vec<f32>,
) -> Result<(), ffmpeg::Error> {
    let mut sink = graph.get("out").ok_or(ffmpeg::Error::FilterNotFound)?;
    let mut frame = frame::Audio::empty();
    while sink.sink().frame(&mut frame).is_ok() {
        if frame.planes() != 1 || frame.channels() != channels {
            return Err(ffmpeg::Error::OutputChanged);
        }
        mean_of_channels(frame.plane::<i16>(0), usize::from(channels), out);
    }
    Ok(())
}

/// librosa's `to_mono` on 16-bit samples: sums in f32 from the first channel on, then divides.
fn mean_of_channels(samples: &[i16], channels: usize, out: &mut Vec<f32>) {
    let mean = |frame: &[i16]| {
        frame.iter().map(|&sample| f32::from(sample) / 32768.0).sum::<f32>() / channels as f32
    };
    out.extend(samples.chunks_exact(channels).map(mean));
}

/// A frame of digital silence in the format of `like`; `None` when that has more channels than any
/// channel layout, or when there is no memory.
fn silence_like(like: &frame::Audio, samples: usize) -> Option<frame::Audio> {
    let layout = match like.channel_layout() {
        layout if layout.is_empty() => ChannelLayout::default(i32::from(like.channels())),
        layout => layout,
    };
    let mut silence = frame::Audio::new(like.format(), samples, layout);
    if silence.planes() != like.planes() || silence.channels() != like.channels() {
        return None;
    }
    silence.set_rate(like.rate());
    let zero = if matches!(like.format(), format::Sample::U8(_)) { 128 } else { 0 };
    for plane in 0..silence.planes() {
        silence.data_mut(plane).fill(zero);
    }
    Some(silence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_the_channels_is_that_of_the_fractions() {
        let mut out = Vec::new();
        mean_of_channels(&[-32768, 16384, 0, 1], 2, &mut out);
        assert_eq!(out, [-0.25, 1.0 / 65536.0]);
    }
}
