//! Safetensors files, with every tensor accounted for.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use candle::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use super::frozen::FrozenBuilder;
use super::source::{SharedSource, Source};
use crate::files::AtomicFile;
use crate::{Error, Precision, Result};

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
    load_from(path, device, may_be_left, |vb, _| build(vb))
}

/// Loads a model that is never trained, which computes in this precision.
///
/// On the CPU its matrices stay in the file, which is mapped, where they are stored as f32.
///
/// # Errors
/// As [`load_file`].
pub fn load_frozen<M>(
    path: &Path,
    device: &Device,
    precision: Precision,
    may_be_left: impl Fn(&str) -> bool,
    build: impl FnOnce(FrozenBuilder) -> candle::Result<M>,
) -> Result<M> {
    load_from(path, device, may_be_left, |vb, source| {
        let is_mapped = device.is_cpu() && precision == Precision::F32;
        build(FrozenBuilder::new(vb.to_dtype(precision.dtype()), is_mapped.then_some(source)))
    })
}

fn load_from<M>(
    path: &Path,
    device: &Device,
    may_be_left: impl Fn(&str) -> bool,
    build: impl FnOnce(VarBuilder, Arc<Source>) -> candle::Result<M>,
) -> Result<M> {
    let source = Arc::new(Source::open(path)?);
    let backend: Box<dyn SimpleBackend> = Box::new(SharedSource(Arc::clone(&source)));
    let vb = VarBuilder::new_with_args(backend, DType::F32, device);
    let model = build(vb, Arc::clone(&source));
    let problems = match &model {
        Ok(_) => source.problems(may_be_left),
        Err(failure) => source.problems_until(failure),
    };
    if !problems.is_empty() {
        return Err(Error::UnfitWeights { path: path.to_owned(), problems });
    }
    model.map_err(Error::doing(format!("loading the weights `{}`", path.display())))
}

/// Writes tensors to a safetensors file, all of it or nothing.
///
/// # Errors
/// When the folder cannot be written or the disk is full; the old file, if any, then stays.
pub fn save_file(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    save_checked(path, tensors, |_| Ok(()))
}

/// Writes tensors as [`save_file`] does, if `check` accepts the written file.
pub(crate) fn save_checked(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    check: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let write = |source| Error::Write { path: path.to_owned(), source };
    let file = AtomicFile::new(path).map_err(write)?;
    // The library writes files that only their owner can read; a bundle is for others too.
    let usual = std::fs::File::create(file.path()).and_then(|opened| opened.metadata());
    let usual = usual.map_err(write)?.permissions();
    let tensors: HashMap<&str, Tensor> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    candle::safetensors::save(&tensors, file.path())
        .map_err(Error::doing(format!("writing the weights `{}`", path.display())))?;
    std::fs::set_permissions(file.path(), usual).map_err(write)?;
    check(file.path())?;
    file.finish().map_err(write)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(items: &[(&str, &[usize])]) -> BTreeMap<String, Tensor> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F16, &Device::Cpu).unwrap();
        items.iter().map(|(name, shape)| ((*name).to_owned(), zeros(shape))).collect()
    }

    #[test]
    fn a_mapped_matrix_is_the_tensor_and_is_accounted_for() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let numbers: Vec<f32> = (0..24).map(|number| number as f32).collect();
        let one = Tensor::from_vec(numbers.clone(), (4, 3, 2), &Device::Cpu).unwrap();
        save_file(&path, &BTreeMap::from([("a.one".to_owned(), one)]))?;
        let open = |shape: (usize, usize, usize)| {
            load_frozen(
                &path,
                &Device::Cpu,
                Precision::F32,
                |_| false,
                |vb| Ok((vb.pp("a").matrix(shape, "one")?, vb.file())),
            )
        };
        let indices = |rows: &[u32]| Tensor::new(rows, &Device::Cpu).unwrap();
        let (matrix, file) = open((4, 3, 2))?;
        assert_eq!((matrix.rows(), matrix.columns()), (4, 6));
        assert_eq!(*matrix.numbers().unwrap(), numbers);
        file.expect("it is mapped").release();
        assert_eq!(*matrix.numbers().unwrap(), numbers, "after letting go of the pages");
        let rows = matrix.select_rows(&indices(&[2, 0])).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows, [&numbers[12..18], &numbers[..6]]);
        assert!(matrix.select_rows(&indices(&[4])).is_err());
        let Err(Error::UnfitWeights { problems, .. }) = open((4, 2, 3)) else {
            panic!("it loaded")
        };
        assert_eq!(problems.len(), 1, "{problems:?}");
        Ok(())
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

    /// Whatever a configuration asks for, the answer comes at once and takes no memory.
    #[test]
    fn a_model_without_bounds_is_refused_when_the_file_cannot_hold_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        save_file(&path, &tensors(&[("a.weight", &[3, 2])])).unwrap();
        let refused = |build: &dyn Fn(VarBuilder) -> candle::Result<()>| {
            let Err(Error::UnfitWeights { problems, .. }) =
                load_file(&path, &Device::Cpu, |_| false, build)
            else {
                panic!("it loaded")
            };
            let last = problems.last().unwrap();
            assert!(last.contains("more than such a file can hold"), "{last}");
            problems
        };
        let problems = refused(&|vb| {
            (0..1_000_000_000_000_u64).try_for_each(|layer| vb.get(1, &layer.to_string()).map(drop))
        });
        assert!(problems[0].contains("`0` [1] is missing"), "{problems:?}");
        for shape in [vec![1_000_000_000_000], vec![512, 1_000_000_000], vec![usize::MAX; 3]] {
            let problems = refused(&|vb| vb.get(shape.clone(), "x")?.contiguous().map(drop));
            assert_eq!(problems.len(), 2, "{problems:?}");
        }
        // Other failures are told as they are, and not by the tensors that nobody came to ask for.
        let error = load_file(
            &path,
            &Device::Cpu,
            |_| false,
            |_| -> candle::Result<()> { candle::bail!("`classes` is 0") },
        );
        let error = error.unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("`classes` is 0"), "{error}: {source}");
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
