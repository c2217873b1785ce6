//! Reading the features of one video.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

use super::digest_of;
use super::layout::{MAX_FILE_BYTES, MAX_HEADER_BYTES, METADATA_KEY, VideoRecord};
use super::writer::is_finite;
use crate::files::open_file;
use crate::{Error, Modality, PerModality, Result};

/// A file of a store whose header was read and makes sense; sequences are read one at a time.
#[derive(Debug)]
pub struct FeatureFile {
    path: PathBuf,
    file: File,
    record: VideoRecord,
    tensors: PerModality<Option<Span>>,
}

/// Place of a sequence in the file.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    bytes: usize,
    steps: usize,
    width: usize,
    dtype: DType,
}

impl FeatureFile {
    /// Opens a file and checks everything but the values.
    ///
    /// # Errors
    /// [`Error::FeatureVersion`] when another version of the program wrote it;
    /// [`Error::NotFeatures`] when it is damaged or something else; [`Error::Read`] when it is not
    /// there or cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let unfit = |why: String| Error::NotFeatures { path: path.to_owned(), why };
        let mut file = open_file(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let header = header(&mut file, length).map_err(read)?.map_err(unfit)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| unfit(error.to_string()))?;
        let data_start = 8 + header.len() as u64;
        if data_start.checked_add(metadata.data_len() as u64) != Some(length) {
            return Err(unfit("it is not as long as it says".to_owned()));
        }
        let json = metadata.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
        let json = json.ok_or_else(|| unfit("it holds no record of a video".to_owned()))?;
        let Version { schema } =
            serde_json::from_str(json).map_err(|error| unfit(error.to_string()))?;
        if schema != VideoRecord::SCHEMA {
            return Err(Error::FeatureVersion { path: path.to_owned(), found: schema });
        }
        let record: VideoRecord =
            serde_json::from_str(json).map_err(|error| unfit(error.to_string()))?;
        let tensors = spans(&metadata, data_start).map_err(unfit)?;
        let shapes =
            PerModality::from_fn(|one| tensors[one].map(|span: Span| (span.steps, span.width)));
        match record.problem(&shapes) {
            Some(why) => Err(unfit(why)),
            None => Ok(Self { path: path.to_owned(), file, record, tensors }),
        }
    }

    /// Metadata of the video.
    pub fn record(&self) -> &VideoRecord {
        &self.record
    }

    /// Width of a modality's sequence; `None` when it is absent.
    pub fn width(&self, modality: Modality) -> Option<usize> {
        self.tensors[modality].map(|span| span.width)
    }

    /// The sequence of a modality, `(steps, width)`, f32; `None` when it is absent.
    ///
    /// # Errors
    /// [`Error::NotFeatures`] when a value was altered or is not finite; [`Error::Read`] when the
    /// file cannot be read.
    pub fn sequence(&self, modality: Modality) -> Result<Option<Tensor>> {
        let Some(span) = self.tensors[modality] else { return Ok(None) };
        let bytes =
            self.bytes(span).map_err(|source| Error::Read { path: self.path.clone(), source })?;
        let unfit = |why| Error::NotFeatures { path: self.path.clone(), why };
        let written = self.record.modalities[modality].sha256.as_ref();
        if written.is_some_and(|written| *written != digest_of(&bytes)) {
            return Err(unfit(format!("numbers of the {modality} sequence were altered")));
        }
        let tensor = || {
            let shape = [span.steps, span.width];
            let stored = Tensor::from_raw_buffer(&bytes, span.dtype, &shape, &Device::Cpu)?;
            let tensor = stored.to_dtype(DType::F32)?;
            Ok((is_finite(&tensor)?, tensor))
        };
        match tensor().map_err(Error::doing(format!("reading `{}`", self.path.display())))? {
            (true, tensor) => Ok(Some(tensor)),
            (false, _) => {
                Err(unfit(format!("the {modality} sequence holds a number that is not finite")))
            }
        }
    }

    /// Reads every sequence and verifies that all values are those that were written.
    ///
    /// # Errors
    /// As [`Self::sequence`].
    pub fn verify(&self) -> Result<()> {
        Modality::ALL.into_iter().try_for_each(|modality| self.sequence(modality).map(drop))
    }

    fn bytes(&self, span: Span) -> std::io::Result<Vec<u8>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(span.start))?;
        let mut bytes = vec![0; span.bytes];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// The one field that every version of the format has.
#[derive(Deserialize)]
struct Version {
    schema: String,
}

