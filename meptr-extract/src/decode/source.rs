//! Opening of files: accepted containers, choice of streams, and decoders.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Once;

use ffmpeg_next as ffmpeg;

use ffmpeg::format::context::{Input, StreamIo};
use ffmpeg::format::stream::Disposition;
use ffmpeg::{codec, decoder, media, threading};

use super::timestamps::TimeBase;
use crate::{Error, Result};

/// Containers that hold their own media. Playlists and other lists of files or addresses (HLS,
/// DASH, concat, image sequences, SDP) are left out on purpose, so that a file can never make the
/// program read another; so are exotic formats that no camera writes.
const CONTAINERS: &str = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,live_flv,kux,asf,\
    asf_o,ogg,nut,mxf,gxf,rm,dv,ivf,yuv4mpegpipe,gif,apng,mjpeg,mjpeg_2000,h264,hevc,obu,av1,vc1,\
    wtv,wav,w64,aiff,au,caf,mp3,aac,flac,ac3,eac3,dts,amr,wv,tta,ape,3gp,3g2,mj2,swf,h263,h261,\
    truehd,mlp,voc,xwma,smjpeg,r3d,bink,film_cpk,roq,nsv,ea,dirac,lavf,jpeg_pipe,png_pipe";

/// Amount of FFmpeg's own messages on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FfmpegLog {
    /// None; what matters is returned in errors and reports.
    Silent,
    /// Warnings and errors, to examine a broken file.
    Warnings,
    /// All messages.
    Debug,
}

static PREPARED: Once = Once::new();

/// Sets the messages that FFmpeg writes to stderr, for the whole process; none until this is called.
pub fn set_ffmpeg_log(log: FfmpegLog) {
    prepare_ffmpeg();
    ffmpeg::log::set_level(match log {
        FfmpegLog::Silent => ffmpeg::log::Level::Quiet,
        FfmpegLog::Warnings => ffmpeg::log::Level::Warning,
        FfmpegLog::Debug => ffmpeg::log::Level::Debug,
    });
}

/// Keeps FFmpeg silent unless [`set_ffmpeg_log`] was called, and gives its errors their words; to be
/// called before FFmpeg is used.
pub(crate) fn prepare_ffmpeg() {
    PREPARED.call_once(|| {
        ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
        ffmpeg::error::register_all();
    });
}

/// Opens a regular file for demuxing.
///
/// The file is opened here and handed to FFmpeg as a stream. So no name is parsed as a protocol or
/// pattern, names may hold any bytes, and FFmpeg has no protocol to open another file with.
pub(super) fn open(path: &Path) -> Result<Input> {
    prepare_ffmpeg();
    let file = open_regular_file(path)?;
    let failed = |what: &str| {
        let (path, what) = (path.to_owned(), what.to_owned());
        move |source| Error::Decode { path, what, source: Some(source) }
    };
    let stream = StreamIo::from_read_seek(file).map_err(failed("out of memory"))?;
    let mut options = ffmpeg::Dictionary::new();
    options.set("format_whitelist", CONTAINERS);
    options.set("protocol_whitelist", "none");
    let what = "no known audio or video container (playlists and other lists of files are refused)";
    ffmpeg::format::input_from_stream(stream, Some(&format_hint(path)), Some(options))
        .map_err(failed(what))
}

/// Refuses anything but a regular file before opening it: a FIFO would block for ever.
fn open_regular_file(path: &Path) -> Result<File> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(read)?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "is a directory" } else { "is not a regular file" };
        return Err(read(std::io::Error::new(std::io::ErrorKind::InvalidInput, kind)));
    }
    if metadata.len() == 0 {
        return Err(decode_error(path, "the file is empty"));
    }
    File::open(path).map_err(read)
}

/// Neutral file name with the extension of the file, by which FFmpeg tells raw streams apart. The
/// extension of JPEG is left out: FFmpeg would expect a series of files.
fn format_hint(path: &Path) -> String {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some(extension)
            if extension.chars().all(|c| c.is_ascii_alphanumeric())
                && !["jpg", "jpeg"].contains(&&*extension.to_ascii_lowercase()) =>
        {
            format!("input.{extension}")
        }
        _ => "input".to_owned(),
    }
}

