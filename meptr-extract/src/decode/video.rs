//! One pass over a video stream: decodes every frame, converts the wanted ones.

use std::collections::VecDeque;

use ffmpeg_next as ffmpeg;

use ffmpeg::format::Pixel;
use ffmpeg::format::context::Input;
use ffmpeg::frame::{self, side_data};
use ffmpeg::{Packet, decoder};

use super::frame_convert::Converter;
use super::frame_selection::Schedule;
use super::orientation::Orientation;
use super::probe::VideoInfo;
use super::reader::{DecodeOptions, Event};
use super::source;
use super::timestamps::Clock;

/// Errors from one packet after which the next packet is tried; a bound, as no decoder should give
/// more than one for each packet under way.
pub(super) const MAX_ERRORS_AT_ONCE: u64 = 256;

pub(super) struct VideoTrack {
    pub(super) stream: usize,
    pub(super) clock: Clock,
    /// Timestamp of every frame that decoded, in the order of decoding (presentation order).
    pub(super) ticks: Vec<i64>,
    /// Frames the decoder itself marks as damaged; they are kept, as the reference keeps them.
    pub(super) damaged: u64,
    /// Frames of another size or pixel format than the one before.
    pub(super) changes: u64,
    /// Whether several threads decode.
    pub(super) has_threads: bool,
    decoder: decoder::Video,
    frame: frame::Video,
    ticks_per_frame: i64,
    orientation: Orientation,
    converter: Converter,
    schedule: Schedule,
    max_pixels: u64,
    last_shape: Option<(Pixel, u32, u32)>,
}

impl VideoTrack {
    pub(super) fn open(
        input: &Input,
        info: &VideoInfo,
        clock: Clock,
        schedule: Schedule,
        options: &DecodeOptions,
    ) -> Result<Self, ffmpeg::Error> {
        let mut codec_options = ffmpeg::Dictionary::new();
        // The decoder compares this with its buffers, which are larger than the picture.
        let buffer_pixels = options.limits.max_pixels.saturating_mul(2).saturating_add(1 << 16);
        codec_options.set("max_pixels", &buffer_pixels.min(1 << 30).to_string());
        let threads = source::video_threads(input, info.stream, options.threads);
        if threads > 1 {
            // Marks of damage may come too late when threads work side by side; errors do not.
            codec_options.set("err_detect", "explode");
        }
        let decoder = source::decoder_of(input, info.stream, threads, codec_options)?;
        Ok(Self {
            stream: info.stream,
            clock,
            ticks: Vec::new(),
            damaged: 0,
            changes: 0,
            has_threads: threads > 1,
            decoder: decoder.video()?,
            frame: frame::Video::empty(),
            ticks_per_frame: clock.ticks_per_frame(info.frame_rate.unwrap_or(25.0)),
            orientation: info.orientation,
            converter: Converter::default(),
            schedule,
            max_pixels: options.limits.max_pixels,
            last_shape: None,
        })
    }

    /// Decodes one packet, or what is left in the decoder after the last; returns how many errors
    /// that gave.
    pub(super) fn send(&mut self, packet: Option<&Packet>, events: &mut VecDeque<Event>) -> u64 {
        let sent = match packet {
            Some(packet) => self.decoder.send_packet(packet),
            None => self.decoder.send_eof(),
        };
        let mut errors = u64::from(sent.is_err());
        while errors < MAX_ERRORS_AT_ONCE {
            match self.decoder.receive_frame(&mut self.frame) {
                Ok(()) => errors += u64::from(self.take_frame(events).is_err()),
                Err(error) if is_dry(error) => break,
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
        let expected = self.ticks.last().map_or(self.clock.start_ticks(), following);
        let tick = self.frame.timestamp().unwrap_or(expected);
        let ordinal = self.ticks.len();
        self.ticks.push(tick);
        self.damaged += u64::from(self.frame.is_corrupt() || self.frame.has_decode_errors());
        let shape = (self.frame.format(), self.frame.width(), self.frame.height());
        self.changes += u64::from(self.last_shape.is_some_and(|last| last != shape));
        self.last_shape = Some(shape);

        let wanted = self.schedule.take(ordinal, tick);
        if wanted.is_empty() {
            return Ok(());
        }
        let image = self.orientation().apply(self.converter.convert(&self.frame)?);
        events.extend(wanted.into_iter().map(|wanted| Event::Frame {
            window: wanted.window,
            index_in_window: wanted.index_in_window,
            index: ordinal,
            time_seconds: self.clock.seconds(tick),
            image: image.clone(),
        }));
        Ok(())
    }

    /// What the container says of the stream, else what this frame says of itself.
    fn orientation(&self) -> Orientation {
        if self.orientation != Orientation::default() {
            return self.orientation;
        }
        let matrix = self.frame.side_data(side_data::Type::DisplayMatrix);
        matrix.and_then(|data| Orientation::from_display_matrix(data.data())).unwrap_or_default()
    }
}

/// Whether a decoder only wants more input, or is at its end.
pub(super) fn is_dry(error: ffmpeg::Error) -> bool {
    error == ffmpeg::Error::Eof || error == (ffmpeg::Error::Other { errno: ffmpeg::error::EAGAIN })
}