/// The JSON at the head of a file, or what is wrong with it.
fn header(file: &mut File, length: u64) -> std::io::Result<Result<Vec<u8>, String>> {
    if length < 8 {
        return Ok(Err(format!("it has {length} bytes")));
    }
    if length > MAX_FILE_BYTES {
        return Ok(Err(format!("it has {length} bytes, more than {MAX_FILE_BYTES}")));
    }
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes)?;
    let header_length = u64::from_le_bytes(bytes);
    if header_length > MAX_HEADER_BYTES || header_length > length - 8 {
        return Ok(Err(format!("its header claims {header_length} bytes")));
    }
    let mut header = vec![0; header_length as usize];
    file.read_exact(&mut header)?;
    Ok(Ok(header))
}

/// Place of each modality in the file, or the problem of the tensors.
fn spans(metadata: &Metadata, data_start: u64) -> Result<PerModality<Option<Span>>, String> {
    let mut spans = PerModality::default();
    for (name, info) in metadata.tensors() {
        let modality =
            Modality::named(&name).ok_or_else(|| format!("it holds a tensor `{name}`"))?;
        spans[modality] = Some(span(info, data_start).ok_or_else(|| {
            format!(
                "the {name} sequence has the shape {:?} and the type {:?}",
                info.shape, info.dtype
            )
        })?);
    }
    Ok(spans)
}

