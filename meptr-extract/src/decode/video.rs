//! One pass over a video stream: decodes every frame, converts those to keep.

use std::collections::VecDeque;

use ffmpeg_next as ffmpeg;

use ffmpeg::format::Pixel;
use ffmpeg::format::context::Input;
use ffmpeg::frame::{self, side_data};
use ffmpeg::{Packet, decoder};

use super::event::{DecodeOptions, Event};
use super::frame_convert::FrameConverter;
use super::frame_selection::FrameSchedule;
use super::orientation::Orientation;
use super::probe::VideoInfo;
use super::source;
use super::timestamps::TimeBase;

/// Errors from one packet after which the next packet is tried. Only a bound: a decoder gives at
/// most one error per packet that it holds.
pub(super) const MAX_ERRORS_AT_ONCE: u64 = 256;

pub(super) struct VideoTrack {
    pub(super) stream: usize,
    pub(super) time_base: TimeBase,
    /// Timestamp of every frame that decoded, in the order of decoding (presentation order).
    pub(super) ticks: Vec<i64>,
    /// Frames that the decoder marks as damaged; they are kept, as in the reference.
    pub(super) damaged: u64,
    /// Frames of another size or pixel format than the one before.
    pub(super) changes: u64,
    /// Whether several threads decode the stream.
    pub(super) has_threads: bool,
    decoder: decoder::Video,
    frame: frame::Video,
    ticks_per_frame: i64,
    orientation: Orientation,
    converter: FrameConverter,
    schedule: FrameSchedule,
    max_pixels: u64,
    last_shape: Option<(Pixel, u32, u32)>,
}

impl VideoTrack {
    pub(super) fn open(
        input: &Input,
        info: &VideoInfo,
        time_base: TimeBase,
        schedule: FrameSchedule,
        options: &DecodeOptions,
    ) -> Result<Self, ffmpeg::Error> {
        let mut codec_options = ffmpeg::Dictionary::new();
        // The decoder compares this with its buffers, which are larger than the frame.
        let buffer_pixels = options.limits.max_pixels.saturating_mul(2).saturating_add(1 << 16);
        codec_options.set("max_pixels", &buffer_pixels.min(1 << 30).to_string());
        let threads = source::video_threads(input, info.stream, options.threads);
        if threads > 1 {
            // With several threads, marks of damage may come too late; errors do not.
            codec_options.set("err_detect", "explode");
        }
        let decoder = source::decoder_of(input, info.stream, threads, codec_options)?;
        Ok(Self {
            stream: info.stream,
            time_base,
            ticks: Vec::new(),
            damaged: 0,
            changes: 0,
            has_threads: threads > 1,
            decoder: decoder.video()?,
            frame: frame::Video::empty(),
            ticks_per_frame: time_base.ticks_per_frame(info.frame_rate.unwrap_or(25.0)),
            orientation: info.orientation,
            converter: FrameConverter::default(),
            schedule,
            max_pixels: options.limits.max_pixels,
            last_shape: None,
        })
    }

    /// Decodes one packet, or (`None`) what is left in the decoder; returns the number of errors.
    pub(super) fn send(&mut self, packet: Option<&Packet>, events: &mut VecDeque<Event>) -> u64 {
        let sent = match packet {
            Some(packet) => self.decoder.send_packet(packet),
            None => self.decoder.send_eof(),
        };
        let mut errors = u64::from(sent.is_err());
        while errors < MAX_ERRORS_AT_ONCE {
            match self.decoder.receive_frame(&mut self.frame) {
                Ok(()) => errors += u64::from(self.take_frame(events).is_err()),
                Err(error) if needs_input(error) => break,
                Err(_) => errors += 1,
            }
        }
        errors
    }

    fn take_frame(&mut self, events: &mut VecDeque<Event>) -> Result<(), ffmpeg::Error> {
        if u64::from(self.frame.width()) * u64::from(self.frame.height()) > self.max_pixels {
            return Err(ffmpeg::Error::InvalidData);
        }
        let following = |last: &i64| last.saturating_add(self.ticks_per_frame);
        let expected = self.ticks.last().map_or(self.time_base.start_ticks(), following);
        let tick = self.frame.timestamp().unwrap_or(expected);
        let ordinal = self.ticks.len();
        self.ticks.push(tick);
        self.damaged += u64::from(self.frame.is_corrupt() || self.frame.has_decode_errors());
        let shape = (self.frame.format(), self.frame.width(), self.frame.height());
        self.changes += u64::from(self.last_shape.is_some_and(|last| last != shape));
        self.last_shape = Some(shape);

        let scheduled = self.schedule.take(ordinal, tick);
        if scheduled.is_empty() {
            return Ok(());
        }
        let image = self.orientation().apply(self.converter.convert(&self.frame)?);
        events.extend(scheduled.into_iter().map(|frame| Event::Frame {
            window: frame.window,
            index_in_window: frame.index_in_window,
            index: ordinal,
            time_seconds: self.time_base.seconds(tick),
            image: image.clone(),
        }));
        Ok(())
    }

    /// Orientation that the container states, else the one in the side data of this frame.
    fn orientation(&self) -> Orientation {
        if self.orientation != Orientation::default() {
            return self.orientation;
        }
        let matrix = self.frame.side_data(side_data::Type::DisplayMatrix);
        matrix.and_then(|data| Orientation::from_display_matrix(data.data())).unwrap_or_default()
    }
}

/// Whether a decoder needs more input, or is at its end.
pub(super) fn needs_input(error: ffmpeg::Error) -> bool {
    error == ffmpeg::Error::Eof || error == (ffmpeg::Error::Other { errno: ffmpeg::error::EAGAIN })
}
