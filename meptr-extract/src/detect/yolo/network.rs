//! YOLOv8 network: backbone, neck, heads.

use candle::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::YoloConfig;
use super::layers::{C2f, Channels, Conv, Last, Sppf};
use super::names::Names;
use meptr_core::kernels::cpu::conv2d::ConvInput;
use meptr_core::kernels::ops;

/// Bins of the distribution over the distance from anchor to edge.
const DISTANCE_BINS: usize = 16;
/// Pixels between anchors on the three grids.
const STRIDES: [usize; 3] = [8, 16, 32];

/// YOLOv8: a backbone with five halvings of the size, a neck over its three coarsest scales, three
/// heads.
///
/// Weights: `model.0` to `model.22` of Ultralytics or `net`, `fpn`, `head` of Candle's conversions.
#[derive(Debug)]
pub struct Yolo {
    backbone: Backbone,
    neck: Neck,
    heads: Vec<Head>,
    distances: Tensor, // (16, 1): distance of each bin, in strides
}

/// Layers 0 to 9.
#[derive(Debug)]
struct Backbone {
    stem: [Conv; 2],
    stage_4: C2f,
    down_8: Conv,
    stage_8: C2f,
    down_16: Conv,
    stage_16: C2f,
    down_32: Conv,
    stage_32: C2f,
    pooling: Sppf,
}

/// Layers 12 to 21: coarse features to the finer scales, and back.
#[derive(Debug)]
struct Neck {
    up_16: C2f,
    up_8: C2f,
    down_16: Conv,
    join_16: C2f,
    down_32: Conv,
    join_32: C2f,
}

/// Boxes and classes on one grid. Weights: `cv2.N`, `cv3.N` with layers `0`, `1`, `2`.
#[derive(Debug)]
struct Head {
    boxes: Branch,
    classes: Branch,
}

#[derive(Debug)]
struct Branch(Conv, Conv, Last);

impl Yolo {
    /// Loads the weights named above.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn load(config: &YoloConfig, vb: VarBuilder) -> Result<Self> {
        let names = Names::of(&vb);
        let head = vb.pp(names.layer(22));
        let inputs = [256, 512, 1024].map(|full| config.channels(full));
        let box_width = (inputs[0] / 4).max(4 * DISTANCE_BINS);
        let class_width = inputs[0].max(config.classes.min(100));
        let heads = inputs.iter().enumerate().map(|(grid, &inputs)| {
            let boxes = [inputs, box_width, 4 * DISTANCE_BINS];
            let classes = [inputs, class_width, config.classes];
            Ok(Head {
                boxes: Branch::load(boxes, false, head.pp("cv2").pp(grid))?,
                classes: Branch::load(classes, true, head.pp("cv3").pp(grid))?,
            })
        });
        let heads = heads.collect::<Result<_>>()?;
        let distances = head.pp("dfl").get((1, DISTANCE_BINS, 1, 1), "conv.weight")?;
        Ok(Self {
            backbone: Backbone::load(config, names, &vb)?,
            neck: Neck::load(config, names, &vb)?,
            heads,
            distances: distances.reshape((DISTANCE_BINS, 1))?,
        })
    }

    /// Boxes and class probabilities of images.
    ///
    /// - `pictures`: `(batch, 3, height, width)`, f32 in 0 to 1, height and width multiples of 32;
    ///   channels in the order of training, BGR where Ultralytics is given RGB arrays
    /// - returns `(batch, 4 + classes, anchors)`, f32: centre x and y, width, height in pixels,
    ///   then the probability of each class; anchors grid by grid, row by row
    ///
    /// # Errors
    /// When the shape differs or the device fails.
    pub fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        if !pictures.device().is_cpu() {
            return self.forward_batch(&pictures.contiguous()?);
        }
        // One image per task, so that all threads are busy.
        let pictures = pictures.permute((0, 2, 3, 1))?;
        let one = |index| self.forward_batch(&pictures.narrow(0, index, 1)?);
        match pictures.dim(0)? {
            0 | 1 => self.forward_batch(&pictures),
            batch => {
                let found: Result<Vec<Tensor>> = (0..batch).into_par_iter().map(one).collect();
                Tensor::cat(&found?, 0)
            }
        }
    }

    /// Like [`Self::forward`], of images in the memory layout of the device.
    fn forward_batch(&self, pictures: &Tensor) -> Result<Tensor> {
        let scales = self.neck.forward(self.backbone.forward(pictures)?)?;
        let grids = scales.iter().zip(&self.heads).zip(STRIDES).map(|((x, head), stride)| {
            let bins = head.boxes.forward(x)?;
            let classes = anchor_rows(&head.classes.forward(x)?)?.transpose(1, 2)?;
            let size = if x.device().is_cpu() { [1, 2] } else { [2, 3] };
            let [rows, columns] = size.map(|dim| bins.dims()[dim]);
            let boxes = self.boxes(&anchor_rows(&bins)?, [rows, columns], stride)?;
            Tensor::cat(&[boxes, classes], 1)
        });
        Tensor::cat(&grids.collect::<Result<Vec<_>>>()?, 2)
    }

    /// Converts bins to boxes: `(batch, anchors, 64)` to `(batch, 4, anchors)`.
    fn boxes(&self, bins: &Tensor, [rows, columns]: [usize; 2], stride: usize) -> Result<Tensor> {
        let (batch, anchors, _) = bins.dims3()?;
        let bins = bins.reshape((batch * anchors * 4, DISTANCE_BINS))?;
        let distance = ops::softmax_inplace(bins)?.matmul(&self.distances)?;
        let distance = distance.reshape((batch, anchors, 4))?.transpose(1, 2)?.contiguous()?;
        let (to_start, to_end) = (distance.narrow(1, 0, 2)?, distance.narrow(1, 2, 2)?);
        let centers = anchor_centers(rows, columns, distance.device())?;
        let start = centers.broadcast_sub(&to_start)?;
        let end = centers.broadcast_add(&to_end)?;
        let boxes = Tensor::cat(&[((&start + &end)? / 2.0)?, (end - start)?], 1)?;
        boxes * stride as f64
    }
}

