//! Layers that both networks share: stem, bilinear upsampling, output head.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::depthwise::Depthwise;
use super::features::{Features, Map, other_device};
use super::pointwise::Pointwise;
use meptr_core::kernels::cpu::conv2d::{
    Conv2d, Conv2dActivation, Conv2dGeometry, Depthwise3x3, DepthwiseGeometry,
};

/// First convolution, of the image: square kernel, stride 2, ReLU.
///
/// Weights: `weight` `(outputs, 3, kernel, kernel)`, `bias` `(outputs,)`.
#[derive(Debug)]
pub(super) enum Stem {
    /// CPU kernel.
    Cpu(Conv2d),
    /// Candle's convolution: on other devices, and where the order of summation matters.
    Other {
        /// As loaded.
        weight: Tensor,
        /// As loaded.
        bias: Tensor,
        /// Zeros before the first and after the last row and column.
        padding: [usize; 2],
    },
}

impl Stem {
    /// `padding` is the number of zeros before the first and after the last row and column.
    pub(super) fn load(
        outputs: usize,
        kernel: usize,
        padding: [usize; 2],
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get((outputs, 3, kernel, kernel), "weight")?;
        let bias = vb.get(outputs, "bias")?;
        // The short-range network, whose stem is wide, amplifies rounding errors by thousands: it
        // keeps the summation order of Candle's convolution, which is that of its reference.
        if vb.device().is_cpu() && kernel == 3 {
            let geometry = Conv2dGeometry { stride: 2, padding };
            return Ok(Self::Cpu(Conv2d::new(&weight, &bias, geometry, Conv2dActivation::Relu)?));
        }
        Ok(Self::Other { weight, bias, padding })
    }

    /// Convolves `(size, size, 3)` to `(size / 2, size / 2, outputs)`.
    pub(super) fn forward(&self, x: Features) -> Result<Features> {
        let (weight, bias, [before, after]) = match (self, &x) {
            (Self::Cpu(convolution), Features::Cpu(x)) => {
                let [height, width, _] = x.dims();
                let mut output = x.sibling([height / 2, width / 2, convolution.outputs()]);
                convolution.fill_image(x.numbers(), [height, width], output.numbers_mut());
                return Ok(Features::Cpu(output));
            }
            (Self::Cpu(_), Features::Other(_)) => return other_device(),
            (Self::Other { weight, bias, padding }, _) => (weight, bias, *padding),
        };
        let like = match &x {
            Features::Cpu(x) => Some(x.sibling([0; 3])),
            Features::Other(_) => None,
        };
        let x = x.into_tensor()?.permute((0, 3, 1, 2))?; // (batch, 3, size, size)
        let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
        let x = x.contiguous()?.conv2d(weight, 0, 2, 1, 1)?;
        let y = x.permute((0, 2, 3, 1))?.contiguous()?.broadcast_add(bias)?.relu()?;
        let Some(like) = like else { return Ok(Features::Other(y)) };
        let (_, height, width, channels) = y.dims4()?;
        let mut output = like.sibling([height, width, channels]);
        output.numbers_mut().copy_from_slice(&y.flatten_all()?.to_vec1::<f32>()?);
        Ok(Features::Cpu(output))
    }
}

/// Adds `coarse`, upsampled bilinearly by 2 (positions count from pixel centres), to `fine`.
///
/// `coarse` is `(height, width, channels)`, `fine` and the result are `(2 height, 2 width, channels)`.
pub(super) fn add_upsampled(coarse: &Features, fine: Features) -> Result<Features> {
    match (coarse, fine) {
        (Features::Cpu(coarse), Features::Cpu(mut fine)) => {
            add_upsampled_map(coarse, &mut fine);
            Ok(Features::Cpu(fine))
        }
        (Features::Other(coarse), Features::Other(fine)) => {
            let coarse = upsample_axis(&upsample_axis(coarse, 1)?, 2)?;
            (fine + coarse).map(Features::Other)
        }
        _ => other_device(),
    }
}

