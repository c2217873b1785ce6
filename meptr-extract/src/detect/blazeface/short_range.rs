//! The short-range network: faces within about two metres.

use std::sync::Arc;

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::RawOutput;
use super::features::{Features, Map, Memory};
use super::layers::Stem;
use super::pointwise::Pointwise;
use super::separable::Separable;
use meptr_core::kernels::cpu::conv2d::DepthwiseGeometry;

/// Residual block, `relu(shortcut(x) + pointwise(depthwise(x)))`.
///
/// The shortcut appends channels of zeros where the block has more outputs than inputs, and is
/// max-pooled over 2x2 pixels where the block has stride 2.
#[derive(Debug)]
struct Block {
    convolutions: Separable,
    stride: usize,
    outputs: usize,
}

/// [`Block`]s in order: inputs, outputs, stride, operator of the depthwise and of the 1x1
/// convolution.
const BLOCKS: [(usize, usize, usize, usize, usize); 16] = [
    (24, 24, 1, 2, 3),
    (24, 28, 1, 6, 7),
    (28, 32, 2, 11, 13),
    (32, 36, 1, 17, 18),
    (36, 42, 1, 22, 23),
    (42, 48, 2, 27, 29),
    (48, 56, 1, 33, 34),
    (56, 64, 1, 38, 39),
    (64, 72, 1, 43, 44),
    (72, 80, 1, 48, 49),
    (80, 88, 1, 53, 54),
    (88, 96, 2, 58, 60),
    (96, 96, 1, 64, 65),
    (96, 96, 1, 68, 69),
    (96, 96, 1, 72, 73),
    (96, 96, 1, 76, 77),
];

/// Blocks before the finer of the two grids of anchors.
const BLOCKS_TO_GRID_16: usize = 11;

impl Block {
    fn load(row: (usize, usize, usize, usize, usize), vb: &VarBuilder) -> Result<Self> {
        let (inputs, outputs, stride, depthwise, pointwise) = row;
        // The originals pad 1 on each side, with stride 2 only after the last row and column.
        let padding_before = if stride == 1 { 1 } else { 0 };
        // It amplifies rounding errors by thousands; its reference has no fused multiply-add.
        let window = DepthwiseGeometry { stride, padding_before, is_fused: false };
        let weights = [depthwise, pointwise].map(|op| vb.pp(format!("op{op}")));
        Ok(Self {
            convolutions: Separable::load([inputs, outputs], window, weights)?,
            stride,
            outputs,
        })
    }

    fn forward(&self, x: &Features) -> Result<Features> {
        let kept = match x {
            Features::Cpu(x) => Features::Cpu(kept_of_map(x, self.stride, self.outputs)),
            Features::Other(x) => Features::Other(kept_of_tensor(x, self.stride, self.outputs)?),
        };
        self.convolutions.forward_onto(x, kept)
    }
}

/// Max-pools `stride` x `stride` pixels, and pads with zeros up to `channels`.
fn kept_of_map(x: &Map, stride: usize, channels: usize) -> Map {
    let [height, width, inputs] = x.dims();
    let mut kept = x.sibling([height / stride, width / stride, channels]);
    let pixels = kept.numbers_mut().chunks_exact_mut(channels).enumerate();
    for (number, kept) in pixels {
        let (row, column) = (number / (width / stride), number % (width / stride));
        let (kept, added) = kept.split_at_mut(inputs);
        added.fill(0.0);
        kept.fill(f32::NEG_INFINITY);
        for seen in 0..stride * stride {
            let pixel = (row * stride + seen / stride) * width + column * stride + seen % stride;
            let pixel = &x.numbers()[pixel * inputs..][..inputs];
            kept.iter_mut().zip(pixel).for_each(|(kept, x)| *kept = kept.max(*x));
        }
    }
    kept
}

