//! Deterministic encoding of frames and audio to the bytes of a video file.

use std::io::{Cursor, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ffmpeg_next as ffmpeg;

use ffmpeg::format::context::StreamIo;
use ffmpeg::format::{Pixel, Sample, sample};
use ffmpeg::{ChannelLayout, Dictionary, Packet, Rational, codec, encoder, frame};

use super::canvas::Canvas;
use crate::decode::{SAMPLE_RATE_HZ, prepare_ffmpeg};
use crate::{Error, Result};

/// Quantiser of every frame: 1 best, 31 worst.
const QUANTISER: i32 = 3;

/// Container and codecs of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    /// MPEG-4 video and AAC audio.
    Mp4,
    /// MPEG-4 video and FLAC audio.
    Matroska,
}

impl Container {
    /// Extension of its files.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Matroska => "mkv",
        }
    }

    fn format(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Matroska => "matroska",
        }
    }

    fn audio(self) -> (&'static str, Sample) {
        match self {
            Self::Mp4 => ("aac", Sample::F32(sample::Type::Planar)),
            Self::Matroska => ("flac", Sample::I16(sample::Type::Packed)),
        }
    }
}

/// Encodes a video file in memory: `pictures` of one even size, `frames_per_second` of them, and
/// mono `samples` at 16 kHz, -1 to 1.
///
/// One thread, no dates, no random identifiers: equal input gives equal bytes with the same FFmpeg
/// on the same machine.
///
/// # Errors
/// When FFmpeg cannot be loaded, lacks an encoder or refuses.
pub(super) fn encode(
    container: Container,
    pictures: &[Canvas],
    frames_per_second: usize,
    samples: &[f32],
) -> Result<Vec<u8>> {
    prepare_ffmpeg();
    let written = Memory::default();
    mux(container, pictures, frames_per_second as i32, samples, written.clone())
        .map_err(|source| Error::Encode { what: container.extension(), source })?;
    let bytes = std::mem::take(&mut *written.lock());
    Ok(bytes.into_inner())
}

fn mux(
    container: Container,
    pictures: &[Canvas],
    rate: i32,
    samples: &[f32],
    memory: Memory,
) -> Result<(), ffmpeg::Error> {
    let mut output = ffmpeg::format::output_to_stream(
        StreamIo::from_write_seek(memory)?,
        None,
        Some(container.format()),
    )?;
    let video_base = Rational::new(1, rate);
    let mut video = video_encoder(pictures, rate)?;
    let mut stream = output.add_stream(video.codec())?;
    stream.set_parameters(&video);
    stream.set_time_base(video_base);
    stream.set_avg_frame_rate((rate, 1));
    let audio_base = Rational::new(1, SAMPLE_RATE_HZ as i32);
    let mut audio = audio_encoder(container)?;
    let mut stream = output.add_stream(audio.codec())?;
    stream.set_parameters(&audio);
    stream.set_time_base(audio_base);
    let mut packets = Vec::new();
    for packet in encode_pictures(&mut video, pictures)? {
        packets.push((0, video_base, packet));
    }
    for packet in encode_samples(&mut audio, container.audio().1, samples)? {
        packets.push((1, audio_base, packet));
    }
    packets.sort_by_key(|(_, base, packet)| {
        (packet.dts().unwrap_or(0) as f64 * f64::from(*base) * 1e6) as i64
    });
    let mut exact = Dictionary::new();
    exact.set("fflags", "+bitexact");
    output.write_header_with(exact)?;
    for (index, base, mut packet) in packets {
        packet.set_stream(index);
        let own_base = output.stream(index).ok_or(ffmpeg::Error::StreamNotFound)?.time_base();
        packet.rescale_ts(base, own_base);
        packet.set_position(-1);
        packet.write_interleaved(&mut output)?;
    }
    output.write_trailer()
}

fn context_for(name: &str) -> Result<(ffmpeg::Codec, codec::Context), ffmpeg::Error> {
    let codec = encoder::find_by_name(name).ok_or(ffmpeg::Error::EncoderNotFound)?;
    let mut context = codec::Context::new_with_codec(codec);
    context.set_threading(codec::threading::Config::count(1));
    Ok((codec, context))
}

fn video_encoder(pictures: &[Canvas], rate: i32) -> Result<encoder::video::Encoder, ffmpeg::Error> {
    let (codec, mut context) = context_for("mpeg4")?;
    context.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::BITEXACT);
    let mut video = context.encoder().video()?;
    let first = pictures.first().ok_or(ffmpeg::Error::InvalidData)?;
    video.set_width(first.width() as u32);
    video.set_height(first.height() as u32);
    video.set_format(Pixel::YUV420P);
    video.set_time_base((1, rate));
    video.set_frame_rate(Some((rate, 1)));
    video.set_gop(10);
    video.set_bit_rate(2_000_000);
    video.set_qmin(QUANTISER);
    video.set_qmax(QUANTISER);
    video.open_as_with(codec, Dictionary::new())
}

fn audio_encoder(container: Container) -> Result<encoder::audio::Encoder, ffmpeg::Error> {
    let (name, format) = container.audio();
    let (codec, mut context) = context_for(name)?;
    context.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::BITEXACT);
    let mut audio = context.encoder().audio()?;
    audio.set_rate(SAMPLE_RATE_HZ as i32);
    audio.set_format(format);
    audio.set_channel_layout(ChannelLayout::MONO);
    audio.set_time_base((1, SAMPLE_RATE_HZ as i32));
    audio.set_bit_rate(64_000);
    audio.open_as_with(codec, Dictionary::new())
}

