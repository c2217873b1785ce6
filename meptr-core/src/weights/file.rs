//! Safetensors files, with every tensor accounted for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle::safetensors::MmapedSafetensors;
use candle::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::{Error, Result};

/// Builds a model from a safetensors file that must hold what the model needs and nothing else.
///
/// Tensors may be stored as f16, bf16 or f32; the model gets f32. Names for which `may_be_left`
/// is true may stand in the file unused (published checkpoints hold parts we do not run).
///
/// # Errors
/// [`Error::UnfitWeights`] lists every tensor that is missing, superfluous or of the wrong shape
/// or type; the others say that the file cannot be read or that the model cannot be built.
pub fn load_file<M>(
    path: &Path,
    device: &Device,
    may_be_left: impl Fn(&str) -> bool,
    build: impl FnOnce(VarBuilder) -> candle::Result<M>,
) -> Result<M> {
    let source = Arc::new(Source::open(path)?);
    let backend: Box<dyn SimpleBackend> = Box::new(SharedSource(Arc::clone(&source)));
    let model = build(VarBuilder::new_with_args(backend, DType::F32, device));
    let problems = source.problems(may_be_left);
    if !problems.is_empty() {
        return Err(Error::UnfitWeights { path: path.to_owned(), problems });
    }
    model.map_err(Error::doing(format!("loading the weights `{}`", path.display())))
}

/// Writes tensors to a safetensors file, by way of a temporary file beside it.
///
/// # Errors
/// When the folder cannot be written or the disk is full; the old file, if any, then stays.
pub fn save_file(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let partial = path.with_extension("safetensors.part");
    let write = |source| Error::Write { path: partial.clone(), source };
    // The library writes files that only their owner can read; a bundle is for others too.
    let usual = std::fs::File::create(&partial).and_then(|file| file.metadata());
    let usual = usual.map_err(write)?.permissions();
    let tensors: HashMap<&str, Tensor> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    if let Err(error) = candle::safetensors::save(&tensors, &partial) {
        let _ = std::fs::remove_file(&partial); // it may not exist; the first error is the one to tell
        return Err(Error::doing(format!("writing the weights `{}`", partial.display()))(error));
    }
    std::fs::set_permissions(&partial, usual).map_err(write)?;
    std::fs::rename(&partial, path).map_err(|source| Error::Write { path: path.to_owned(), source })
}

struct Source {
    stored: BTreeMap<String, Stored>,
    asked: Mutex<Asked>,
}

/// Where a tensor lies in the file.
struct Stored {
    shape: Vec<usize>,
    dtype: safetensors::Dtype,
    start: u64,
    bytes: usize,
}

struct Asked {
    file: File,
    names: BTreeSet<String>,
    problems: Vec<String>,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        if length == 0 {
            return Err(read(std::io::Error::other("the file is empty"))); // cannot be mapped
        }
        #[expect(unsafe_code, reason = "the library checks the header of a whole file in memory")]
        // SAFETY: the map is read-only and private to this value. As with every mapped file, a
        // process that shortens it while we read could end ours; weight files are written under a
        // temporary name and renamed, so nothing of ours does that.
        let map = unsafe { MmapedSafetensors::new(path) }
            .map_err(Error::doing(format!("reading the weights `{}`", path.display())))?;
        let stored = stored(&map, length);
        Ok(Self {
            stored,
            asked: Mutex::new(Asked { file, names: BTreeSet::new(), problems: Vec::new() }),
        })
    }

    fn get(
        &self,
        needed: Shape,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle::Result<Tensor> {
        let mut asked = self.asked.lock().expect("no other thread panics with the lock");
        asked.names.insert(name.to_owned());
        let found = match self.stored.get(name) {
            None => Err(format!("`{name}` {:?} is missing", needed.dims())),
            Some(stored) if stored.shape != needed.dims() => Err(format!(
                "`{name}` has the shape {:?}, the model needs {:?}",
                stored.shape,
                needed.dims()
            )),
            Some(Stored { dtype, .. }) if !is_float(*dtype) => {
                Err(format!("`{name}` holds {dtype:?}, the model needs F16, BF16 or F32"))
            }
            Some(stored) => Ok(stored),
        };
        match found {
            Ok(stored) => stored.load(&mut asked.file, device)?.to_dtype(dtype),
            Err(problem) => {
                // Go on with a stand-in, which never leaves `load_file`, to find all problems at
                // once. It takes no memory: a wrong configuration may ask for any size.
                asked.problems.push(problem);
                Tensor::zeros((), dtype, device)?.broadcast_as(needed)
            }
        }
    }

    fn problems(&self, may_be_left: impl Fn(&str) -> bool) -> Vec<String> {
        let asked = self.asked.lock().expect("no other thread panics with the lock");
        let superfluous = self
            .stored
            .keys()
            .filter(|name| !asked.names.contains(*name) && !may_be_left(name))
            .map(|name| format!("`{name}` is superfluous"));
        asked.problems.iter().cloned().chain(superfluous).collect()
    }
}