/// `None` for anything but a matrix of f16 or f32. That its size fits its shape is known.
fn span(info: &TensorInfo, data_start: u64) -> Option<Span> {
    let &[steps, width] = info.shape.as_slice() else { return None };
    let dtype = match info.dtype {
        Dtype::F16 => DType::F16,
        Dtype::F32 => DType::F32,
        _ => return None,
    };
    let (start, end) = info.data_offsets;
    Some(Span { start: data_start + start as u64, bytes: end - start, steps, width, dtype })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;

    use super::*;
    use crate::prediction::ChosenFrame;
    use crate::store::{Provenance, SequenceRecord, SourceFile, Storage, write_features};

    fn record() -> VideoRecord {
        let video = SourceFile { bytes: 9, modified_ns: Some(1), sha256: "0".repeat(64) };
        VideoRecord {
            schema: VideoRecord::SCHEMA.to_owned(),
            video: "clip".to_owned(),
            provenance: Provenance {
                video,
                audio: None,
                text_sha256: None,
                weights: BTreeMap::from([("clip".to_owned(), "1".repeat(64))]),
                settings_sha256: "2".repeat(64),
            },
            duration_seconds: 1.5,
            frames: vec![ChosenFrame { index: 0, time: 0.0 }, ChosenFrame { index: 3, time: 0.12 }],
            modalities: PerModality {
                face: SequenceRecord {
                    pieces: vec![2],
                    frames: vec![0, 1],
                    ..SequenceRecord::default()
                },
                audio: SequenceRecord { pieces: vec![2, 1], ..SequenceRecord::default() },
                ..PerModality::from_fn(|_| SequenceRecord::absent("not there"))
            },
        }
    }

    fn sequences() -> PerModality<Option<Tensor>> {
        let tensor = |values: &[f32]| {
            Some(Tensor::from_slice(values, (values.len() / 2, 2), &Device::Cpu).unwrap())
        };
        PerModality {
            face: tensor(&[1.0, -2.5, 0.1, 0.0]),
            audio: tensor(&[1e-3, 4.0, 5.0, 6.0, 7.0, 8.0]),
            ..PerModality::default()
        }
    }

    fn written(storage: Storage) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corpus/train/a.b.safetensors");
        write_features(&path, &record(), &sequences(), storage).unwrap();
        (folder, path)
    }

    fn values(file: &FeatureFile, modality: Modality) -> Vec<Vec<f32>> {
        file.sequence(modality).unwrap().unwrap().to_vec2().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let (folder, path) = written(Storage::F32);
        let file = FeatureFile::open(&path).unwrap();
        let mut found = file.record().clone();
        for modality in [Modality::Face, Modality::Audio] {
            assert_eq!(found.modalities[modality].sha256.take().map(|hash| hash.len()), Some(64));
        }
        assert_eq!(found, record());
        assert_eq!(values(&file, Modality::Face), [[1.0, -2.5], [0.1, 0.0]]);
        assert_eq!(values(&file, Modality::Audio), [[1e-3, 4.0], [5.0, 6.0], [7.0, 8.0]]);
        assert!(file.sequence(Modality::Text).unwrap().is_none());
        assert_eq!(file.width(Modality::Face), Some(2));
        let left = std::fs::read_dir(folder.path().join("corpus/train")).unwrap().count();
        assert_eq!(left, 1, "a temporary file was left");
    }

    #[test]
    fn altered_numbers_are_seen_where_the_file_says_what_they_were() {
        let (_folder, path) = written(Storage::F32);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(4).position(|four| four == (-2.5f32).to_le_bytes()).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let file = FeatureFile::open(&path).unwrap();
        let error = file.sequence(Modality::Face).unwrap_err().to_string();
        assert!(error.contains("numbers of the face sequence were altered"), "{error}");
        assert!(file.sequence(Modality::Audio).is_ok() && file.verify().is_err());

        // A file of an older version has no hashes, and holds all the same.
        let (record, sequences) = (record(), sequences());
        let json = serde_json::to_string(&record).unwrap();
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
        let tensors = Modality::ALL
            .into_iter()
            .filter_map(|modality| Some((modality.name(), sequences[modality].as_ref()?)));
        std::fs::write(&path, safetensors::serialize(tensors, Some(metadata)).unwrap()).unwrap();
        FeatureFile::open(&path).unwrap().verify().unwrap();
    }

    /// f16 has 11 significant bits.
    #[test]
    fn half_precision_is_near() {
        let (_folder, path) = written(Storage::F16);
        let file = FeatureFile::open(&path).unwrap();
        for (found, exact) in values(&file, Modality::Audio).iter().flatten().zip([1e-3, 4.0]) {
            assert!((found - exact).abs() <= exact / 2048.0, "{found} instead of {exact}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused_on_both_sides() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let mut wrong = sequences();
        wrong.face = Some(Tensor::new(&[[70_000.0f32, 0.0], [0.0, 0.0]], &Device::Cpu).unwrap());
        let error = write_features(&path, &record(), &wrong, Storage::F16).unwrap_err();
        assert!(error.to_string().contains("the face sequence"), "{error}");
        assert!(!path.exists());

        write_features(&path, &record(), &wrong, Storage::F32).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(4).position(|four| four == 70_000.0f32.to_le_bytes()).unwrap();
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let file = FeatureFile::open(&path).unwrap();
        assert!(matches!(file.sequence(Modality::Face), Err(Error::NotFeatures { .. })));
        assert!(file.sequence(Modality::Audio).is_ok());
    }

    #[test]
    fn another_version_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let json = r#"{"schema":"meptr-features/9","unheard":1}"#;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), json.to_owned())]);
        let tensors: Vec<(&str, Tensor)> = Vec::new();
        let bytes = safetensors::serialize(tensors, Some(metadata)).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let error = FeatureFile::open(&path).unwrap_err();
        assert!(error.to_string().contains("meptr-features/9"), "{error}");
    }

    #[test]
    fn files_that_contradict_themselves_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let refused = |change: &dyn Fn(&mut VideoRecord)| {
            let mut record = record();
            change(&mut record);
            write_features(&path, &record, &sequences(), Storage::F32).unwrap_err().to_string()
        };
        let text = refused(&|record| record.modalities.body.reason = None);
        assert!(text.contains("missing without a reason"), "{text}");
        let text = refused(&|record| record.modalities.audio.pieces = vec![usize::MAX, 4]);
        assert!(text.contains("not as long"), "{text}");
        let text = refused(&|record| record.modalities.face.frames = vec![0, 2]);
        assert!(text.contains("not listed"), "{text}");
        let text = refused(&|record| record.video = "../x".to_owned());
        assert!(text.contains("file name"), "{text}");
    }

    fn open_and_read(bytes: &[u8]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        std::fs::write(&path, bytes).unwrap();
        if let Ok(file) = FeatureFile::open(&path) {
            for modality in Modality::ALL {
                let _ = file.sequence(modality); // what counts is that it comes back
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            open_and_read(&bytes);
            let mut with_header = (bytes.len() as u64).to_le_bytes().to_vec();
            with_header.extend(&bytes);
            open_and_read(&with_header);
        }

        #[test]
        fn damaged_files_do_no_harm(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            keep in any::<prop::sample::Index>(),
            is_cut in any::<bool>(),
        ) {
            let (_folder, path) = written(Storage::F32);
            let mut bytes = std::fs::read(&path).unwrap();
            for (place, byte) in damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if is_cut {
                bytes.truncate(keep.index(bytes.len()));
            }
            open_and_read(&bytes);
        }
    }
}
