//! Feature maps between layers: pooled memory on the CPU, tensors on other devices.

use std::sync::{Arc, Mutex, PoisonError};

use candle::{DType, Device, Result, Tensor, bail};

/// Alignment of a feature map in bytes: a cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// Largest number of values in a buffer before the first aligned one.
const SLACK: usize = ALIGNMENT / size_of::<f32>();

/// Features in the order (height, width, channels).
#[derive(Debug)]
pub(super) enum Features {
    /// Features of one image, on the CPU.
    Cpu(Map),
    /// Features of a batch, on another device: `(batch, height, width, channels)`, f32.
    Other(Tensor),
}

/// Error for features and weights on different devices.
pub(super) fn other_device<T>() -> Result<T> {
    bail!("features and weights are on different devices")
}

/// Pool of feature map buffers, reused after a map is dropped.
///
/// Each network has its own pool. The feature maps of an image take some 4 MB; giving them back to
/// the system after each image costs more time than the smaller layers.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Vec<Vec<f32>>>);

impl Memory {
    /// Feature map with unspecified values, `(height, width, channels)`.
    pub(super) fn map(self: &Arc<Self>, dims: [usize; 3]) -> Map {
        let count: usize = dims.iter().product();
        let mut numbers = self.take(count + SLACK);
        if numbers.len() < count + SLACK {
            numbers.resize(count + SLACK, 0.0);
        }
        let start = numbers.as_ptr().align_offset(ALIGNMENT).min(SLACK);
        Map { dims, numbers, start, memory: Arc::clone(self) }
    }

    /// Takes the smallest free buffer of at least `count` values, or an empty one.
    fn take(&self, count: usize) -> Vec<f32> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = free.iter().enumerate().filter(|(_, piece)| piece.len() >= count);
        let smallest = fitting.min_by_key(|(_, piece)| piece.len()).map(|(index, _)| index);
        smallest.map_or_else(Vec::new, |index| free.swap_remove(index))
    }

    fn give(&self, numbers: Vec<f32>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(numbers);
    }
}

/// Feature map of one image on the CPU, `(height, width, channels)`, f32, contiguous and aligned.
#[derive(Debug)]
pub(super) struct Map {
    dims: [usize; 3],
    numbers: Vec<f32>,
    start: usize,
    memory: Arc<Memory>,
}

impl Map {
    /// Feature map with unspecified values, from the same pool.
    pub(super) fn sibling(&self, dims: [usize; 3]) -> Self {
        self.memory.map(dims)
    }

    /// Height, width and channels.
    pub(super) fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// Values, row by row.
    pub(super) fn numbers(&self) -> &[f32] {
        &self.numbers[self.start..][..self.dims.iter().product()]
    }

    /// Values, row by row, mutable.
    pub(super) fn numbers_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[self.start..][..self.dims.iter().product()]
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        self.memory.give(std::mem::take(&mut self.numbers));
    }
}

impl Features {
    /// Converts a batch of images to network input, bytes to -1 to 1: one feature map per image
    /// on the CPU, one tensor for the batch elsewhere.
    ///
    /// - `squares`: `(batch, size, size, 3)`, u8, RGB
    pub(super) fn of_squares(
        squares: &Tensor,
        size: usize,
        memory: &Arc<Memory>,
    ) -> Result<Vec<Self>> {
        let (batch, ..) = squares.dims4()?;
        if squares.dims() != [batch, size, size, 3] || squares.dtype() != DType::U8 {
            bail!("squares of {size} pixels needed, not {:?}", squares.shape());
        }
        let (scale, shift) = (2.0 / 255.0, -1.0);
        if !squares.device().is_cpu() {
            return Ok(vec![Self::Other(squares.to_dtype(DType::F32)?.affine(scale, shift)?)]);
        }
        let bytes: Vec<u8> = squares.flatten_all()?.to_vec1()?;
        let pictures = bytes.chunks_exact(size * size * 3).map(|bytes| {
            let mut map = memory.map([size, size, 3]);
            for (number, byte) in map.numbers_mut().iter_mut().zip(bytes) {
                *number = f32::from(*byte) * scale as f32 + shift as f32;
            }
            Self::Cpu(map)
        });
        Ok(pictures.collect())
    }

    /// Converts to a tensor, `(batch, height, width, channels)`.
    pub(super) fn into_tensor(self) -> Result<Tensor> {
        match self {
            Self::Cpu(map) => {
                let [height, width, channels] = map.dims();
                Tensor::from_slice(map.numbers(), (1, height, width, channels), &Device::Cpu)
            }
            Self::Other(tensor) => Ok(tensor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_the_smallest_piece_first() {
        let memory = Arc::new(Memory::default());
        let (large, small) = (memory.map([10, 10, 8]), memory.map([2, 3, 4]));
        let addresses = [large.numbers.as_ptr(), small.numbers.as_ptr()];
        drop((large, small));
        let (small, large) = (memory.map([2, 2, 4]), memory.map([8, 10, 10]));
        assert_eq!([large.numbers.as_ptr(), small.numbers.as_ptr()], addresses);
        assert_eq!((small.numbers().len(), large.numbers().len()), (16, 800));
        let third = large.sibling([1, 1, 5]);
        assert_eq!(third.numbers().as_ptr().align_offset(ALIGNMENT), 0);
        drop((small, large, third));
        assert_eq!(memory.0.lock().unwrap().len(), 3);
    }
}