/// Where the tensors of a file of `length` bytes lie: one after the other at its end, as the
/// library has checked.
fn stored(map: &MmapedSafetensors, length: u64) -> BTreeMap<String, Stored> {
    let mut views = map.tensors();
    views.sort_by_key(|(_, view)| (view.data().as_ptr(), view.data().len()));
    let all: usize = views.iter().map(|(_, view)| view.data().len()).sum();
    let mut start = length - all as u64;
    let place = |(name, view): (String, safetensors::tensor::TensorView)| {
        let bytes = view.data().len();
        let stored = Stored { shape: view.shape().to_vec(), dtype: view.dtype(), start, bytes };
        start += bytes as u64;
        (name, stored)
    };
    views.into_iter().map(place).collect()
}

impl Stored {
    /// Reads the tensor. Read rather than mapped pages are in memory once, not twice.
    fn load(&self, file: &mut File, device: &Device) -> candle::Result<Tensor> {
        file.seek(SeekFrom::Start(self.start))?;
        if self.dtype == safetensors::Dtype::F32 {
            return Tensor::from_vec(
                read_f32(file, self.bytes / 4)?,
                self.shape.as_slice(),
                device,
            );
        }
        let mut bytes = vec![0; self.bytes];
        file.read_exact(&mut bytes)?;
        Tensor::from_raw_buffer(&bytes, self.dtype.try_into()?, &self.shape, device)
    }
}

fn read_f32(file: &mut File, count: usize) -> io::Result<Vec<f32>> {
    let mut values = Vec::with_capacity(count);
    let mut buffer = vec![0; 1 << 18]; // stays in the cache
    while values.len() < count {
        let part = buffer.len().min(4 * (count - values.len()));
        file.read_exact(&mut buffer[..part])?;
        let (numbers, _) = buffer[..part].as_chunks::<4>();
        values.extend(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }
    Ok(values)
}

fn is_float(kind: safetensors::Dtype) -> bool {
    use safetensors::Dtype;
    matches!(kind, Dtype::F16 | Dtype::BF16 | Dtype::F32)
}

struct SharedSource(Arc<Source>);

impl SimpleBackend for SharedSource {
    fn get(
        &self,
        s: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        dev: &Device,
    ) -> candle::Result<Tensor> {
        self.0.get(s, name, dtype, dev)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle::Result<Tensor> {
        candle::bail!("`{name}` was asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.stored.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(items: &[(&str, &[usize])]) -> BTreeMap<String, Tensor> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F16, &Device::Cpu).unwrap();
        items.iter().map(|(name, shape)| ((*name).to_owned(), zeros(shape))).collect()
    }

    fn load(path: &Path) -> Result<(Tensor, Tensor)> {
        load_file(
            path,
            &Device::Cpu,
            |name| name.ends_with(".pe"),
            |vb| Ok((vb.get((2, 3), "a.weight")?, vb.pp("a").get(2, "bias")?)),
        )
    }

    #[test]
    fn a_fitting_file_gives_f32_whatever_it_stores() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        save_file(&path, &tensors(&[("a.weight", &[2, 3]), ("a.bias", &[2]), ("x.pe", &[9])]))
            .unwrap();
        let (weight, _) = load(&path).unwrap();
        assert_eq!(weight.dtype(), DType::F32);
    }

    #[cfg(unix)]
    #[test]
    fn others_can_read_weights_as_they_can_other_files() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode =
            |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        save_file(&folder.path().join("weights.safetensors"), &tensors(&[("a", &[1])])).unwrap();
        std::fs::write(folder.path().join("other"), "").unwrap();
        assert_eq!(mode("weights.safetensors"), mode("other"));
    }

    #[test]
    fn all_problems_come_in_one_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        save_file(&path, &tensors(&[("a.weight", &[3, 2]), ("b.bias", &[2])])).unwrap();
        let Err(Error::UnfitWeights { problems, .. }) = load(&path) else { panic!("it loaded") };
        assert_eq!(
            problems,
            [
                "`a.weight` has the shape [3, 2], the model needs [2, 3]",
                "`a.bias` [2] is missing",
                "`b.bias` is superfluous"
            ]
        );
    }

    #[test]
    fn broken_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        assert!(load(&path).is_err());
        for bytes in [&b""[..], b"not safetensors", &[0xFF; 64], &[8, 0, 0, 0, 0, 0, 0, 0, b'{']] {
            std::fs::write(&path, bytes).unwrap();
            assert!(load(&path).is_err(), "{bytes:?} was taken");
        }
    }
}
