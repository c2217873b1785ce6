//! The full-range network: faces within about five metres.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::RawOutput;
use super::depthwise::DepthwiseConv;
use super::layers::{PointwiseConv, Stem, depth_to_space, upsample};

/// Narrows and widens twice, each time after looking at the neighbouring pixels.
///
/// `relu(pointwise(depthwise(relu(pointwise(depthwise(x))))) + shortcut)`. Weights, from operator `op` on: `op + 1`,
/// `op + 2`, `op + 4` and `op + 5`; the operators between pad.
#[derive(Debug)]
struct Bottleneck {
    first_depthwise: DepthwiseConv,
    first_pointwise: PointwiseConv,
    second_depthwise: DepthwiseConv,
    second_pointwise: PointwiseConv,
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
        let weights = |offset: usize| vb.pp(format!("op{}", op + offset));
        Ok(Self {
            first_depthwise: DepthwiseConv::load(inputs, stride, 1, weights(1))?,
            first_pointwise: PointwiseConv::load(inputs, inner, true, weights(2))?,
            second_depthwise: DepthwiseConv::load(inner, 1, 1, weights(4))?,
            second_pointwise: PointwiseConv::load(inner, outputs, true, weights(5))?,
        })
    }

    fn forward(&self, x: &Tensor, shortcut: Option<&Tensor>) -> Result<Tensor> {
        let x = self.first_pointwise.forward(&self.first_depthwise.forward(x)?)?;
        self.second_pointwise.forward_plus(&self.second_depthwise.forward(&x)?, shortcut)
    }
}

/// Some [`Bottleneck`]s with their input as the shortcut; 7 operators each.
#[derive(Debug)]
struct Stage(Vec<Bottleneck>);

impl Stage {
    fn load(count: usize, outer: usize, inner: usize, op: usize, vb: &VarBuilder) -> Result<Self> {
        let block = |index| Bottleneck::load([outer, inner, outer], 1, op + 7 * index, vb);
        Ok(Self((0..count).map(block).collect::<Result<_>>()?))
    }

    fn forward(&self, x: Tensor) -> Result<Tensor> {
        self.0.iter().try_fold(x, |x, block| block.forward(&x, Some(&x)))
    }
}

/// Output of the network at every second pixel, spread over four: [`depth_to_space`].
///
/// Weights, from operator `op` on: `op` (1x1) and `op + 2` (depthwise).
#[derive(Debug)]
struct Head {
    pointwise: PointwiseConv,
    depthwise: DepthwiseConv,
}

impl Head {
    fn load(outputs: usize, op: usize, vb: &VarBuilder) -> Result<Self> {
        let inner = 4 * outputs;
        Ok(Self {
            pointwise: PointwiseConv::load(48, inner, false, vb.pp(format!("op{op}")))?,
            depthwise: DepthwiseConv::load(inner, 2, 1, vb.pp(format!("op{}", op + 2)))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        depth_to_space(&self.depthwise.forward(&self.pointwise.forward(x)?)?)
    }
}

/// The full-range network of MediaPipe, `face_detection_full_range_sparse.tflite`.
///
/// Five stages of falling resolution (96 to 6 cells a side), then three that lead the coarse
/// features back up to a grid of 48x48, one anchor in each cell.
///
/// Weights: `opN.weight` and `opN.bias`, 508,308 numbers.
#[derive(Debug)]
pub struct FullRange {
    stem: Stem,
    stage_96: Stage,
    down_48: Bottleneck,
    stage_48: Stage,
    lateral_48: PointwiseConv,
    down_24: Bottleneck,
    stage_24: Stage,
    lateral_24: PointwiseConv,
    down_12: Bottleneck,
    stage_12: Stage,
    lateral_12: PointwiseConv,
    down_6: Bottleneck,
    stage_6: Stage,
    narrow_6: PointwiseConv,
    up_12: Stage,
    narrow_12: PointwiseConv,
    up_24: Stage,
    narrow_24: PointwiseConv,
    up_48: Stage,
    score: Head,
    regressor: Head,
}

impl FullRange {
    /// Side of the input, pixels.
    pub const INPUT_SIZE: usize = 192;

    /// Takes the weights named above.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn load(vb: VarBuilder) -> Result<Self> {
        let pointwise = |inputs, outputs, op: usize| {
            PointwiseConv::load(inputs, outputs, true, vb.pp(format!("op{op}")))
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
            score: Head::load(1, 150, &vb)?,
            regressor: Head::load(16, 155, &vb)?,
        })
    }

    /// Looks at pictures: `(batch, 192, 192, 3)`, f32, RGB in -1 to 1. 2304 anchors, row by row.
    ///
    /// # Errors
    /// When the shape differs or the device fails.
    pub fn forward(&self, pictures: &Tensor) -> Result<RawOutput> {
        let x = self.stage_96.forward(self.stem.forward(pictures)?)?;
        let x_48 = self.stage_48.forward(self.down_48.forward(&x, None)?)?;
        let x_24 = self.stage_24.forward(self.down_24.forward(&x_48, None)?)?;
        let x_12 = self.stage_12.forward(self.down_12.forward(&x_24, None)?)?;
        let x_6 = self.stage_6.forward(self.down_6.forward(&x_12, None)?)?;

        let join =
            |coarse: &Tensor, narrow: &PointwiseConv, fine: &Tensor, lateral: &PointwiseConv| {
                let coarse = upsample(&narrow.forward(coarse)?)?;
                lateral.forward(fine)? + coarse
            };
        let x = self.up_12.forward(join(&x_6, &self.narrow_6, &x_12, &self.lateral_12)?)?;
        let x = self.up_24.forward(join(&x, &self.narrow_12, &x_24, &self.lateral_24)?)?;
        let x = self.up_48.forward(join(&x, &self.narrow_24, &x_48, &self.lateral_48)?)?;

        let regressors = self.regressor.forward(&x)?.flatten(1, 2)?; // (batch, 2304, 16)
        let scores = self.score.forward(&x)?.flatten_from(1)?; // (batch, 2304)
        Ok(RawOutput { regressors, scores })
    }
}
