//! Small clips written by tests: a moving pattern, tones, subtitles, in any container and codec.
//!
//! Needs FFmpeg's libraries only, not its program. Included by the tests of several crates.

use std::path::Path;

use anyhow::{Context, Result};
use ffmpeg_next as ffmpeg;

use ffmpeg::format::{Pixel, Sample, sample};
use ffmpeg::{ChannelLayout, Dictionary, Packet, Rational, codec, encoder, frame};

/// Content of a clip. The container follows from the extension of its path.
#[derive(Debug, Clone, Default)]
pub struct Clip {
    pub video: Option<Video>,
    pub audio: Option<Audio>,
    /// Start, end (seconds) and text; coded as the container likes it.
    pub subtitles: Vec<(f64, f64, &'static str)>,
}

/// A moving pattern.
#[derive(Debug, Clone)]
pub struct Video {
    pub codec: &'static str,
    pub pixel: Pixel,
    /// Width, height and number of frames of each stretch; more than one only for MJPEG.
    pub stretches: Vec<(u32, u32, usize)>,
    pub rate: i32,
    /// Presentation time of every frame in milliseconds, for a variable rate.
    pub times_ms: Option<Vec<i64>>,
    pub b_frames: usize,
}

/// A tone in every channel, each of another pitch.
#[derive(Debug, Clone)]
pub struct Audio {
    pub codec: &'static str,
    pub format: Sample,
    pub rate: i32,
    pub channels: i32,
    pub seconds: f64,
    pub start_seconds: f64,
    pub is_silent: bool,
}

impl Video {
    /// MPEG-4, 25 frames a second.
    pub fn mpeg4(width: u32, height: u32, frames: usize) -> Self {
        Self {
            codec: "mpeg4",
            pixel: Pixel::YUV420P,
            stretches: vec![(width, height, frames)],
            rate: 25,
            times_ms: None,
            b_frames: 0,
        }
    }

    /// Lossless FFV1, 25 frames a second.
    pub fn ffv1(pixel: Pixel, width: u32, height: u32, frames: usize) -> Self {
        Self { codec: "ffv1", pixel, ..Self::mpeg4(width, height, frames) }
    }

    /// Motion JPEG, 25 frames a second, one size after the other.
    pub fn mjpeg(stretches: &[(u32, u32, usize)]) -> Self {
        let stretches = stretches.to_vec();
        Self { codec: "mjpeg", pixel: Pixel::YUVJ420P, stretches, ..Self::mpeg4(2, 2, 1) }
    }
}

impl Audio {
    /// 16-bit PCM.
    pub fn pcm(rate: i32, channels: i32, seconds: f64) -> Self {
        Self {
            codec: "pcm_s16le",
            format: Sample::I16(sample::Type::Packed),
            rate,
            channels,
            seconds,
            start_seconds: 0.0,
            is_silent: false,
        }
    }

    /// AAC.
    pub fn aac(rate: i32, channels: i32, seconds: f64) -> Self {
        let format = Sample::F32(sample::Type::Planar);
        Self { codec: "aac", format, ..Self::pcm(rate, channels, seconds) }
    }
}

impl Clip {
    /// Pictures alone.
    pub fn of_video(video: Video) -> Self {
        Self { video: Some(video), ..Self::default() }
    }

    /// Sound alone.
    pub fn of_audio(audio: Audio) -> Self {
        Self { audio: Some(audio), ..Self::default() }
    }