/// Channels of all pixels, `(batch, anchors, channels)`, contiguous.
fn anchor_rows(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.flatten(1, 2)
    } else {
        x.flatten_from(2)?.transpose(1, 2)?.contiguous()
    }
}

/// Centres of the cells of a grid, x and y: `(1, 2, rows * columns)`.
fn anchor_centers(rows: usize, columns: usize, device: &Device) -> Result<Tensor> {
    let cells = || (0..rows * columns).map(|cell| (cell % columns, cell / columns));
    let xs = cells().map(|(column, _)| column as f32 + 0.5);
    let ys = cells().map(|(_, row)| row as f32 + 0.5);
    Tensor::from_vec(xs.chain(ys).collect(), (1, 2, rows * columns), device)
}

impl Backbone {
    fn load(config: &YoloConfig, names: Names, vb: &VarBuilder) -> Result<Self> {
        let layer = |number| vb.pp(names.layer(number));
        let [c64, c128, c256, c512, c1024] =
            [64, 128, 256, 512, 1024].map(|full| config.channels(full));
        let down = |channels: Channels, number| Conv::load(channels, 3, 2, layer(number));
        let stage = |channels, blocks, number| {
            C2f::load([channels, channels], config.blocks(blocks), true, names, layer(number))
        };
        Ok(Self {
            stem: [down([3, c64], 0)?, down([c64, c128], 1)?],
            stage_4: stage(c128, 3, 2)?,
            down_8: down([c128, c256], 3)?,
            stage_8: stage(c256, 6, 4)?,
            down_16: down([c256, c512], 5)?,
            stage_16: stage(c512, 6, 6)?,
            down_32: down([c512, c1024], 7)?,
            stage_32: stage(c1024, 3, 8)?,
            pooling: Sppf::load(c1024, layer(9))?,
        })
    }

    /// Features at 1/8, 1/16 and 1/32 of the image's size.
    fn forward(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let [first, second] = &self.stem;
        let x = self.stage_4.forward(&[(&second.forward(&first.forward(x)?)?).into()])?;
        let x_8 = self.stage_8.forward(&[(&self.down_8.forward(&x)?).into()])?;
        let x_16 = self.stage_16.forward(&[(&self.down_16.forward(&x_8)?).into()])?;
        let x_32 = self.stage_32.forward(&[(&self.down_32.forward(&x_16)?).into()])?;
        Ok([x_8, x_16, self.pooling.forward(&x_32)?])
    }
}