/// Each pixel becomes two, each a quarter of the way towards one neighbour.
fn upsample_axis(x: &Tensor, axis: usize) -> Result<Tensor> {
    let size = x.dim(axis)?;
    let (first, last) = (x.narrow(axis, 0, 1)?, x.narrow(axis, size - 1, 1)?);
    let before = Tensor::cat(&[&first, &x.narrow(axis, 0, size - 1)?], axis)?;
    let after = Tensor::cat(&[&x.narrow(axis, 1, size - 1)?, &last], axis)?;
    let own = (x * 0.75)?;
    let pair = [(&own + (before * 0.25)?)?, (&own + (after * 0.25)?)?];
    Tensor::stack(&pair, axis + 1)?.flatten(axis, axis + 1)
}

/// Source indices along an axis of `size` for an index of the doubled axis: the nearer one, then
/// its neighbour, which at the border is the nearer one itself.
fn neighbours(place: usize, size: usize) -> [usize; 2] {
    let own = place / 2;
    let other =
        if place.is_multiple_of(2) { own.saturating_sub(1) } else { (own + 1).min(size - 1) };
    [own, other]
}

fn add_upsampled_map(coarse: &Map, fine: &mut Map) {
    let [height, width, channels] = coarse.dims();
    assert_eq!(fine.dims(), [2 * height, 2 * width, channels], "twice the rows and columns");
    let row_length = width * channels;
    let mut between = coarse.sibling([1, width, channels]); // between two rows
    for (row, fine) in fine.numbers_mut().chunks_exact_mut(2 * row_length).enumerate() {
        let [own, other] =
            neighbours(row, height).map(|row| &coarse.numbers()[row * row_length..][..row_length]);
        for (between, (own, other)) in between.numbers_mut().iter_mut().zip(own.iter().zip(other)) {
            *between = own * 0.75 + other * 0.25;
        }
        for (column, fine) in fine.chunks_exact_mut(channels).enumerate() {
            let [own, other] = neighbours(column, width)
                .map(|column| &between.numbers()[column * channels..][..channels]);
            for (fine, (own, other)) in fine.iter_mut().zip(own.iter().zip(other)) {
                *fine += own * 0.75 + other * 0.25;
            }
        }
    }
}

/// Output head: a 1x1 and a depthwise convolution of stride 2, then depth-to-space over 2x2 pixels.
///
/// Weights, from operator `op` on: `op` (1x1) and `op + 2` (depthwise).
#[derive(Debug)]
pub(super) struct Head {
    pointwise: Pointwise,
    depthwise: Depthwise,
    on_cpu: Option<Depthwise3x3>,
}

impl Head {
    pub(super) fn load(inputs: usize, outputs: usize, op: usize, vb: &VarBuilder) -> Result<Self> {
        let inner = 4 * outputs;
        let window = DepthwiseGeometry { stride: 2, padding_before: 1, is_fused: true };
        let depthwise = Depthwise::load(inner, window, &vb.pp(format!("op{}", op + 2)))?;
        let on_cpu = vb.device().is_cpu().then(|| depthwise.for_cpu()).transpose()?;
        let pointwise = Pointwise::load([inputs, inner], false, vb.pp(format!("op{op}")))?;
        Ok(Self { pointwise, depthwise, on_cpu })
    }

    /// Maps `(height, width, inputs)` to `(height, width, outputs)`; height and width are even.
    pub(super) fn forward(&self, x: &Features) -> Result<Features> {
        match (self.pointwise.forward(x)?, &self.on_cpu) {
            (Features::Cpu(x), Some(depthwise)) => Ok(Features::Cpu(spread_rows(depthwise, &x))),
            (Features::Other(x), None) => {
                depth_to_space(&self.depthwise.forward(&x)?).map(Features::Other)
            }
            _ => other_device(),
        }
    }
}

