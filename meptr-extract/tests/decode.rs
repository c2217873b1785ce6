//! Decoding of files that a test writes: every kind a person might give, and broken ones.

use crate::clips;

use std::error::Error as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clips::{Audio, Clip, Video};
use ffmpeg_next::format::{Pixel, Sample, sample};
use meptr_extract::decode::{
    Cue, DecodeOptions, DecodeReport, Event, Limits, Reader, length_seconds, probe,
};
use meptr_extract::windows::{TimeWindow, WindowPlan};
use meptr_extract::{Error, RgbImage};

/// A frame that was kept.
struct Kept {
    window: usize,
    index_in_window: usize,
    index: usize,
    seconds: f64,
    image: RgbImage,
}

#[derive(Default)]
struct Decoded {
    frames: Vec<Kept>,
    sound: Vec<f32>,
    cues: Vec<Cue>,
    report: DecodeReport,
}

impl Decoded {
    fn indices(&self) -> Vec<usize> {
        self.frames.iter().map(|frame| frame.index).collect()
    }
}

#[expect(clippy::result_large_err, reason = "tests look into the error")]
fn decode_with(path: &Path, plan: WindowPlan, options: &DecodeOptions) -> Result<Decoded, Error> {
    let mut decoded = Decoded::default();
    for event in Reader::open(path, plan, options)? {
        match event? {
            Event::Frame { window, index_in_window, index, time_seconds: seconds, image } => {
                decoded.frames.push(Kept { window, index_in_window, index, seconds, image });
            }
            Event::Audio { samples, start_seconds } => {
                assert_eq!(start_seconds, decoded.sound.len() as f64 / 16000.0);
                decoded.sound.extend(samples);
            }
            Event::Subtitle(cue) => decoded.cues.push(cue),
            Event::Restart { windows } => {
                decoded.frames.retain(|frame| !windows.contains(&frame.window));
            }
            Event::End(report) => decoded.report = report,
        }
    }
    Ok(decoded)
}

#[expect(clippy::result_large_err, reason = "tests look into the error")]
fn decode(path: &Path) -> Result<Decoded, Error> {
    decode_with(path, WindowPlan::Whole, &DecodeOptions::default())
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn clip(&self, name: &str, clip: &Clip) -> Result<PathBuf> {
        let path = self.path(name);
        clip.write(&path)?;
        Ok(path)
    }
}

fn film(frames: usize) -> Clip {
    Clip {
        video: Some(Video::mpeg4(64, 48, frames)),
        audio: Some(Audio::aac(44100, 2, frames as f64 / 25.0)),
        subtitles: Vec::new(),
    }
}