/// Batched form of the function above.
fn kept_of_tensor(x: &Tensor, stride: usize, channels: usize) -> Result<Tensor> {
    let (batch, height, width, inputs) = x.dims4()?;
    let parts = (batch, height / stride, stride, width / stride, stride, inputs);
    x.reshape(parts)?.max(4)?.max(2)?.pad_with_zeros(3, 0, channels - inputs)
}

/// The short-range network of MediaPipe, `face_detection_short_range.tflite`.
///
/// Anchors: two in each cell of a 16x16 grid, then six in each cell of an 8x8 grid.
///
/// Weights: `opN.weight` and `opN.bias`, 101,390 values.
#[derive(Debug)]
pub struct ShortRange {
    stem: Stem,
    blocks: Vec<Block>,
    scores: [Pointwise; 2],
    regressors: [Pointwise; 2],
    memory: Arc<Memory>,
}

impl ShortRange {
    /// Side of the input, pixels.
    pub const INPUT_SIZE: usize = 128;

    /// Loads the weights named above.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn load(vb: VarBuilder) -> Result<Self> {
        let head = |inputs, outputs, op: &str| Pointwise::load([inputs, outputs], false, vb.pp(op));
        Ok(Self {
            stem: Stem::load(24, 5, [1, 2], vb.pp("op0"))?,
            blocks: BLOCKS.map(|row| Block::load(row, &vb)).into_iter().collect::<Result<_>>()?,
            scores: [head(88, 2, "op80")?, head(96, 6, "op81")?],
            regressors: [head(88, 2 * 16, "op82")?, head(96, 6 * 16, "op83")?],
            memory: Arc::default(),
        })
    }

    /// Runs the network over a batch of images; 896 anchors, grid by grid, row by row.
    ///
    /// - `squares`: `(batch, 128, 128, 3)`, u8, RGB
    ///
    /// # Errors
    /// When the shape differs or the device fails.
    pub fn forward(&self, squares: &Tensor) -> Result<RawOutput> {
        let pictures = Features::of_squares(squares, Self::INPUT_SIZE, &self.memory)?;
        RawOutput::of_pictures(pictures, |picture| self.outputs(picture))
    }

    fn outputs(&self, picture: Features) -> Result<[Tensor; 2]> {
        let run = |x: &Features, blocks: &[Block]| {
            let Some((first, rest)) = blocks.split_first() else { candle::bail!("no blocks") };
            rest.iter().try_fold(first.forward(x)?, |x, block| block.forward(&x))
        };
        let (to_grid_16, to_grid_8) = self.blocks.split_at(BLOCKS_TO_GRID_16);
        let grid_16 = run(&self.stem.forward(picture)?, to_grid_16)?;
        let grid_8 = run(&grid_16, to_grid_8)?;
        let heads = |[fine, coarse]: &[Pointwise; 2], values: usize| {
            let of_grid = |head: &Pointwise, grid: &Features| {
                let y = head.forward(grid)?.into_tensor()?;
                let batch = y.dim(0)?;
                y.reshape((batch, (), values))
            };
            Tensor::cat(&[of_grid(fine, &grid_16)?, of_grid(coarse, &grid_8)?], 1)
        };
        Ok([heads(&self.regressors, 16)?, heads(&self.scores, 1)?.squeeze(2)?])
    }
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    #[test]
    fn the_largest_of_four_pixels_is_kept_and_channels_of_zeros_added() -> Result<()> {
        let memory = Arc::new(Memory::default());
        let mut map = memory.map([2, 4, 1]);
        let x = Tensor::arange(0f32, 8.0, &Device::Cpu)?.reshape((1, 2, 4, 1))?;
        map.numbers_mut().copy_from_slice(&x.flatten_all()?.to_vec1::<f32>()?);
        let found = kept_of_tensor(&x, 2, 3)?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(found, [5.0, 0.0, 0.0, 7.0, 0.0, 0.0]);
        assert_eq!(kept_of_map(&map, 2, 3).numbers(), found);
        Ok(())
    }
}
