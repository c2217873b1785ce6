//! Tensors of a safetensors file, and a record of those that a model asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use candle::{DType, Device, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use safetensors::SafeTensors;

use super::map::MappedFile;
use crate::files::open_file;
use crate::{Error, Result};

/// Problems after which no more are looked for: a configuration may ask for layers without end.
const MAX_PROBLEMS: usize = 1000;
/// Values that stand-ins may have in total, where the file does not have more itself.
const MIN_STAND_INS: usize = 1 << 24;

/// An open file.
pub(super) struct Source {
    map: Arc<MappedFile>,
    stored: BTreeMap<String, Stored>,
    asked: Mutex<Asked>,
}

/// Place of a tensor in the file.
struct Stored {
    shape: Vec<usize>,
    dtype: safetensors::Dtype,
    bytes: Range<usize>,
}

struct Asked {
    file: File,
    names: BTreeSet<String>,
    problems: Vec<String>,
    /// Values of all stand-ins in total.
    stand_ins: usize,
}

impl Source {
    /// Opens a file and checks its header.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let file = open_file(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        if length == 0 {
            return Err(read(std::io::Error::other("the file is empty"))); // cannot be mapped
        }
        let map = Arc::new(MappedFile::open(&file).map_err(read)?);
        let tensors = SafeTensors::deserialize(map.bytes()).map_err(|source| Error::Compute {
            doing: format!("reading the weights `{}`", path.display()),
            source: source.into(),
        })?;
        let stored = stored(&tensors, map.bytes());
        Ok(Self {
            map,
            stored,
            asked: Mutex::new(Asked {
                file,
                names: BTreeSet::new(),
                problems: Vec::new(),
                stand_ins: 0,
            }),
        })
    }

    /// A tensor, copied; a problem is noted instead of returned, as long as what the model needs
    /// could be in such a file.
    pub(super) fn get(
        &self,
        needed: Shape,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle::Result<Tensor> {
        let mut asked = self.asked();
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
                // once. It takes no memory itself, but the model may copy it.
                asked.problems.push(problem);
                let dims = needed.dims().iter();
                let numbers = dims.fold(1, |all: usize, size| all.saturating_mul(*size));
                asked.stand_ins = asked.stand_ins.saturating_add(numbers);
                if asked.problems.len() >= MAX_PROBLEMS
                    || asked.stand_ins > self.map.bytes().len().max(MIN_STAND_INS)
                {
                    candle::bail!("the model needs more than such a file can hold");
                }
                Tensor::zeros((), dtype, device)?.broadcast_as(needed)
            }
        }
    }

    /// The mapped file and the bytes of a tensor, if it is f32 of this shape and lies so that it can
    /// be read in place.
    pub(super) fn mapped(
        &self,
        needed: &Shape,
        name: &str,
    ) -> Option<(Arc<MappedFile>, Range<usize>)> {
        let Stored { shape, dtype, bytes } = self.stored.get(name)?;
        let fits = shape == needed.dims()
            && *dtype == safetensors::Dtype::F32
            && self.map.holds_f32s(bytes.clone());
        fits.then(|| {
            self.asked().names.insert(name.to_owned());
            (Arc::clone(&self.map), bytes.clone())
        })
    }

    /// The mapped file.
    pub(super) fn file(&self) -> Arc<MappedFile> {
        Arc::clone(&self.map)
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().expect("no other thread panics with the lock")
    }

    /// Problems of the requested tensors, and tensors that were not requested.
    pub(super) fn problems(&self, may_be_left: impl Fn(&str) -> bool) -> Vec<String> {
        let asked = self.asked();
        let superfluous = self
            .stored
            .keys()
            .filter(|name| !asked.names.contains(*name) && !may_be_left(name))
            .map(|name| format!("`{name}` is superfluous"));
        asked.problems.iter().cloned().chain(superfluous).collect()
    }

    /// Problems of the requested tensors up to the failure of the model's construction.
    pub(super) fn problems_until(&self, failure: &candle::Error) -> Vec<String> {
        let mut problems = self.asked().problems.clone();
        if !problems.is_empty() {
            problems.push(failure.to_string());
        }
        problems
    }
}

/// Places of the tensors of a file.
fn stored(tensors: &SafeTensors, file: &[u8]) -> BTreeMap<String, Stored> {
    let place = |(name, view): (String, safetensors::tensor::TensorView)| {
        let start = view.data().as_ptr().addr() - file.as_ptr().addr(); // a part of the file
        let bytes = start..start + view.data().len();
        (name, Stored { shape: view.shape().to_vec(), dtype: view.dtype(), bytes })
    };
    tensors.tensors().into_iter().map(place).collect()
}

impl Stored {
    /// Reads the tensor. Read rather than mapped pages are in memory once, not twice.
    fn load(&self, file: &mut File, device: &Device) -> candle::Result<Tensor> {
        file.seek(SeekFrom::Start(self.bytes.start as u64))?;
        if self.dtype == safetensors::Dtype::F32 {
            return Tensor::from_vec(
                read_f32(file, self.bytes.len() / 4)?,
                self.shape.as_slice(),
                device,
            );
        }
        let mut bytes = vec![0; self.bytes.len()];
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

/// A source behind a `VarBuilder`.
pub(super) struct SharedSource(pub(super) Arc<Source>);

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