    /// Writes the clip.
    pub fn write(&self, path: &Path) -> Result<()> {
        ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
        let mut output = ffmpeg::format::output(path).context("the container")?;
        let mut packets = Vec::new(); // stream, its own time base, packet
        let flags = match path.extension().is_some_and(|extension| extension == "ts") {
            true => codec::Flags::empty(),
            false => codec::Flags::GLOBAL_HEADER,
        };
        if let Some(video) = &self.video {
            let mut stream = None;
            for part in 0..video.stretches.len() {
                let mut opened = video.open(part, flags).context("the video encoder")?;
                let index = match stream {
                    Some(index) => index,
                    None => {
                        let mut added = output.add_stream(opened.codec())?;
                        added.set_parameters(&opened);
                        added.set_time_base(video.time_base());
                        added.set_avg_frame_rate((video.rate, 1));
                        *stream.insert(added.index())
                    }
                };
                let base = video.time_base();
                packets
                    .extend(video.encode(part, &mut opened)?.into_iter().map(|p| (index, base, p)));
            }
        }
        if let Some(audio) = &self.audio {
            let mut opened = audio.open(flags).context("the audio encoder")?;
            let mut added = output.add_stream(opened.codec())?;
            added.set_parameters(&opened);
            let (index, base) = (added.index(), Rational::new(1, audio.rate));
            packets.extend(audio.encode(&mut opened)?.into_iter().map(|p| (index, base, p)));
        }
        if !self.subtitles.is_empty() {
            let is_mov = path.extension().is_some_and(|extension| extension == "mp4");
            let mut parameters = codec::Parameters::new();
            parameters.set_medium(ffmpeg::media::Type::Subtitle);
            parameters.set_id(if is_mov { codec::Id::MOV_TEXT } else { codec::Id::SUBRIP });
            let mut added = output.add_stream(None::<ffmpeg::Codec>)?;
            added.set_parameters(parameters);
            added.set_time_base((1, 1000));
            let (index, base) = (added.index(), Rational::new(1, 1000));
            packets.extend(self.subtitles.iter().map(|cue| (index, base, subtitle(cue, is_mov))));
        }
        output.write_header()?;
        packets.sort_by_key(|(_, base, packet)| {
            (packet.dts().unwrap_or(0) as f64 * f64::from(*base) * 1e6) as i64
        });
        for (index, base, mut packet) in packets {
            packet.set_stream(index);
            packet.rescale_ts(base, output.stream(index).context("its stream")?.time_base());
            packet.set_position(-1);
            packet.write_interleaved(&mut output)?;
        }
        output.write_trailer()?;
        Ok(())
    }
}

fn subtitle(cue: &(f64, f64, &str), is_mov: bool) -> Packet {
    let (start, end, text) = *cue;
    let length = u16::try_from(text.len()).expect("short text").to_be_bytes();
    let data = if is_mov { [&length, text.as_bytes()].concat() } else { text.as_bytes().to_vec() };
    let mut packet = Packet::copy(&data);
    let milliseconds = |seconds: f64| (seconds * 1000.0) as i64;
    packet.set_pts(Some(milliseconds(start)));
    packet.set_dts(Some(milliseconds(start)));
    packet.set_duration(milliseconds(end - start));
    packet
}

impl Video {
    fn time_base(&self) -> Rational {
        match self.times_ms {
            Some(_) => Rational::new(1, 1000),
            None => Rational::new(1, self.rate),
        }
    }

    fn open(&self, part: usize, flags: codec::Flags) -> Result<encoder::video::Encoder> {
        let codec = encoder::find_by_name(self.codec).context("no such encoder")?;
        let mut context = codec::Context::new_with_codec(codec);
        context.set_flags(flags);
        context.compliance(codec::Compliance::Unofficial);
        let mut video = context.encoder().video()?;
        let (width, height, _) = self.stretches[part];
        video.set_width(width);
        video.set_height(height);
        video.set_format(self.pixel);
        video.set_time_base(self.time_base());
        video.set_frame_rate(Some((self.rate, 1)));
        video.set_max_b_frames(self.b_frames);
        video.set_gop(12);
        video.set_bit_rate(400_000);
        Ok(video.open_as_with(codec, Dictionary::new())?)
    }

    fn encode(&self, part: usize, encoder: &mut encoder::video::Encoder) -> Result<Vec<Packet>> {
        let before: usize = self.stretches[..part].iter().map(|stretch| stretch.2).sum();
        let (width, height, count) = self.stretches[part];
        let mut packets = Vec::new();
        for n in before..before + count {
            let mut frame = frame::Video::new(self.pixel, width, height);
            paint(&mut frame, n);
            let time = self.times_ms.as_ref().map_or(n as i64, |times| times[n]);
            frame.set_pts(Some(time));
            encoder.send_frame(&frame)?;
            collect(encoder, &mut packets);
        }
        encoder.send_eof()?;
        collect(encoder, &mut packets);
        Ok(packets)
    }
}

/// A pattern that moves by some pixels a frame.
fn paint(frame: &mut frame::Video, n: usize) {
    let is_ten_bit =
        frame.format().descriptor().is_some_and(|format| format.name().contains("10le"));
    for plane in 0..frame.planes() {
        let stride = frame.stride(plane);
        for (i, byte) in frame.data_mut(plane).iter_mut().enumerate() {
            let (x, y) = (i % stride, i / stride);
            let value = x * 3 + y * 5 + n * 7 + plane * 31;
            let high = is_ten_bit && i % 2 == 1;
            *byte = if high { value % 4 } else { value % 256 } as u8;
        }
    }
}

fn collect(encoder: &mut encoder::Encoder, packets: &mut Vec<Packet>) {
    loop {
        let mut packet = Packet::empty();
        if encoder.receive_packet(&mut packet).is_err() {
            return;
        }
        packets.push(packet);
    }
}

impl Audio {
    fn layout(&self) -> ChannelLayout {
        ChannelLayout::default(self.channels)
    }

