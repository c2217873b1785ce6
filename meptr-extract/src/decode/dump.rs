//! Inputs of the models, written to files for inspection.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use super::audio::SAMPLE_RATE_HZ;
use crate::{Error, Result, RgbImage};

/// Writes images as PNG and the sound as `audio.wav` into a folder.
///
/// The WAV file has 16 bits: exact for sound of one channel; a mean of channels is rounded to the
/// nearest value. It is written while the video is decoded, never held in memory.
pub struct Dump {
    folder: PathBuf,
    audio: Option<hound::WavWriter<BufWriter<File>>>,
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dump").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Dump {
    /// Creates the folder, and those above it. It must be empty, so that two dumps do not mix.
    ///
    /// # Errors
    /// When the folder cannot be made, or holds anything.
    pub fn new(folder: &Path) -> Result<Self> {
        let write = |source| Error::Write { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(write)?;
        Self::ensure_empty(folder)?;
        Ok(Self { folder: folder.to_owned(), audio: None })
    }

    /// Refuses a folder that is not empty; one that does not exist counts as empty.
    ///
    /// # Errors
    /// When it does, or cannot be read.
    pub fn ensure_empty(folder: &Path) -> Result<()> {
        let taken = "it holds files already; name a new or an empty folder";
        let source = match std::fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
            Ok(true) => return Ok(()),
            Ok(false) => io::Error::new(io::ErrorKind::AlreadyExists, taken),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        Err(Error::Write { path: folder.to_owned(), source })
    }

    /// Writes `image` to `NAME.png`; `name` may hold slashes for folders below.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn image(&self, name: &str, image: &RgbImage) -> Result<()> {
        let path = self.folder.join(format!("{name}.png"));
        write_png(&path, image).map_err(|source| Error::Write { path, source })
    }

    /// Appends 16 kHz mono samples, -1 to 1, to `audio.wav`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn audio(&mut self, samples: &[f32]) -> Result<()> {
        let path = self.folder.join("audio.wav");
        let written = self.append(&path, samples);
        written.map_err(|source| Error::Write { path, source: to_io(source) })
    }

    fn append(&mut self, path: &Path, samples: &[f32]) -> hound::Result<()> {
        let writer = match &mut self.audio {
            Some(writer) => writer,
            None => self.audio.insert(hound::WavWriter::create(path, wav_spec())?),
        };
        for &sample in samples {
            writer.write_sample((sample * 32768.0).round() as i16)?;
        }
        Ok(())
    }

    /// Completes `audio.wav`, if there was any sound.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(self) -> Result<()> {
        let path = self.folder.join("audio.wav");
        let finished = self.audio.map_or(Ok(()), hound::WavWriter::finalize);
        finished.map_err(|source| Error::Write { path, source: to_io(source) })
    }
}

fn wav_spec() -> hound::WavSpec {
    hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    }
}

fn to_io(error: hound::Error) -> io::Error {
    match error {
        hound::Error::IoError(error) => error,
        other => io::Error::other(other),
    }
}

fn write_png(path: &Path, image: &RgbImage) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let side = |length: usize| u32::try_from(length).map_err(io::Error::other);
    let file = BufWriter::new(File::create(path)?);
    let mut encoder = png::Encoder::new(file, side(image.width())?, side(image.height())?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.data())?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_reads_back_as_it_was() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let target = folder.path().join("a/b");
        let mut dump = Dump::new(&target)?;
        let image = RgbImage::new(2, 1, vec![1, 2, 3, 4, 5, 6]);
        dump.image("frames/0001", &image)?;
        let steps: [i16; 5] = [-32768, -1, 0, 1, 32767];
        for step in steps {
            dump.audio(&[f32::from(step) / 32768.0])?;
        }
        dump.audio(&[2.0])?;
        dump.finish()?;

        let mut wav = hound::WavReader::open(target.join("audio.wav"))?;
        assert_eq!(wav.spec(), wav_spec());
        let samples = wav.samples::<i16>().collect::<hound::Result<Vec<_>>>()?;
        assert_eq!(samples, [-32768, -1, 0, 1, 32767, 32767]);

        let file = std::io::BufReader::new(File::open(target.join("frames/0001.png"))?);
        let mut png = png::Decoder::new(file).read_info()?;
        let mut data = vec![0; 6];
        png.next_frame(&mut data)?;
        assert_eq!(data, image.data());

        let error = Dump::new(&target).unwrap_err();
        assert!(matches!(&error, Error::Write { path, .. } if *path == target), "{error}");
        Ok(())
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let error = Dump::new(Path::new("/dev/null/x")).unwrap_err();
        assert!(error.to_string().contains("/dev/null/x"), "{error}");
    }
}