/// [`depth_to_space`] of a depthwise convolution, row by row.
fn spread_rows(depthwise: &Depthwise3x3, x: &Map) -> Map {
    let [height, width, channels] = x.dims();
    let mut output = x.sibling([height, width, channels / 4]);
    let mut filtered = x.sibling([1, width / 2, channels]);
    let row_length = width * (channels / 4);
    for (row, lines) in output.numbers_mut().chunks_exact_mut(2 * row_length).enumerate() {
        depthwise.fill_rows(x.numbers(), x.dims(), row, filtered.numbers_mut());
        let (upper, lower) = lines.split_at_mut(row_length);
        let pairs = upper.chunks_exact_mut(channels / 2).zip(lower.chunks_exact_mut(channels / 2));
        for ((upper, lower), pixel) in pairs.zip(filtered.numbers().chunks_exact(channels)) {
            upper.copy_from_slice(&pixel[..channels / 2]);
            lower.copy_from_slice(&pixel[channels / 2..]);
        }
    }
    output
}

/// Depth-to-space: rearranges the channels of each pixel into 2x2 pixels.
///
/// `(batch, height, width, 4 channels)`, in the order upper left, upper right, lower left, lower
/// right, to `(batch, 2 height, 2 width, channels)`.
fn depth_to_space(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    x.reshape((batch, height, width, 2, 2, channels / 4))?.permute((0, 1, 3, 2, 4, 5))?.reshape((
        batch,
        2 * height,
        2 * width,
        channels / 4,
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle::{DType, Device};
    use meptr_core::weights::generate;

    use super::super::features::Memory;
    use super::*;

    fn map_of(x: &Tensor) -> Result<Map> {
        let (_, height, width, channels) = x.dims4()?;
        let mut map = Arc::new(Memory::default()).map([height, width, channels]);
        map.numbers_mut().copy_from_slice(&x.flatten_all()?.to_vec1::<f32>()?);
        Ok(map)
    }

    #[test]
    fn upsampling_interpolates_and_keeps_the_border() -> Result<()> {
        let x = Tensor::new(&[0f32, 4.0, 8.0], &Device::Cpu)?.reshape((1, 1, 3, 1))?;
        let none = Tensor::zeros((1, 2, 6, 1), DType::F32, &Device::Cpu)?;
        let on_cpu = [&x, &none].map(map_of).into_iter().collect::<Result<Vec<_>>>()?;
        let [x_map, none_map] = on_cpu.try_into().expect("two maps");
        let pairs = [
            (Features::Cpu(x_map), Features::Cpu(none_map)),
            (Features::Other(x), Features::Other(none)),
        ];
        for (coarse, fine) in pairs {
            let y = add_upsampled(&coarse, fine)?.into_tensor()?;
            assert_eq!(y.dims(), [1, 2, 6, 1]);
            let row: Vec<f32> = y.flatten_all()?.to_vec1()?;
            assert_eq!(row[..6], [0.0, 1.0, 3.0, 5.0, 7.0, 8.0]);
            assert_eq!(row[6..], row[..6]);
        }
        Ok(())
    }

    #[test]
    fn both_ways_of_a_head_agree() -> Result<()> {
        let (head, _) = generate(3, &Device::Cpu, |vb| Head::load(5, 3, 1, &vb))?;
        let values: Vec<f32> = (0..6 * 8 * 5).map(|n| ((n * 7919) % 101) as f32 / 50.0).collect();
        let x = Features::Cpu(map_of(&Tensor::from_vec(values, (1, 6, 8, 5), &Device::Cpu)?)?);
        let found = head.forward(&x)?.into_tensor()?;
        let inner = head.pointwise.forward(&x)?.into_tensor()?;
        let expected = depth_to_space(&head.depthwise.forward(&inner)?)?;
        assert_eq!(found.dims(), [1, 6, 8, 3]);
        let off = (found - expected)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        assert!(off < 1e-6, "off by {off}");
        Ok(())
    }

    #[test]
    fn channels_are_spread_in_reading_order() -> Result<()> {
        let x = Tensor::arange(0f32, 16.0, &Device::Cpu)?.reshape((1, 1, 2, 8))?;
        let y = depth_to_space(&x)?; // two channels left
        let rows: Vec<Vec<Vec<f32>>> = y.squeeze(0)?.to_vec3()?;
        assert_eq!(rows[0], [[0.0, 1.0], [2.0, 3.0], [8.0, 9.0], [10.0, 11.0]]);
        assert_eq!(rows[1], [[4.0, 5.0], [6.0, 7.0], [12.0, 13.0], [14.0, 15.0]]);
        Ok(())
    }
}