    fn open(&self, flags: codec::Flags) -> Result<encoder::audio::Encoder> {
        let codec = encoder::find_by_name(self.codec).context("no such encoder")?;
        let mut context = codec::Context::new_with_codec(codec);
        context.set_flags(flags);
        context.compliance(codec::Compliance::Experimental);
        let mut audio = context.encoder().audio()?;
        audio.set_rate(self.rate);
        audio.set_format(self.format);
        audio.set_channel_layout(self.layout());
        audio.set_time_base((1, self.rate));
        audio.set_bit_rate(64_000);
        Ok(audio.open_as_with(codec, Dictionary::new())?)
    }

    fn encode(&self, encoder: &mut encoder::audio::Encoder) -> Result<Vec<Packet>> {
        let step = match encoder.frame_size() {
            0 => 1024,
            size => size as usize,
        };
        let count = (self.seconds * f64::from(self.rate)) as usize;
        let shift = (self.start_seconds * f64::from(self.rate)) as i64;
        let mut packets = Vec::new();
        for start in (0..count).step_by(step) {
            let samples = step.min(count - start);
            let mut frame = frame::Audio::new(self.format, samples, self.layout());
            frame.set_rate(self.rate as u32);
            self.sing(&mut frame, start);
            frame.set_pts(Some(start as i64 + shift));
            encoder.send_frame(&frame)?;
            collect(encoder, &mut packets);
        }
        encoder.send_eof()?;
        collect(encoder, &mut packets);
        Ok(packets)
    }

    /// Value of a channel at a sample, -1 to 1.
    pub fn value(&self, n: usize, channel: usize) -> f32 {
        if self.is_silent {
            return 0.0;
        }
        let pitch = 220.0 * (channel + 1) as f32;
        0.5 * (std::f32::consts::TAU * pitch * n as f32 / self.rate as f32).sin()
    }

    fn sing(&self, frame: &mut frame::Audio, start: usize) {
        let (channels, samples) = (self.channels as usize, frame.samples());
        let planes = frame.planes();
        let at = |plane: usize, i: usize| match planes {
            1 => self.value(start + i / channels, i % channels),
            _ => self.value(start + i, plane),
        };
        let count = samples * channels / planes;
        for plane in 0..planes {
            let data = frame.data_mut(plane);
            for i in 0..count {
                let value = at(plane, i);
                let whole = |bits: u32| (value * 2f32.powi(bits as i32 - 1)) as i32;
                match self.format {
                    Sample::U8(_) => data[i] = (whole(8) + 128) as u8,
                    Sample::I16(_) => {
                        data[2 * i..2 * i + 2].copy_from_slice(&(whole(16) as i16).to_ne_bytes());
                    }
                    Sample::I32(_) => {
                        data[4 * i..4 * i + 4].copy_from_slice(&whole(32).to_ne_bytes());
                    }
                    _ => data[4 * i..4 * i + 4].copy_from_slice(&value.to_ne_bytes()),
                }
            }
        }
    }
}

/// Overwrites the display matrix of the first track of an MP4 file: `a b c d`, each -1, 0 or 1.
pub fn turn(path: &Path, matrix: [i32; 4]) -> Result<()> {
    let mut data = std::fs::read(path)?;
    let header = data.windows(4).position(|word| word == b"tkhd").context("a track header")?;
    let [a, b, c, d] = matrix.map(|entry| entry << 16);
    for (i, entry) in [a, b, 0, c, d, 0, 0, 0, 1 << 30].into_iter().enumerate() {
        let at = header + 44 + 4 * i;
        data[at..at + 4].copy_from_slice(&entry.to_be_bytes());
    }
    std::fs::write(path, data)?;
    Ok(())
}