/// The message with all its causes.
fn message(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[test]
fn short_and_long_clips_give_the_right_frames() -> Result<()> {
    let folder = Folder::new()?;
    for (name, b_frames) in [("a.mp4", 0), ("b.mp4", 2), ("c.mkv", 2), ("d.avi", 0), ("e.ts", 0)] {
        for count in [1, 10, 30, 31, 77] {
            let video = Video { b_frames, ..Video::mpeg4(64, 48, count) };
            let path = folder.clip(name, &Clip::of_video(video))?;
            let found = decode(&path)?;
            let expected = meptr_extract::decode::frame_indices(count, 30);
            assert_eq!(found.indices(), expected, "{name} of {count}");
            assert_eq!(found.report.frames_decoded, count as u64);
            assert_eq!(found.report.corrupt_packets, 0);
            let claim = probe(&path, &Limits::default())?.video.expect("a video").claimed_frames;
            assert!(!found.report.second_pass, "{name} of {count} claims {claim:?}");
            for frame in &found.frames {
                assert!((frame.seconds - frame.index as f64 / 25.0).abs() < 2e-3, "{name}");
            }
            assert!(found.sound.is_empty());
        }
    }
    Ok(())
}

#[test]
fn lossless_gray_comes_out_as_it_was_painted() -> Result<()> {
    let folder = Folder::new()?;
    for (width, height) in [(64, 48), (33, 27), (1, 1), (7, 2)] {
        let video = Video::ffv1(Pixel::GRAY8, width, height, 3);
        let found = decode(&folder.clip("g.mkv", &Clip::of_video(video))?)?;
        for frame in &found.frames {
            let image = &frame.image;
            assert_eq!((image.width(), image.height()), (width as usize, height as usize));
            for (y, x) in (0..image.height()).flat_map(|y| (0..image.width()).map(move |x| (y, x)))
            {
                let painted = (x * 3 + y * 5 + frame.index * 7) % 256;
                assert_eq!(image.row(y)[3 * x..3 * x + 3], [painted as u8; 3], "at {x}, {y}");
            }
        }
    }
    Ok(())
}

#[test]
fn all_pixel_formats_and_odd_sizes_convert() -> Result<()> {
    let folder = Folder::new()?;
    let formats = [
        Pixel::YUV420P,
        Pixel::YUV422P,
        Pixel::YUV444P,
        Pixel::YUV420P10LE,
        Pixel::YUV422P10LE,
        Pixel::YUVA420P,
        Pixel::GRAY16LE,
        Pixel::RGB48LE,
        Pixel::BGRA,
    ];
    for pixel in formats {
        for (width, height) in [(64, 48), (35, 27), (1, 3)] {
            let video = Video::ffv1(pixel, width, height, 2);
            let found = decode(&folder.clip("p.mkv", &Clip::of_video(video))?)?;
            assert_eq!(found.indices(), [0, 1], "{pixel:?}");
            let image = &found.frames[1].image;
            assert_eq!((image.width(), image.height()), (width as usize, height as usize));
        }
    }
    Ok(())
}

#[test]
fn variable_frame_rate_keeps_its_timestamps() -> Result<()> {
    let folder = Folder::new()?;
    let times_ms = vec![0, 40, 50, 500, 520, 3000, 3001, 9000];
    let seconds: Vec<f64> = times_ms.iter().map(|&time| time as f64 / 1000.0).collect();
    let video = Video { times_ms: Some(times_ms), ..Video::mpeg4(64, 48, 8) };
    let found = decode(&folder.clip("v.mkv", &Clip::of_video(video))?)?;
    let times: Vec<f64> = found.frames.iter().map(|frame| frame.seconds).collect();
    assert_eq!(times, seconds);
    assert_eq!(found.report.last_frame_seconds, Some(9.0));
    Ok(())
}

#[test]
fn every_rotation_and_mirroring_is_undone() -> Result<()> {
    let folder = Folder::new()?;
    let clip = Clip::of_video(Video::mpeg4(64, 48, 2));
    let stored = decode(&folder.clip("plain.mp4", &clip)?)?.frames.remove(0).image;
    let path = folder.path("turned.mp4");
    // Matrix, degrees, mirrored, and where the stored pixel (x, y) of a 64 x 48 picture goes.
    type Case = ([i32; 4], u16, bool, fn(usize, usize) -> (usize, usize));
    let cases: [Case; 6] = [
        ([1, 0, 0, 1], 0, false, |x, y| (x, y)),
        ([0, 1, -1, 0], 270, false, |x, y| (47 - y, x)),
        ([-1, 0, 0, -1], 180, false, |x, y| (63 - x, 47 - y)),
        ([0, -1, 1, 0], 90, false, |x, y| (y, 63 - x)),
        ([-1, 0, 0, 1], 0, true, |x, y| (63 - x, y)),
        ([0, 1, 1, 0], 90, true, |x, y| (y, x)),
    ];
    for (matrix, degrees, mirrored, place) in cases {
        std::fs::copy(folder.path("plain.mp4"), &path)?;
        clips::turn(&path, matrix)?;
        let orientation = probe(&path, &Limits::default())?.video.expect("a video").orientation;
        assert_eq!(
            (orientation.rotation_degrees(), orientation.is_mirrored()),
            (degrees, mirrored)
        );
        let upright = decode(&path)?.frames.remove(0).image;
        for (x, y) in (0..64).flat_map(|x| (0..48).map(move |y| (x, y))) {
            let (to_x, to_y) = place(x, y);
            let expected = &stored.row(y)[3 * x..3 * x + 3];
            assert_eq!(&upright.row(to_y)[3 * to_x..3 * to_x + 3], expected, "{matrix:?}");
        }
    }
    Ok(())
}

#[test]
fn a_size_change_in_mid_stream_gives_frames_of_both_sizes() -> Result<()> {
    let folder = Folder::new()?;
    let video = Video::mjpeg(&[(64, 48, 3), (33, 21, 2), (128, 96, 1)]);
    let found = decode(&folder.clip("s.avi", &Clip::of_video(video))?)?;
    let sizes: Vec<_> =
        found.frames.iter().map(|frame| (frame.image.width(), frame.image.height())).collect();
    assert_eq!(sizes, [(64, 48), (64, 48), (64, 48), (33, 21), (33, 21), (128, 96)]);
    assert_eq!(found.report.size_changes, 2);
    Ok(())
}

#[test]
fn windows_see_what_a_cut_clip_would_hold() -> Result<()> {
    let folder = Folder::new()?;
    let window = |start_seconds, end_seconds| TimeWindow { start_seconds, end_seconds };
    let plan = vec![window(0.0, 2.0), window(1.0, 3.0), window(2.0, 3.2), window(50.0, 60.0)];
    for name in ["w.mp4", "w.mkv", "w.avi", "w.ts"] {
        let video =
            Video { b_frames: if name == "w.avi" { 0 } else { 2 }, ..Video::mpeg4(64, 48, 80) };
        let path = folder.clip(name, &Clip::of_video(video))?;
        let options = DecodeOptions { frames_per_window: 7, ..DecodeOptions::default() };
        let found = decode_with(&path, WindowPlan::Windows(plan.clone()), &options)?;
        for (number, first, count) in [(0, 0, 50), (1, 25, 50), (2, 50, 30), (3, 80, 0)] {
            let expected: Vec<(usize, usize)> = meptr_extract::decode::frame_indices(count, 7)
                .into_iter()
                .map(|index| first + index)
                .enumerate()
                .collect();
            let kept = found.frames.iter().filter(|frame| frame.window == number);
            let kept: Vec<_> = kept.map(|frame| (frame.index_in_window, frame.index)).collect();
            assert_eq!(kept, expected, "{name}, window {number}");
        }
        assert!(!found.report.second_pass, "{name}");
    }
    Ok(())
}

#[test]
fn sound_of_every_kind_becomes_mono_at_16_khz() -> Result<()> {
    let folder = Folder::new()?;
    let packed = sample::Type::Packed;
    let cases = [
        ("a.wav", Audio::pcm(8000, 1, 1.5)),
        (
            "a.wav",
            Audio { codec: "pcm_u8", format: Sample::U8(packed), ..Audio::pcm(11025, 1, 1.0) },
        ),
        (
            "a.wav",
            Audio { codec: "pcm_s24le", format: Sample::I32(packed), ..Audio::pcm(96000, 2, 1.0) },
        ),
        (
            "a.wav",
            Audio { codec: "pcm_f32le", format: Sample::F32(packed), ..Audio::pcm(22050, 2, 1.0) },
        ),
        ("a.mp4", Audio::aac(48000, 6, 1.0)),
        ("a.mkv", Audio { codec: "ac3", ..Audio::aac(48000, 6, 1.0) }),
        ("a.flac", Audio { codec: "flac", ..Audio::pcm(44100, 2, 1.0) }),
        ("a.wav", Audio { is_silent: true, ..Audio::pcm(16000, 1, 1.0) }),
    ];
    for (name, audio) in cases {
        let found = decode(&folder.clip(name, &Clip::of_audio(audio.clone()))?)?;
        assert!(found.frames.is_empty());
        let seconds = found.sound.len() as f64 / 16000.0;
        assert!((seconds - audio.seconds).abs() < 0.1, "{audio:?}: {seconds} s");
        assert_eq!(found.report.audio_seconds, seconds);
        let loudest = found.sound.iter().fold(0f32, |most, sample| most.max(sample.abs()));
        assert_eq!(loudest == 0.0, audio.is_silent, "{audio:?}");
        if name == "a.wav" && !audio.is_silent {
            // Away from the ends a resampled tone is the tone.
            let channels = audio.channels as usize;
            let at = |n: usize| {
                let of = |channel| {
                    let pitch = 220.0 * (channel + 1) as f64;
                    0.5 * (std::f64::consts::TAU * pitch * n as f64 / 16000.0).sin()
                };
                (0..channels).map(of).sum::<f64>() / channels as f64
            };
            for n in 2000..found.sound.len() - 2000 {
                let off = (f64::from(found.sound[n]) - at(n)).abs();
                let step = if audio.codec == "pcm_u8" { 1.0 / 128.0 } else { 0.0 };
                assert!(off < 6e-3 + step, "{audio:?}: off by {off} at {n}");
            }
        }
    }
    Ok(())
}

/// A second of 16-bit sound at 16 kHz, the same tone in every channel, as WAV without a layout.
fn wav(channels: u16) -> Vec<u8> {
    let tone = |n: u32| (8000.0 * (f64::from(n) * 0.2).sin()) as i16;
    let frames = (0..16_000).flat_map(|n| vec![tone(n); usize::from(channels)]);
    let data: Vec<u8> = frames.flat_map(i16::to_le_bytes).collect();
    let (size, frame) = (data.len() as u32, channels * 2);
    let mut file = b"RIFF".to_vec();
    file.extend((36 + size).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0");
    file.extend(channels.to_le_bytes());
    file.extend([16_000, 16_000 * u32::from(frame)].into_iter().flat_map(u32::to_le_bytes));
    file.extend([frame, 16].into_iter().flat_map(u16::to_le_bytes));
    file.extend(b"data");
    file.extend(size.to_le_bytes());
    file.extend(data);
    file
}

#[test]
fn any_number_of_channels_up_to_the_limit_is_heard() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path("c.wav");
    std::fs::write(&path, wav(1))?;
    let alone = decode(&path)?.sound;
    assert_eq!(alone.len(), 16_000);
    for channels in [2, 7, 9, 12, 16, 17, 24, 33, 64] {
        std::fs::write(&path, wav(channels))?;
        let found = decode(&path)?;
        assert_eq!(found.report.corrupt_packets, 0, "{channels} channels");
        assert_eq!(found.sound.len(), alone.len(), "{channels} channels");
        let off = found.sound.iter().zip(&alone).map(|(one, other)| (one - other).abs());
        assert!(off.fold(0.0, f32::max) < 1e-5, "{channels} channels");
    }
    Ok(())
}

#[test]
fn a_jpeg_picture_is_a_video_of_one_frame() -> Result<()> {
    let folder = Folder::new()?;
    let film = folder.clip("p.avi", &Clip::of_video(Video::mjpeg(&[(64, 48, 1)])))?;
    let data = std::fs::read(film)?;
    let start = data.windows(2).position(|word| word == [0xFF, 0xD8]).expect("a picture");
    let length = data[start..].windows(2).position(|word| word == [0xFF, 0xD9]).expect("its end");
    for name in ["p.jpg", "p.JPEG", "p.mp4"] {
        let path = folder.path(name);
        std::fs::write(&path, &data[start..start + length + 2])?;
        assert_eq!(decode(&path)?.indices(), [0], "{name}");
    }
    Ok(())
}

#[test]
fn sound_that_starts_late_is_preceded_by_silence() -> Result<()> {
    let folder = Folder::new()?;
    for start_seconds in [0.5, 20.0] {
        let clip = Clip {
            video: Some(Video::mpeg4(64, 48, 25)),
            audio: Some(Audio { start_seconds, ..Audio::pcm(8000, 1, 1.0) }),
            subtitles: Vec::new(),
        };
        let found = decode(&folder.clip("late.mkv", &clip)?)?;
        let first = found.sound.iter().position(|sample| sample.abs() > 0.02).expect("a tone");
        assert!((first as f64 / 16000.0 - start_seconds).abs() < 2e-3, "{first}");
        let seconds = found.report.audio_seconds;
        assert!((seconds - start_seconds - 1.0).abs() < 2e-3, "{seconds}");
    }
    Ok(())
}

#[test]
fn sound_and_pictures_of_different_length_are_both_whole() -> Result<()> {
    let folder = Folder::new()?;
    for (frames, seconds) in [(5, 3.0), (20, 0.25)] {
        let clip = Clip {
            video: Some(Video::mpeg4(64, 48, frames)),
            audio: Some(Audio::pcm(16000, 1, seconds)),
            subtitles: Vec::new(),
        };
        let path = folder.clip("uneven.mkv", &clip)?;
        let found = decode(&path)?;
        assert_eq!(found.indices(), (0..frames).collect::<Vec<_>>());
        assert_eq!(found.sound.len() as f64 / 16000.0, seconds);

        // A window beyond the end of one still has the other.
        let late = TimeWindow { start_seconds: 0.5, end_seconds: 1.0 };
        let plan = WindowPlan::Windows(vec![late]);
        let found = decode_with(&path, plan, &DecodeOptions::default())?;
        assert_eq!(found.frames.is_empty(), frames == 5, "{:?}", found.indices());
        assert_eq!(found.sound.len() as f64 / 16000.0, seconds);
    }
    Ok(())
}

#[test]
fn embedded_subtitles_come_out_as_timed_text() -> Result<()> {
    let folder = Folder::new()?;
    let subtitles = vec![(0.2, 0.8, "Good <b>day</b>"), (1.0, 1.5, "two\nlines")];
    for name in ["t.mp4", "t.mkv"] {
        let path = folder.clip(name, &Clip { subtitles: subtitles.clone(), ..film(50) })?;
        assert_eq!(probe(&path, &Limits::default())?.subtitles.len(), 1, "{name}");
        // Matroska moves everything by the 23 ms that AAC needs to start.
        let tenths = |seconds: f64| (seconds * 10.0).floor() as i64;
        let cues = decode(&path)?.cues.into_iter();
        let texts: Vec<_> = cues
            .map(|cue| (tenths(cue.start_seconds), tenths(cue.end_seconds), cue.text))
            .collect();
        let expected = [(2, 8, "Good day".to_owned()), (10, 15, "two lines".to_owned())];
        assert_eq!(texts, expected, "{name}");
    }
    Ok(())
}

#[test]
fn files_that_are_no_video_are_named_with_a_reason() -> Result<()> {
    let folder = Folder::new()?;
    let write = |name: &str, data: &[u8]| -> Result<PathBuf> {
        let path = folder.path(name);
        std::fs::write(&path, data)?;
        Ok(path)
    };
    let hls = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n";
    let sdp =
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n";
    let cases = [
        (write("empty.mp4", b"")?, "empty"),
        (write("text.mp4", b"This is no video at all.\n".repeat(99).as_slice())?, "no known audio"),
        (write("text.txt", b"This is no video at all.\n".repeat(99).as_slice())?, "no known audio"),
        (write("list.m3u8", hls)?, "no known audio"),
        (write("list.mp4", hls)?, "no known audio"),
        (write("list.ffconcat", b"ffconcat version 1.0\nfile plain.mp4\n")?, "no known audio"),
        (write("stream.sdp", sdp)?, "no known audio"),
        (write("s.srt", b"1\n00:00:01,000 --> 00:00:02,000\nHi\n")?, "no known audio"),
        (write("zeros.mp4", &[0; 5000])?, "no known audio"),
        (folder.path("missing.mp4"), "No such file"),
        (folder.path("img%03d.png"), "No such file"),
        (folder.0.path().to_owned(), "is a directory"),
        (PathBuf::from("/dev/zero"), "is not a regular file"),
        (PathBuf::from("https://example.org/a.mp4"), "No such file"),
        (PathBuf::from("concat:a.mp4|b.mp4"), "No such file"),
    ];
    for (path, reason) in cases {
        let error = decode(&path).err().unwrap_or_else(|| panic!("{} decodes", path.display()));
        let text = message(&error);
        assert!(text.contains(reason) && text.contains(&*path.to_string_lossy()), "{text}");
        assert!(!text.trim_end().ends_with(':'), "an error without words: {text}");
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_fifo_is_refused_without_waiting_for_a_writer() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path("fifo.mp4");
    let made = std::process::Command::new("mkfifo").arg(&path).status()?;
    assert!(made.success());
    assert!(message(&decode(&path).err().expect("refused")).contains("not a regular file"));
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn names_of_any_bytes_open() -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new()?;
    let plain = folder.clip("plain.mp4", &film(3))?;
    let long = "x".repeat(251) + ".mp4";
    let names: [&[u8]; 9] = [
        b"-i.mp4",
        b"two words.mp4",
        b"it's \"quoted\".mp4",
        b"line\nbreak.mp4",
        b"http:a.mp4",
        b"not utf8 \xff\xfe.mp4",
        b"%03d.mp4",
        b"no extension",
        long.as_bytes(),
    ];
    for name in names {
        let path = folder.0.path().join(std::ffi::OsStr::from_bytes(name));
        std::fs::copy(&plain, &path)?;
        assert_eq!(decode(&path)?.indices(), [0, 1, 2], "{}", path.display());
    }
    Ok(())
}

#[test]
fn what_is_over_a_limit_is_refused_and_says_which() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.clip("l.mkv", &film(50))?;
    let usual = Limits::default();
    let cases = [
        (Limits { max_pixels: 64 * 48 - 1, ..usual.clone() }, "--max-pixels"),
        (Limits { max_frames: 49, ..usual.clone() }, "more than 49 frames"),
        (Limits { max_seconds: 1.0, ..usual.clone() }, "--max-seconds"),
        (Limits { max_audio_channels: 1, ..usual.clone() }, "2 channels"),
        (Limits { max_audio_rate_hz: 44_099, ..usual.clone() }, "44100 samples"),
    ];
    for (limits, name) in cases {
        let options = DecodeOptions { limits, ..DecodeOptions::default() };
        let error = decode_with(&path, WindowPlan::Whole, &options).err().expect("over a limit");
        assert!(matches!(error, Error::OverLimit { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let pictures = folder.clip("p.mkv", &Clip::of_video(Video::mpeg4(64, 48, 50)))?;
    let limits = Limits { max_seconds: 1.0, ..usual.clone() };
    let options = DecodeOptions { limits: limits.clone(), ..DecodeOptions::default() };
    let refused = decode_with(&pictures, WindowPlan::Whole, &options);
    assert!(matches!(refused, Err(Error::OverLimit { .. })), "pictures alone are held to it too");
    let media = probe(&pictures, &limits)?;
    assert!(matches!(length_seconds(&pictures, &media, &limits), Err(Error::OverLimit { .. })));
    assert_eq!(length_seconds(&pictures, &media, &usual)?, Some(2.0));
    let limits = Limits { max_pixels: 64 * 48, max_frames: 50, max_audio_channels: 2, ..usual };
    let options = DecodeOptions { limits, ..DecodeOptions::default() };
    assert_eq!(decode_with(&path, WindowPlan::Whole, &options)?.report.frames_decoded, 50);
    Ok(())
}

#[test]
fn truncated_files_give_what_decodes() -> Result<()> {
    let folder = Folder::new()?;
    for name in ["c.mkv", "c.avi", "c.ts"] {
        let path = folder.clip(name, &film(100))?;
        let data = std::fs::read(&path)?;
        for (part, least) in [(8, 30), (6, 20), (3, 5)] {
            std::fs::write(&path, &data[..data.len() * part / 10])?;
            let found = decode(&path)?;
            let frames = found.report.frames_decoded as usize;
            assert!((least..100).contains(&frames), "{name}, {part}: {frames}");
            let expected = meptr_extract::decode::frame_indices(frames, 30);
            assert_eq!(found.indices(), expected, "{name}, {part}");
        }
    }
    // Without its index at the end an MP4 file holds nothing that can be found.
    let path = folder.clip("c.mp4", &film(100))?;
    let data = std::fs::read(&path)?;
    std::fs::write(&path, &data[..data.len() / 2])?;
    assert!(matches!(decode(&path), Err(Error::Decode { .. })));
    Ok(())
}

/// Offset of the content of the box of this name in an MP4 file.
fn body_of(data: &[u8], name: &[u8; 4]) -> usize {
    data.windows(4).position(|word| word == name).expect("the box") + 4
}

#[test]
fn headers_that_lie_about_the_frame_count_cost_a_second_pass() -> Result<()> {
    let folder = Folder::new()?;
    // In AVI the stream header's dwLength is what FFmpeg takes for the number of frames.
    let path = folder.clip("lie.avi", &Clip::of_video(Video::mpeg4(64, 48, 100)))?;
    let data = std::fs::read(&path)?;
    let length = body_of(&data, b"strh") + 4 + 32;
    for claim in [5u32, 1_000_000_000] {
        let mut lie = data.clone();
        lie[length..length + 4].copy_from_slice(&claim.to_le_bytes());
        std::fs::write(&path, &lie)?;
        let claimed = probe(&path, &Limits::default())?.video.expect("a video").claimed_frames;
        let found = decode(&path)?;
        assert_eq!(found.indices(), meptr_extract::decode::frame_indices(100, 30));
        let places: Vec<usize> = found.frames.iter().map(|frame| frame.index_in_window).collect();
        assert_eq!(places, (0..30).collect::<Vec<_>>());
        let is_believed = claimed.is_some_and(|claim| claim != 100 && claim <= 10_000_000);
        assert_eq!(found.report.second_pass, is_believed, "claims {claimed:?}");
    }
    Ok(())
}

#[test]
fn corrupt_bytes_in_the_middle_are_skipped_up_to_the_limit() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.clip("c.avi", &Clip::of_video(Video::mjpeg(&[(64, 48, 100)])))?;
    let mut data = std::fs::read(&path)?;
    let (start, end) = (data.len() * 4 / 10, data.len() * 5 / 10);
    let mut rewritten = 0;
    // Every picture that starts in that stretch, up to the header of the next chunk.
    for i in start..end {
        if data[i..i + 3] == [0xFF, 0xD8, 0xFF] {
            let length = data[i..].windows(4).position(|word| word == b"00dc").expect("a chunk");
            data[i..i + length].fill(0);
            rewritten += 1;
        }
    }
    assert!(rewritten > 3);
    std::fs::write(&path, &data)?;
    let found = decode(&path)?;
    let report = &found.report;
    assert!(report.corrupt_packets + report.frames_damaged > 0, "{report:?}");
    assert!((80..100).contains(&report.frames_decoded), "{report:?}");
    let expected = meptr_extract::decode::frame_indices(report.frames_decoded as usize, 30);
    assert_eq!(found.indices(), expected);
    assert!(report.second_pass, "{report:?}");

    let limits = Limits { max_corrupt_packets: 1, ..Limits::default() };
    let options = DecodeOptions { limits, ..DecodeOptions::default() };
    let error = decode_with(&path, WindowPlan::Whole, &options).err().expect("over the limit");
    assert!(error.to_string().contains("--max-corrupt-packets"), "{error}");
    Ok(())
}

#[test]
fn a_frame_larger_than_allowed_in_mid_stream_is_skipped() -> Result<()> {
    let folder = Folder::new()?;
    let video = Video::mjpeg(&[(64, 48, 3), (640, 480, 2), (64, 48, 1)]);
    let path = folder.clip("s.avi", &Clip::of_video(video))?;
    let limits = Limits { max_pixels: 64 * 48, ..Limits::default() };
    let options = DecodeOptions { limits, ..DecodeOptions::default() };
    let found = decode_with(&path, WindowPlan::Whole, &options)?;
    assert!(found.frames.iter().all(|frame| frame.image.width() == 64));
    assert_eq!((found.report.frames_decoded, found.report.corrupt_packets > 0), (4, true));
    Ok(())
}

/// Deterministic pseudo-random numbers (xorshift).
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn flipped_bytes_never_panic_and_never_take_long() -> Result<()> {
    let folder = Folder::new()?;
    let mut state = 7;
    for (name, video) in [
        ("m.mp4", Video { b_frames: 2, ..Video::mpeg4(64, 48, 12) }),
        ("m.mkv", Video::mpeg4(64, 48, 12)),
        ("m.avi", Video::mjpeg(&[(64, 48, 6)])),
    ] {
        let subtitles = if name == "m.avi" { vec![] } else { vec![(0.0, 0.2, "Hello")] };
        let clip = Clip { video: Some(video), subtitles, ..film(12) };
        let data = std::fs::read(folder.clip(name, &clip)?)?;
        let path = folder.path(name);
        let limits = Limits { max_pixels: 1 << 20, max_seconds: 600.0, ..Limits::default() };
        let options = DecodeOptions { limits, ..DecodeOptions::default() };
        for _ in 0..120 {
            let mut bad = data.clone();
            for _ in 0..1 + next_random(&mut state) % 8 {
                let at = next_random(&mut state) as usize % bad.len();
                bad[at] = next_random(&mut state) as u8;
            }
            std::fs::write(&path, &bad)?;
            let started = std::time::Instant::now();
            if let Err(error) = decode_with(&path, WindowPlan::Whole, &options) {
                assert!(error.to_string().contains(name), "{error}");
            }
            assert!(started.elapsed().as_secs() < 20);
        }
    }
    Ok(())
}

#[test]
fn the_number_of_threads_changes_nothing_even_in_damaged_files() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path("p.mp4");
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/portrait.mp4");
    let good = std::fs::read(sample)?; // H.264
    let body = body_of(&good, b"mdat");
    let mut state = 11;
    for flips in [0, 1, 16, 64] {
        let mut data = good.clone();
        for _ in 0..flips {
            let at = body + next_random(&mut state) as usize % (data.len() - body);
            data[at] = next_random(&mut state) as u8;
        }
        std::fs::write(&path, &data)?;
        let decoded = |threads| -> Result<Decoded> {
            let options = DecodeOptions { threads, ..DecodeOptions::default() };
            Ok(decode_with(&path, WindowPlan::Whole, &options)?)
        };
        let alone = decoded(1)?;
        assert_eq!(alone.report.frames_damaged > 0, flips > 0, "{flips} flips");
        for threads in [2, 8] {
            let found = decoded(threads)?;
            assert_eq!(found.report, alone.report, "{flips} flips, {threads} threads");
            assert_eq!(found.indices(), alone.indices(), "{flips} flips, {threads} threads");
            assert!(found.sound == alone.sound, "{flips} flips, {threads} threads");
            for (one, other) in found.frames.iter().zip(&alone.frames) {
                let which = one.index;
                assert!(one.image == other.image, "{which}: {flips} flips, {threads} threads");
            }
        }
    }
    Ok(())
}
