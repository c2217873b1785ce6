//! Weights that are only read: on the CPU they stay where they lie in a mapped file.

use std::ops::{Deref, Range};
use std::sync::Arc;

use candle::{DType, Device, Result, Shape, Storage, StorageRef, Tensor, bail};
use candle_nn::VarBuilder;

use super::map::MappedFile;
use super::source::Source;
use crate::Precision;

/// A `VarBuilder` that also gives matrices without copying them.
///
/// Made of a plain `VarBuilder` (generated weights, a GPU) its matrices are tensors.
#[derive(Clone)]
pub struct FrozenBuilder<'a> {
    vb: VarBuilder<'a>,
    source: Option<Arc<Source>>,
    products: Precision,
}

impl<'a> From<VarBuilder<'a>> for FrozenBuilder<'a> {
    fn from(vb: VarBuilder<'a>) -> Self {
        Self { vb, source: None, products: Precision::F32 }
    }
}

impl<'a> Deref for FrozenBuilder<'a> {
    type Target = VarBuilder<'a>;

    fn deref(&self) -> &VarBuilder<'a> {
        &self.vb
    }
}

impl<'a> FrozenBuilder<'a> {
    /// Takes matrices from `source` where it can.
    pub(super) fn new(vb: VarBuilder<'a>, source: Option<Arc<Source>>) -> Self {
        Self { vb, source, products: Precision::F32 }
    }

    /// Builder of the tensors below a prefix.
    pub fn pp(&self, name: impl ToString) -> Self {
        Self { vb: self.vb.pp(name), source: self.source.clone(), products: self.products }
    }

    /// Sets the precision of f32 matrix multiplications on the CPU.
    pub fn with_products(self, products: Precision) -> Self {
        Self { products, ..self }
    }

    /// The precision of the factors of products with f32 matrices on the CPU.
    pub fn products(&self) -> Precision {
        self.products
    }

    /// A tensor as a matrix: its first dimension, and all others in one.
    ///
    /// # Errors
    /// When it is missing or of another shape, unless the file notes that itself.
    pub fn matrix(&self, shape: impl Into<Shape>, name: &str) -> Result<Matrix> {
        let shape = shape.into();
        let rows = shape.dims().first().copied().unwrap_or(1);
        let columns = shape.elem_count() / rows.max(1);
        if let Some(source) = &self.source {
            let prefix = self.vb.prefix();
            let name = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
            if let Some((file, bytes)) = source.mapped(&shape, &name) {
                return Ok(Matrix { rows, columns, place: Place::Mapped(file, bytes) });
            }
        }
        Matrix::from_tensor(&self.vb.get(shape, name)?.reshape((rows, columns))?)
    }

    /// The file that matrices are read from, when it is mapped.
    pub fn file(&self) -> Option<Arc<MappedFile>> {
        self.source.as_ref().map(|source| source.file())
    }
}

/// A frozen matrix, `(rows, columns)`.
#[derive(Debug, Clone)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// Contiguous, `(rows, columns)`.
    Loaded(Tensor),
    /// f32 in these bytes of a file.
    Mapped(Arc<MappedFile>, Range<usize>),
}

impl Matrix {
    /// Matrix of a tensor with two dimensions.
    ///
    /// # Errors
    /// When the tensor has another number of dimensions.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let (rows, columns) = tensor.dims2()?;
        Ok(Self { rows, columns, place: Place::Loaded(tensor.contiguous()?) })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Data type of its values.
    pub fn dtype(&self) -> DType {
        match &self.place {
            Place::Loaded(tensor) => tensor.dtype(),
            Place::Mapped(..) => DType::F32,
        }
    }

    /// Whether [`Self::numbers`] can give its values.
    pub fn is_on_cpu(&self) -> bool {
        match &self.place {
            Place::Loaded(tensor) => tensor.device().is_cpu() && tensor.dtype() == DType::F32,
            Place::Mapped(..) => true,
        }
    }

    /// Returns a tensor `(rows, columns)`, a copy when it is mapped.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn tensor(&self) -> Result<Tensor> {
        match &self.place {
            Place::Loaded(tensor) => Ok(tensor.clone()),
            Place::Mapped(..) => {
                let numbers = self.numbers()?.to_vec();
                Tensor::from_vec(numbers, (self.rows, self.columns), &Device::Cpu)
            }
        }
    }

    /// Values, row by row.
    ///
    /// # Errors
    /// When it is not f32 on the CPU.
    pub fn numbers(&self) -> Result<Numbers<'_>> {
        match &self.place {
            Place::Loaded(tensor) => Numbers::of(tensor),
            Place::Mapped(file, bytes) => Ok(Numbers::Mapped(file.f32s(bytes.clone()))),
        }
    }

    /// Selects rows, `(indices, columns)`; `indices` is `(indices,)`, u32.
    ///
    /// # Errors
    /// When there is no such row.
    pub fn select_rows(&self, indices: &Tensor) -> Result<Tensor> {
        if let Place::Loaded(tensor) = &self.place {
            return tensor.index_select(indices, 0);
        }
        let (numbers, indices) = (self.numbers()?, indices.to_vec1::<u32>()?);
        let mut selected = Vec::with_capacity(indices.len() * self.columns);
        for index in &indices {
            let start = *index as usize * self.columns;
            match numbers.get(start..start + self.columns) {
                Some(row) => selected.extend_from_slice(row),
                None => bail!("there is no row {index} of {}", self.rows),
            }
        }
        Tensor::from_vec(selected, (indices.len(), self.columns), &Device::Cpu)
    }
}

/// Values of a contiguous f32 tensor on the CPU, or of a mapped matrix.
#[derive(Debug)]
pub enum Numbers<'a> {
    /// Values of a tensor.
    Loaded(StorageRef<'a>, Range<usize>),
    /// Values of a mapped file.
    Mapped(&'a [f32]),
}

impl<'a> Numbers<'a> {
    /// Values of a tensor.
    ///
    /// # Errors
    /// When it is not contiguous f32 on the CPU.
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("a contiguous tensor is needed, not {layout:?}");
        };
        match &*storage {
            Storage::Cpu(numbers) => numbers.as_slice::<f32>()?,
            _ => bail!("a tensor on the CPU is needed"),
        };
        Ok(Self::Loaded(storage, start..end))
    }
}

impl Deref for Numbers<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Mapped(numbers) => numbers,
            Self::Loaded(storage, range) => match &**storage {
                Storage::Cpu(numbers) => {
                    &numbers.as_slice::<f32>().expect("checked when it was made")[range.clone()]
                }
                _ => unreachable!("checked when it was made"),
            },
        }
    }
}
