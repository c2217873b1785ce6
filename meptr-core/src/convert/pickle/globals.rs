//! Python classes and functions that a pickle may name.

use super::element::Element;
use crate::convert::error::{CheckpointError, Result};

/// Allow-list of Python globals in a pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Tensors, storages and plain values.
    Tensors,
    /// Also classes of `ultralytics` and `torch.nn`, as inert records of their attributes.
    ModelObjects,
}

/// Meaning of an accepted name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Global {
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: a view of a storage.
    Tensor,
    /// `torch._utils._rebuild_parameter`: its first argument.
    Parameter,
    /// A dictionary class: empty, or of the pairs or dictionary that is its argument.
    Dict,
    /// `collections.defaultdict`: empty.
    DefaultDict,
    /// A class of lists, sets or tuples: the sequence that is its argument.
    Sequence,
    /// `_codecs.encode`: bytes, as protocol 2 spells them.
    Bytes,
    /// A storage class of PyTorch.
    Storage(Element),
    /// `numpy.dtype`.
    NumpyType,
    /// `numpy.core.multiarray.scalar`.
    NumpyScalar,
    /// `copyreg._reconstructor`: an object of the class that is its first argument.
    Reconstructor,
    /// A class whose objects become records of their attributes.
    Record(String),
    /// Something harmless that weights do not need; calling it gives [`super::Value::Other`].
    Other,
}

/// Looks a name up in the allow-list.
///
/// # Errors
/// When it is not in the list; the error names it.
pub(super) fn resolve(module: &str, name: &str, trust: Trust) -> Result<Global> {
    let module_now = match module {
        "__builtin__" => "builtins",
        "copy_reg" => "copyreg",
        module => module,
    };
    Ok(match (module_now, name) {
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::Tensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Global::Parameter
        }
        ("collections", "OrderedDict" | "Counter") | ("builtins", "dict") => Global::Dict,
        ("collections", "defaultdict") => Global::DefaultDict,
        ("builtins", "set" | "frozenset" | "list" | "tuple") | ("torch", "Size") => {
            Global::Sequence
        }
        ("_codecs", "encode") => Global::Bytes,
        ("copyreg", "_reconstructor") => Global::Reconstructor,
        ("numpy", "dtype") => Global::NumpyType,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Global::NumpyScalar,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct")
        | ("numpy", "ndarray")
        | ("torch", "device")
        | ("builtins", "object" | "int" | "float" | "str" | "bool" | "bytearray" | "complex")
        | ("datetime", "datetime" | "date" | "timedelta") => Global::Other,
        ("torch", dtype) if DTYPES.contains(&dtype) => Global::Other,
        ("argparse", "Namespace")
        | ("types", "SimpleNamespace")
        | ("pathlib", "PosixPath" | "WindowsPath") => Global::Record(format!("{module}.{name}")),
        ("torch" | "torch.cuda", class) => match Element::of_storage(class) {
            Some(element) => Global::Storage(element),
            None => return Err(forbidden(module, name)),
        },
        _ if is_model_class(module, name) => match trust {
            Trust::ModelObjects => Global::Record(format!("{module}.{name}")),
            Trust::Tensors => {
                return Err(CheckpointError::ModelObject { global: format!("{module}.{name}") });
            }
        },
        _ => return Err(forbidden(module, name)),
    })
}

const MAX_NAME: usize = 200;
const DTYPES: [&str; 10] = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
];

/// A class by the look of its name; a path such as `torch.nn` + `modules.os.system` is none.
fn is_model_class(module: &str, name: &str) -> bool {
    if module.len() + name.len() > MAX_NAME {
        return false; // before anything walks or copies it
    }
    let known = ["ultralytics.", "torch.nn.modules."].iter().any(|head| module.starts_with(head));
    let has_upper = name.contains(|c: char| c.is_ascii_uppercase()); // `v8DetectionLoss` is one
    let is_identifier = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    known && has_upper && is_identifier
}

fn forbidden(module: &str, name: &str) -> CheckpointError {
    // A name may be as long as the file; nobody reads more than this of it.
    let shown: String = format!("{module}.{name}").chars().take(MAX_NAME).collect();
    CheckpointError::ForbiddenGlobal { global: shown.escape_debug().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_names_are_known() {
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("__builtin__", "exec"),
            ("builtins", "getattr"),
            ("subprocess", "Popen"),
            ("torch", "load"),
            ("torch.storage", "_load_from_bytes"),
            ("torch.nn.modules.x", "Path.os"),
            ("torch.nn.modules.x", "system"),
            ("ultralytics.utils", "os.system"),
            ("numpy.core.multiarray", "fromfile"),
        ] {
            for trust in [Trust::Tensors, Trust::ModelObjects] {
                let error = resolve(module, name, trust).unwrap_err().to_string();
                assert!(error.contains(&format!("`{module}.{name}`")), "{error}");
            }
        }
    }

    #[test]
    fn model_classes_are_records_in_their_mode_only() {
        let (module, name) = ("ultralytics.nn.tasks", "DetectionModel");
        assert!(matches!(
            resolve(module, name, Trust::Tensors),
            Err(CheckpointError::ModelObject { .. })
        ));
        let record = Global::Record("ultralytics.nn.tasks.DetectionModel".to_owned());
        assert_eq!(resolve(module, name, Trust::ModelObjects).unwrap(), record);
    }
}
