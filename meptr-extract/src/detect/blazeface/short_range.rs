//! The short-range network: faces within about two metres.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::RawOutput;
use super::depthwise::DepthwiseConv;
use super::layers::{PointwiseConv, Stem};

/// One block, `relu(shortcut(x) + pointwise(depthwise(x)))`.
///
/// The shortcut adds channels of zeros where the block has more outputs than inputs, and takes the
/// largest of 2x2 pixels where it has stride 2.
#[derive(Debug)]
struct Block {
    depthwise: DepthwiseConv,
    pointwise: PointwiseConv,
    stride: usize,
    more_channels: usize,
}

/// A row of [`Block`]s: inputs, outputs, stride, operator of the depthwise and of the 1x1
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
        let weights = |op: usize| vb.pp(format!("op{op}"));
        Ok(Self {
            depthwise: DepthwiseConv::load(inputs, stride, padding_before, weights(depthwise))?,
            pointwise: PointwiseConv::load(inputs, outputs, true, weights(pointwise))?,
            stride,
            more_channels: outputs - inputs,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let kept = if self.stride == 1 { x.clone() } else { max_pool(x)? };
        let kept = kept.pad_with_zeros(3, 0, self.more_channels)?;
        self.pointwise.forward_plus(&self.depthwise.forward(x)?, Some(&kept))
    }
}

/// The largest of 2x2 pixels.
fn max_pool(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    x.reshape((batch, height / 2, 2, width / 2, 2, channels))?.max(4)?.max(2)
}

/// The short-range network of MediaPipe, `face_detection_short_range.tflite`.
///
/// Anchors: two in each cell of a 16x16 grid, then six in each cell of an 8x8 grid.
///
/// Weights: `opN.weight` and `opN.bias`, 101,390 numbers.
#[derive(Debug)]
pub struct ShortRange {
    stem: Stem,
    blocks: Vec<Block>,
    scores: [PointwiseConv; 2],
    regressors: [PointwiseConv; 2],
}

impl ShortRange {
    /// Side of the input, pixels.
    pub const INPUT_SIZE: usize = 128;

    /// Takes the weights named above.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn load(vb: VarBuilder) -> Result<Self> {
        let head =
            |inputs, outputs, op: &str| PointwiseConv::load(inputs, outputs, false, vb.pp(op));
        Ok(Self {
            stem: Stem::load(24, 5, [1, 2], vb.pp("op0"))?,
            blocks: BLOCKS.map(|row| Block::load(row, &vb)).into_iter().collect::<Result<_>>()?,
            scores: [head(88, 2, "op80")?, head(96, 6, "op81")?],
            regressors: [head(88, 2 * 16, "op82")?, head(96, 6 * 16, "op83")?],
        })
    }

    /// Looks at pictures: `(batch, 128, 128, 3)`, f32, RGB in -1 to 1. 896 anchors, grid by grid,
    /// row by row.
    ///
    /// # Errors
    /// When the shape differs or the device fails.
    pub fn forward(&self, pictures: &Tensor) -> Result<RawOutput> {
        let run =
            |x: Tensor, blocks: &[Block]| blocks.iter().try_fold(x, |x, block| block.forward(&x));
        let (to_grid_16, to_grid_8) = self.blocks.split_at(BLOCKS_TO_GRID_16);
        let grid_16 = run(self.stem.forward(pictures)?, to_grid_16)?;
        let grid_8 = run(grid_16.clone(), to_grid_8)?;
        let heads = |[fine, coarse]: &[PointwiseConv; 2], values: usize| {
            let batch = grid_16.dim(0)?;
            let fine = fine.forward(&grid_16)?.reshape((batch, (), values))?;
            let coarse = coarse.forward(&grid_8)?.reshape((batch, (), values))?;
            Tensor::cat(&[fine, coarse], 1)
        };
        Ok(RawOutput {
            regressors: heads(&self.regressors, 16)?,
            scores: heads(&self.scores, 1)?.squeeze(2)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    #[test]
    fn the_largest_of_four_pixels_is_kept() -> Result<()> {
        let x = Tensor::arange(0f32, 8.0, &Device::Cpu)?.reshape((1, 2, 4, 1))?;
        assert_eq!(max_pool(&x)?.flatten_all()?.to_vec1::<f32>()?, [5.0, 7.0]);
        Ok(())
    }
}