/// Decoding error without an FFmpeg error value.
pub(super) fn decode_error(path: &Path, what: impl Into<String>) -> Error {
    Error::Decode { path: path.to_owned(), what: what.into(), source: None }
}

/// Error of a file that exceeds a limit.
pub(super) fn over_limit(path: &Path, what: String) -> Error {
    Error::OverLimit { path: PathBuf::from(path), what }
}

/// Stream that FFmpeg would play. A cover image does not count as video.
pub(super) fn best_stream(input: &Input, kind: media::Type) -> Option<usize> {
    let is_picture =
        |stream: &ffmpeg::Stream| stream.disposition().contains(Disposition::ATTACHED_PIC);
    let best = input.streams().best(kind)?;
    if kind != media::Type::Video || !is_picture(&best) {
        return Some(best.index());
    }
    let real =
        |stream: &ffmpeg::Stream| stream.parameters().medium() == kind && !is_picture(stream);
    input.streams().find(real).map(|stream| stream.index())
}

/// Number of threads that may decode a video stream, at most `most`.
///
/// Several only with decoders that can be set to return errors for damaged data. With that setting,
/// FFmpeg 5.1's MPEG-4 decoder aborts the program, so MPEG-4 gets one thread.
pub(super) fn video_threads(input: &Input, stream: usize, most: usize) -> usize {
    let codec = input.stream(stream).map(|stream| stream.parameters().id());
    match codec {
        Some(codec::Id::H264 | codec::Id::HEVC | codec::Id::VP9 | codec::Id::AV1) => most,
        _ => 1,
    }
}

/// Opens a decoder for a stream with `threads` frame threads, 1 for none.
pub(super) fn decoder_of(
    input: &Input,
    stream: usize,
    threads: usize,
    options: ffmpeg::Dictionary,
) -> Result<decoder::Opened, ffmpeg::Error> {
    let stream = input.stream(stream).ok_or(ffmpeg::Error::StreamNotFound)?;
    let mut context = codec::Context::from_parameters(stream.parameters())?;
    if threads > 1 {
        let mut config = threading::Config::kind(threading::Type::Frame);
        config.count = threads;
        context.set_threading(config);
    }
    let codec = decoder::find(context.id()).ok_or(ffmpeg::Error::DecoderNotFound)?;
    let mut decoder = context.decoder();
    decoder.set_packet_time_base(stream.time_base());
    decoder.open_as_with(codec, options)
}

/// Time zero: the earliest first timestamp of all streams, text only when it precedes the rest by
/// less than a second, rounded to microseconds, as the `ffmpeg` program has it.
pub(super) fn start_microseconds(input: &Input) -> i64 {
    let (mut start, mut text_start) = (None, None);
    for stream in input.streams() {
        if stream.start_time() == ffmpeg::ffi::AV_NOPTS_VALUE {
            continue;
        }
        let seconds = TimeBase::of(&stream, 0).seconds(stream.start_time());
        let microseconds = (seconds * 1e6).round() as i64;
        let earliest = match stream.parameters().medium() {
            media::Type::Subtitle | media::Type::Data => &mut text_start,
            _ => &mut start,
        };
        *earliest = Some(earliest.map_or(microseconds, |found: i64| found.min(microseconds)));
    }
    match (start, text_start) {
        (Some(start), Some(text)) if (0..1_000_000).contains(&start.saturating_sub(text)) => text,
        (start, text) => start.or(text).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_keeps_nothing_of_the_name_but_a_plain_extension() {
        assert_eq!(format_hint(Path::new("-a:b%03d.mp4")), "input.mp4");
        assert_eq!(format_hint(Path::new("x.a:b")), "input");
        assert_eq!(format_hint(Path::new("x")), "input");
        assert_eq!(format_hint(Path::new("x.JPG")), "input");
    }
}