fn encode_pictures(
    encoder: &mut encoder::video::Encoder,
    pictures: &[Canvas],
) -> Result<Vec<Packet>, ffmpeg::Error> {
    let mut packets = Vec::new();
    for (number, picture) in pictures.iter().enumerate() {
        let (width, height) = (picture.width() as u32, picture.height() as u32);
        let mut frame = frame::Video::new(Pixel::YUV420P, width, height);
        fill(&mut frame, picture);
        frame.set_pts(Some(number as i64));
        encoder.send_frame(&frame)?;
        receive(encoder, 1, &mut packets);
    }
    encoder.send_eof()?;
    receive(encoder, 1, &mut packets);
    Ok(packets)
}

fn encode_samples(
    encoder: &mut encoder::audio::Encoder,
    format: Sample,
    samples: &[f32],
) -> Result<Vec<Packet>, ffmpeg::Error> {
    let step = encoder.frame_size().max(1) as usize;
    let mut packets = Vec::new();
    for (number, part) in samples.chunks(step).enumerate() {
        let mut frame = frame::Audio::new(format, part.len(), ChannelLayout::MONO);
        frame.set_rate(SAMPLE_RATE_HZ);
        match format {
            Sample::I16(_) => {
                let whole = part.iter().map(|sample| (sample * 32767.0).round() as i16);
                frame.plane_mut::<i16>(0).iter_mut().zip(whole).for_each(|(to, from)| *to = from);
            }
            _ => frame.plane_mut::<f32>(0).copy_from_slice(part),
        }
        frame.set_pts(Some((number * step) as i64));
        encoder.send_frame(&frame)?;
        receive(encoder, part.len() as i64, &mut packets);
    }
    encoder.send_eof()?;
    receive(encoder, 0, &mut packets);
    Ok(packets)
}

/// Receives the packets that the encoder has ready; `duration` is for packets without one.
fn receive(encoder: &mut encoder::Encoder, duration: i64, packets: &mut Vec<Packet>) {
    loop {
        let mut packet = Packet::empty();
        if encoder.receive_packet(&mut packet).is_err() {
            return;
        }
        if packet.duration() == 0 {
            packet.set_duration(duration);
        }
        packets.push(packet);
    }
}

/// RGB to planes of luma and halved chroma, ITU-R BT.601 with 16 to 235.
fn fill(frame: &mut frame::Video, picture: &Canvas) {
    let (width, height) = (picture.width(), picture.height());
    let stride = frame.stride(0);
    for (y, row) in picture.pixels().chunks(width).enumerate() {
        let line = &mut frame.data_mut(0)[y * stride..y * stride + width];
        for (byte, [red, green, blue]) in line.iter_mut().zip(row) {
            *byte = (16.5 + 65.481 * red + 128.553 * green + 24.966 * blue) as u8;
        }
    }
    for (plane, weights) in [(1, [-37.797, -74.203, 112.0]), (2, [112.0, -93.786, -18.214])] {
        let stride = frame.stride(plane);
        for y in 0..height / 2 {
            for x in 0..width / 2 {
                let mut value = 0.0;
                for at in [0, 1, width, width + 1] {
                    let pixel = picture.pixels()[2 * y * width + 2 * x + at];
                    value += pixel.iter().zip(weights).map(|(part, w)| part * w).sum::<f32>();
                }
                frame.data_mut(plane)[y * stride + x] = (128.5 + value / 4.0) as u8;
            }
        }
    }
}

/// File in memory, shared by FFmpeg, which writes it, and this program, which reads it afterwards.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Cursor<Vec<u8>>>>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Cursor<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Memory {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.lock().seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{DecodeOptions, Event, Reader};
    use crate::windows::WindowPlan;

    #[test]
    fn what_is_encoded_decodes_again_and_is_the_same_every_time() -> anyhow::Result<()> {
        let colour = [0.8, 0.3, 0.2];
        let pictures: Vec<Canvas> = (0..8).map(|_| Canvas::new(64, 48, |_| colour)).collect();
        let tone = |index: usize| 0.5 * (index as f32 * 0.1).sin();
        let samples: Vec<f32> = (0..12_800).map(tone).collect();
        for container in [Container::Mp4, Container::Matroska] {
            let bytes = encode(container, &pictures, 10, &samples)?;
            assert!(bytes == encode(container, &pictures, 10, &samples)?, "{container:?}");
            let folder = tempfile::tempdir()?;
            let path = folder.path().join(format!("clip.{}", container.extension()));
            std::fs::write(&path, bytes)?;
            let (mut frames, mut heard) = (0, 0);
            for event in Reader::open(&path, WindowPlan::Whole, &DecodeOptions::default())? {
                match event? {
                    Event::Frame { image, .. } => {
                        frames += 1;
                        let pixel = &image.row(20)[60..63];
                        for (found, made) in pixel.iter().zip(colour) {
                            assert!((f32::from(*found) - 255.0 * made).abs() < 6.0, "{pixel:?}");
                        }
                    }
                    Event::Audio { samples, .. } => heard += samples.len(),
                    _ => {}
                }
            }
            assert_eq!(frames, 8);
            assert!((12_800..15_000).contains(&heard), "{container:?}: {heard}");
        }
        Ok(())
    }
}
