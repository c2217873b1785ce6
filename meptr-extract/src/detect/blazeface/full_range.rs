//! The full-range network: faces within about five metres.

use std::sync::Arc;

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::RawOutput;
use super::features::{Features, Memory};
use super::layers::{Head, Stem, add_upsampled};
use super::pointwise::Pointwise;
use super::separable::Separable;
use meptr_core::kernels::cpu::conv2d::DepthwiseGeometry;

/// Bottleneck block: two depthwise separable convolutions, the first to fewer channels.
///
/// `relu(pointwise(depthwise(relu(pointwise(depthwise(x))))) + shortcut)`. Weights, from operator
/// `op` on: `op + 1`, `op + 2`, `op + 4` and `op + 5`; the operators between pad.
#[derive(Debug)]
struct Bottleneck {
    narrow: Separable,
    widen: Separable,
}

/// Channels before, within and after a [`Bottleneck`].
type Channels = [usize; 3];

impl Bottleneck {
    fn load(
        [inputs, inner, outputs]: Channels,
        stride: usize,
        op: usize,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let weights = |first: usize| [first, first + 1].map(|op| vb.pp(format!("op{op}")));
        let window = |stride| DepthwiseGeometry { stride, padding_before: 1, is_fused: true };
        Ok(Self {
            narrow: Separable::load([inputs, inner], window(stride), weights(op + 1))?,
            widen: Separable::load([inner, outputs], window(1), weights(op + 4))?,
        })
    }

    /// Applies the block without a shortcut.
    fn forward(&self, x: &Features) -> Result<Features> {
        self.widen.forward(&self.narrow.forward(x)?)
    }

    /// Applies the block with its input as the shortcut.
    fn forward_onto_itself(&self, x: Features) -> Result<Features> {
        self.widen.forward_onto(&self.narrow.forward(&x)?, x)
    }
}

/// Sequence of [`Bottleneck`]s with their input as the shortcut; 7 operators each.
#[derive(Debug)]
struct Stage(Vec<Bottleneck>);

impl Stage {
    fn load(count: usize, outer: usize, inner: usize, op: usize, vb: &VarBuilder) -> Result<Self> {
        let block = |index| Bottleneck::load([outer, inner, outer], 1, op + 7 * index, vb);
        Ok(Self((0..count).map(block).collect::<Result<_>>()?))
    }

    fn forward(&self, x: Features) -> Result<Features> {
        self.0.iter().try_fold(x, |x, block| block.forward_onto_itself(x))
    }
}

/// The full-range network of MediaPipe, `face_detection_full_range_sparse.tflite`.
///
/// Five stages of falling resolution (96 to 6 cells a side), then three that upsample the coarse
/// features to a grid of 48x48, one anchor in each cell.
///
/// Weights: `opN.weight` and `opN.bias`, 508,308 values.
#[derive(Debug)]
pub struct FullRange {
    stem: Stem,
    stage_96: Stage,
    down_48: Bottleneck,
    stage_48: Stage,
    lateral_48: Pointwise,
    down_24: Bottleneck,
    stage_24: Stage,
    lateral_24: Pointwise,
    down_12: Bottleneck,
    stage_12: Stage,
    lateral_12: Pointwise,
    down_6: Bottleneck,
    stage_6: Stage,
    narrow_6: Pointwise,
    up_12: Stage,
    narrow_12: Pointwise,
    up_24: Stage,
    narrow_24: Pointwise,
    up_48: Stage,
    score: Head,
    regressor: Head,
    memory: Arc<Memory>,
}

impl FullRange {
    /// Side of the input, pixels.
    pub const INPUT_SIZE: usize = 192;

    /// Loads the weights named above.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn load(vb: VarBuilder) -> Result<Self> {
        let pointwise = |inputs, outputs, op: usize| {
            Pointwise::load([inputs, outputs], true, vb.pp(format!("op{op}")))
        };
        Ok(Self {
            stem: Stem::load(32, 3, [1, 1], vb.pp("op1"))?,
            stage_96: Stage::load(2, 32, 8, 2, &vb)?,
            down_48: Bottleneck::load([32, 16, 64], 2, 16, &vb)?,
            stage_48: Stage::load(2, 64, 16, 22, &vb)?,
            lateral_48: pointwise(64, 48, 36)?,
            down_24: Bottleneck::load([64, 32, 128], 2, 37, &vb)?,
            stage_24: Stage::load(2, 128, 32, 43, &vb)?,
            lateral_24: pointwise(128, 64, 57)?,
            down_12: Bottleneck::load([128, 48, 192], 2, 58, &vb)?,
            stage_12: Stage::load(2, 192, 48, 64, &vb)?,
            lateral_12: pointwise(192, 96, 78)?,
            down_6: Bottleneck::load([192, 96, 384], 2, 79, &vb)?,
            stage_6: Stage::load(3, 384, 96, 85, &vb)?,
            narrow_6: pointwise(384, 96, 106)?,
            up_12: Stage::load(2, 96, 48, 109, &vb)?,
            narrow_12: pointwise(96, 64, 123)?,
            up_24: Stage::load(2, 64, 32, 126, &vb)?,
            narrow_24: pointwise(64, 48, 140)?,
            up_48: Stage::load(1, 48, 24, 143, &vb)?,
            score: Head::load(48, 1, 150, &vb)?,
            regressor: Head::load(48, 16, 155, &vb)?,
            memory: Arc::default(),
        })
    }

    /// Runs the network over a batch of images; 2304 anchors, row by row.
    ///
    /// - `squares`: `(batch, 192, 192, 3)`, u8, RGB
    ///
    /// # Errors
    /// When the shape differs or the device fails.
    pub fn forward(&self, squares: &Tensor) -> Result<RawOutput> {
        let pictures = Features::of_squares(squares, Self::INPUT_SIZE, &self.memory)?;
        RawOutput::of_pictures(pictures, |picture| self.outputs(picture))
    }

    /// Computes regressors and scores; each pixel of the last feature map is one anchor.
    fn outputs(&self, picture: Features) -> Result<[Tensor; 2]> {
        let x = self.stage_96.forward(self.stem.forward(picture)?)?;
        let x_48 = self.stage_48.forward(self.down_48.forward(&x)?)?;
        let x_24 = self.stage_24.forward(self.down_24.forward(&x_48)?)?;
        let x_12 = self.stage_12.forward(self.down_12.forward(&x_24)?)?;
        let x_6 = self.stage_6.forward(self.down_6.forward(&x_12)?)?;

        let join = |coarse: &Features, narrow: &Pointwise, fine: &Features, lateral: &Pointwise| {
            add_upsampled(&narrow.forward(coarse)?, lateral.forward(fine)?)
        };
        let x = self.up_12.forward(join(&x_6, &self.narrow_6, &x_12, &self.lateral_12)?)?;
        let x = self.up_24.forward(join(&x, &self.narrow_12, &x_24, &self.lateral_24)?)?;
        let x = self.up_48.forward(join(&x, &self.narrow_24, &x_48, &self.lateral_48)?)?;

        let regressors = self.regressor.forward(&x)?.into_tensor()?.flatten(1, 2)?; // (batch, 2304, 16)
        let scores = self.score.forward(&x)?.into_tensor()?.flatten_from(1)?; // (batch, 2304)
        Ok([regressors, scores])
    }
}
