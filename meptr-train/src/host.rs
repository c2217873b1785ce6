//! Tensors as slices of f32: what the optimiser does to every weight in every step is one pass over
//! memory here instead of one per operation.

use std::cell::RefCell;

use candle::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, Var};

/// Numbers that one task of the thread pool works on.
pub(crate) const CHUNK: usize = 1 << 14;

/// Shows the numbers of an f32 tensor in row-major order; copies only what is not so in memory.
///
/// # Errors
/// When the tensor is not f32 or the device fails.
pub(crate) fn read<T>(tensor: &Tensor, look: impl FnOnce(&[f32]) -> T) -> Result<T> {
    {
        let (storage, layout) = tensor.storage_and_layout();
        if let (Storage::Cpu(storage), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        {
            return Ok(look(&storage.as_slice::<f32>()?[start..end]));
        }
    }
    Ok(look(&tensor.flatten_all()?.to_vec1()?))
}

/// Changes the numbers of an f32 variable in place.
///
/// # Errors
/// When the variable is not f32 or the device fails.
pub(crate) fn change(variable: &Var, change: impl FnOnce(&mut [f32])) -> Result<()> {
    if variable.device().is_cpu() {
        return variable.inplace_op1(&Change(RefCell::new(Some(change))));
    }
    let mut values = variable.as_detached_tensor().flatten_all()?.to_vec1()?;
    change(&mut values);
    variable.set(&Tensor::from_vec(values, variable.shape(), variable.device())?)
}

struct Change<F>(RefCell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F32(values) = storage else { candle::bail!("a variable is not f32") };
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle::bail!("a variable is not contiguous");
        };
        if let Some(change) = self.0.take() {
            change(&mut values[start..end]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    #[test]
    fn views_read_in_row_major_order_and_changes_are_seen() -> Result<()> {
        let matrix = Tensor::new(&[[1.0f32, 2.0], [3.0, 4.0]], &Device::Cpu)?;
        assert_eq!(read(&matrix.t()?, <[f32]>::to_vec)?, [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(read(&matrix.narrow(0, 1, 1)?, <[f32]>::to_vec)?, [3.0, 4.0]);
        let variable = Var::from_tensor(&matrix)?;
        let seen_by_a_model = variable.as_tensor().clone();
        change(&variable, |values| values.iter_mut().for_each(|value| *value *= 2.0))?;
        assert_eq!(read(&seen_by_a_model, <[f32]>::to_vec)?, [2.0, 4.0, 6.0, 8.0]);
        assert!(read(&Tensor::new(&[1u32], &Device::Cpu)?, <[f32]>::to_vec).is_err());
        Ok(())
    }
}