impl Neck {
    fn load(config: &YoloConfig, names: Names, vb: &VarBuilder) -> Result<Self> {
        let layer = |number| vb.pp(names.layer(number));
        let [c256, c512, c1024] = [256, 512, 1024].map(|full| config.channels(full));
        let down = |channels, number| Conv::load([channels, channels], 3, 2, layer(number));
        let join = |channels: Channels, number| {
            C2f::load(channels, config.blocks(3), false, names, layer(number))
        };
        Ok(Self {
            up_16: join([c1024 + c512, c512], 12)?,
            up_8: join([c512 + c256, c256], 15)?,
            down_16: down(c256, 16)?,
            join_16: join([c256 + c512, c512], 18)?,
            down_32: down(c512, 19)?,
            join_32: join([c512 + c1024, c1024], 21)?,
        })
    }

    fn forward(&self, [x_8, x_16, x_32]: [Tensor; 3]) -> Result<[Tensor; 3]> {
        let doubled = |x| ConvInput { x, is_upsampled: true };
        let up_16 = self.up_16.forward(&[doubled(&x_32), (&x_16).into()])?;
        let y_8 = self.up_8.forward(&[doubled(&up_16), (&x_8).into()])?;
        let y_16 = self.down_16.forward(&y_8)?;
        let y_16 = self.join_16.forward(&[&y_16, &up_16].map(ConvInput::from))?;
        let y_32 = self.down_32.forward(&y_16)?;
        let y_32 = self.join_32.forward(&[&y_32, &x_32].map(ConvInput::from))?;
        Ok([y_8, y_16, y_32])
    }
}

impl Branch {
    fn load(
        [inputs, inner, outputs]: [usize; 3],
        is_probability: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(Self(
            Conv::load([inputs, inner], 3, 1, vb.pp(0))?,
            Conv::load([inner, inner], 3, 1, vb.pp(1))?,
            Last::load([inner, outputs], is_probability, vb.pp(2))?,
        ))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.2.forward(&self.1.forward(&self.0.forward(x)?)?)
    }
}

#[cfg(test)]
mod tests {
    use candle::DType;
    use meptr_core::weights::{generate, generated_tensor};

    use super::*;

    fn tiny() -> YoloConfig {
        YoloConfig { width_multiple: 0.125, depth_multiple: 0.33, max_channels: 64, classes: 3 }
    }

    #[test]
    fn there_is_an_answer_for_every_anchor() -> Result<()> {
        let (network, weights) = generate(5, &Device::Cpu, |vb| Yolo::load(&tiny(), vb))?;
        assert!(weights.contains_key("model.22.cv3.2.2.bias"));
        let found = network.forward(&Tensor::zeros((2, 3, 32, 64), DType::F32, &Device::Cpu)?)?;
        assert_eq!(found.dims(), [2, 4 + 3, 32 + 8 + 2]);
        Ok(())
    }

    #[test]
    fn both_spellings_give_the_same_network() -> Result<()> {
        let (ours, weights) = generate(5, &Device::Cpu, |vb| Yolo::load(&tiny(), vb))?;
        let renamed = weights.into_iter().map(|(name, tensor)| {
            let rest = name.strip_prefix("model.").expect("every name starts so");
            let (layer, rest) = rest.split_once('.').expect("a layer has parts");
            let layer = Names::Candle.layer(layer.parse().expect("a number"));
            (
                format!(
                    "{layer}.{}",
                    rest.replacen("m.", "bottleneck.", usize::from(rest.starts_with("m.")))
                ),
                tensor,
            )
        });
        let vb = VarBuilder::from_tensors(renamed.collect(), DType::F32, &Device::Cpu);
        let theirs = Yolo::load(&tiny(), vb)?;
        let picture = generated_tensor("picture", &(1, 3, 32, 32).into(), 1, &Device::Cpu)?;
        let values = |network: &Yolo| -> Result<Vec<f32>> {
            network.forward(&picture)?.flatten_all()?.to_vec1()
        };
        assert_eq!(values(&ours)?, values(&theirs)?);
        Ok(())
    }

    #[test]
    fn anchors_lie_in_the_middle_of_their_cells() -> Result<()> {
        let centers = anchor_centers(2, 3, &Device::Cpu)?.squeeze(0)?.to_vec2::<f32>()?;
        assert_eq!(centers[0], [0.5, 1.5, 2.5, 0.5, 1.5, 2.5]);
        assert_eq!(centers[1], [0.5, 0.5, 0.5, 1.5, 1.5, 1.5]);
        Ok(())
    }
}
