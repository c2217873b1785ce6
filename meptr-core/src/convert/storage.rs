//! Tensors from the bytes of their storages.

use candle::{DType, Device, Tensor};

use super::error::{CheckpointError, Result};
use super::pickle::{Element, StorageRef, TensorRef};

/// Number of bytes that [`tensor`] takes for a view.
///
/// # Errors
/// When that number does not fit, or the tensor reaches beyond its storage.
pub(super) fn checked_bytes(view: &TensorRef, storage: &StorageRef) -> Result<u64> {
    let outside = || CheckpointError::damaged("a tensor reaches beyond its storage");
    let count = view.shape.iter().try_fold(1u64, |count, size| count.checked_mul(*size as u64));
    let count = count.ok_or_else(outside)?;
    if count > 0 {
        let last = view.shape.iter().zip(&view.strides).try_fold(view.offset, |last, (d, s)| {
            last.checked_add((*d as u64 - 1).checked_mul(*s as u64)?)
        });
        if last.is_none_or(|last| last >= storage.length) {
            return Err(outside());
        }
    }
    count.checked_mul(dtype(storage.element).size_in_bytes() as u64).ok_or_else(outside)
}

/// The tensor of a view that [`checked_bytes`] has passed, in row-major order, on the CPU.
///
/// `bytes` are those of the whole storage, little-endian. Bool and i8 become u8 and i64.
pub(super) fn tensor(view: &TensorRef, storage: &StorageRef, bytes: &[u8]) -> Result<Tensor> {
    let part = element_range(storage).and_then(|range| bytes.get(range));
    let part = part.ok_or_else(|| CheckpointError::damaged("a storage is shorter than it says"))?;
    let rows = gather(view, storage.element.size(), part);
    let shape = view.shape.as_slice();
    let raw = |dtype| Tensor::from_raw_buffer(&rows, dtype, shape, &Device::Cpu);
    Ok(match storage.element {
        _ if rows.is_empty() => Tensor::zeros(shape, dtype(storage.element), &Device::Cpu)?,
        Element::I8 => {
            let wide: Vec<i64> = rows.iter().map(|byte| i64::from(byte.cast_signed())).collect();
            Tensor::from_vec(wide, shape, &Device::Cpu)?
        }
        element => raw(dtype(element))?,
    })
}

fn dtype(element: Element) -> DType {
    match element {
        Element::F64 => DType::F64,
        Element::F32 => DType::F32,
        Element::F16 => DType::F16,
        Element::Bf16 => DType::BF16,
        Element::I64 | Element::I8 => DType::I64,
        Element::I32 => DType::I32,
        Element::I16 => DType::I16,
        Element::U8 | Element::Bool => DType::U8,
    }
}

fn element_range(storage: &StorageRef) -> Option<std::ops::Range<usize>> {
    let size = storage.element.size() as u64;
    let start = storage.start.checked_mul(size)?;
    let end = start.checked_add(storage.length.checked_mul(size)?)?;
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

/// Copies the elements of a view in row-major order.
fn gather(view: &TensorRef, size: usize, bytes: &[u8]) -> Vec<u8> {
    let count: usize = view.shape.iter().product();
    let mut rows = Vec::with_capacity(count * size);
    if count == 0 {
        return rows;
    }
    let offset = view.offset as usize; // below the storage's length, which fits
    if is_contiguous(view) {
        rows.extend_from_slice(&bytes[offset * size..(offset + count) * size]);
        return rows;
    }
    let mut index = vec![0; view.shape.len()];
    let mut at = offset;
    for _ in 0..count {
        rows.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < view.shape[axis] {
                at += view.strides[axis];
                break;
            }
            at -= view.strides[axis] * (view.shape[axis] - 1);
            index[axis] = 0;
        }
    }
    rows
}

fn is_contiguous(view: &TensorRef) -> bool {
    let mut expected = 1;
    view.shape.iter().zip(&view.strides).rev().all(|(size, stride)| {
        let fits = *size == 1 || *stride == expected;
        expected *= size;
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::pickle::Id;

    fn view(offset: u64, shape: &[usize], strides: &[usize]) -> TensorRef {
        let (shape, strides) = (shape.to_vec(), strides.to_vec());
        TensorRef { storage: Id::default(), offset, shape, strides }
    }

    fn storage(length: u64) -> StorageRef {
        StorageRef { key: "0".to_owned(), element: Element::U8, length, start: 0 }
    }

    #[test]
    fn strides_are_followed() {
        let bytes: Vec<u8> = (0..24).collect();
        assert_eq!(gather(&view(1, &[2, 3], &[3, 1]), 1, &bytes), [1, 2, 3, 4, 5, 6]);
        assert_eq!(gather(&view(0, &[3, 2], &[1, 3]), 1, &bytes), [0, 3, 1, 4, 2, 5]);
        assert_eq!(gather(&view(5, &[2, 2], &[0, 0]), 1, &bytes), [5, 5, 5, 5]);
        assert_eq!(gather(&view(2, &[2, 1, 2], &[5, 9, 3]), 2, &bytes)[..4], [4, 5, 10, 11]);
        assert_eq!(gather(&view(3, &[], &[]), 1, &bytes), [3]);
        assert!(gather(&view(3, &[4, 0], &[1, 1]), 1, &bytes).is_empty());
    }

    #[test]
    fn views_beyond_their_storage_are_refused() {
        assert_eq!(checked_bytes(&view(0, &[4, 6], &[6, 1]), &storage(24)).unwrap(), 24);
        assert_eq!(checked_bytes(&view(99, &[0], &[1]), &storage(0)).unwrap(), 0);
        let i8s = StorageRef { element: Element::I8, ..storage(24) };
        assert_eq!(checked_bytes(&view(0, &[4, 6], &[6, 1]), &i8s).unwrap(), 8 * 24, "as i64");
        for (offset, shape, strides) in [
            (1, [4, 6], [6, 1]),
            (0, [4, 7], [6, 1]),
            (0, [2, 2], [usize::MAX, usize::MAX]),
            (u64::MAX, [2, 2], [1, 1]),
            (0, [usize::MAX, 4], [0, 0]),
        ] {
            assert!(checked_bytes(&view(offset, &shape, &strides), &storage(24)).is_err());
        }
    }
}
