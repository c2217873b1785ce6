//! Depthwise separable convolution, the building block of both networks.

use candle::{Result, bail};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::depthwise::Depthwise;
use super::features::{Features, Map, other_device};
use super::pointwise::Pointwise;
use meptr_core::kernels::cpu::conv2d::{Conv2d, Depthwise3x3, DepthwiseGeometry};

/// Values between the two convolutions that are computed at a time: 24 KB, half of the L1 cache.
const AT_ONCE: usize = 6 << 10;

/// Depthwise separable convolution: `relu(pointwise(depthwise(x)) + shortcut)`.
///
/// The CPU computes some rows at a time, so that the intermediate stays in the cache, and writes
/// the sum over the shortcut.
#[derive(Debug)]
pub(super) enum Separable {
    /// CPU kernels.
    Cpu {
        /// The first convolution.
        depthwise: Depthwise3x3,
        /// The second one.
        pointwise: Conv2d,
    },
    /// Candle's operations, on other devices.
    Other {
        /// The first convolution.
        depthwise: Depthwise,
        /// The second one.
        pointwise: Pointwise,
    },
}

impl Separable {
    /// Loads the weights of [`Depthwise`] and [`Pointwise`].
    pub(super) fn load(
        [inputs, outputs]: [usize; 2],
        window: DepthwiseGeometry,
        [for_depthwise, for_pointwise]: [VarBuilder; 2],
    ) -> Result<Self> {
        let depthwise = Depthwise::load(inputs, window, &for_depthwise)?;
        Ok(match Pointwise::load([inputs, outputs], true, for_pointwise)? {
            Pointwise::Cpu(pointwise) => Self::Cpu { depthwise: depthwise.for_cpu()?, pointwise },
            pointwise => Self::Other { depthwise, pointwise },
        })
    }

    /// Convolves without a shortcut.
    ///
    /// # Errors
    /// When the features do not fit.
    pub(super) fn forward(&self, x: &Features) -> Result<Features> {
        match (self, x) {
            (Self::Cpu { depthwise, pointwise }, Features::Cpu(x)) => {
                let Some([height, width, _]) = depthwise.output_dims(x.dims()) else {
                    bail!("{:?} does not fit a depthwise convolution", x.dims());
                };
                let mut output = x.sibling([height, width, pointwise.outputs()]);
                fill(depthwise, pointwise, x, false, &mut output);
                Ok(Features::Cpu(output))
            }
            (Self::Other { depthwise, pointwise }, Features::Other(x)) => {
                pointwise.forward(&Features::Other(depthwise.forward(x)?))
            }
            _ => other_device(),
        }
    }

    /// Convolves and adds the shortcut, which has the output's shape.
    ///
    /// # Errors
    /// When the features or the shortcut do not fit.
    pub(super) fn forward_onto(&self, x: &Features, shortcut: Features) -> Result<Features> {
        match (self, x, shortcut) {
            (Self::Cpu { depthwise, pointwise }, Features::Cpu(x), Features::Cpu(mut output)) => {
                let needed = depthwise.output_dims(x.dims());
                let needed = needed.map(|[height, width, _]| [height, width, pointwise.outputs()]);
                if needed != Some(output.dims()) {
                    bail!("no shortcut from {:?} to {:?}", x.dims(), output.dims());
                }
                fill(depthwise, pointwise, x, true, &mut output);
                Ok(Features::Cpu(output))
            }
            (Self::Other { depthwise, pointwise }, Features::Other(x), shortcut) => {
                pointwise.forward_onto(&Features::Other(depthwise.forward(x)?), shortcut)
            }
            _ => other_device(),
        }
    }
}

fn fill(depthwise: &Depthwise3x3, pointwise: &Conv2d, x: &Map, accumulate: bool, output: &mut Map) {
    let [rows, columns, channels] = output.dims();
    let [.., inputs] = x.dims();
    let between = columns * inputs;
    let rows_at_once = (AT_ONCE / between.max(1)).clamp(1, rows.max(1));
    let rows_of_task =
        rows.div_ceil(rayon::current_num_threads()).next_multiple_of(rows_at_once).max(1);
    let row_length = columns * channels;
    let tasks = output.numbers_mut().par_chunks_mut((rows_of_task * row_length).max(1));
    tasks.enumerate().for_each(|(task, output)| {
        let mut buffer = x.sibling([rows_at_once, columns, inputs]);
        let mut row = task * rows_of_task;
        for output in output.chunks_mut(rows_at_once * row_length) {
            let rows = output.len() / row_length;
            let filtered = &mut buffer.numbers_mut()[..rows * between];
            depthwise.fill_rows(x.numbers(), x.dims(), row, filtered);
            pointwise.pointwise(filtered, accumulate, output);
            row += rows;
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle::{D, Device, Tensor};
    use meptr_core::weights::generate;
    use proptest::prelude::*;

    use super::super::features::Memory;
    use super::*;

    fn wave(shape: [usize; 3], seed: usize) -> Tensor {
        let count = shape.iter().product();
        let value = |n: usize| (((n + seed) * 7919) % 101) as f32 / 50.0 - 1.0;
        let [height, width, channels] = shape;
        let values: Vec<f32> = (0..count).map(value).collect();
        Tensor::from_vec(values, (1, height, width, channels), &Device::Cpu).unwrap()
    }

    fn features(x: &Tensor, memory: &Arc<Memory>) -> Features {
        let (_, height, width, channels) = x.dims4().unwrap();
        let mut map = memory.map([height, width, channels]);
        map.numbers_mut().copy_from_slice(&x.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        Features::Cpu(map)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_equals_one_convolution_after_the_other(
            height in 1usize..30, width in 1usize..30, inputs in 1usize..140,
            outputs in 1usize..40, has_shortcut: bool,
        ) {
            let window = DepthwiseGeometry { stride: 1, padding_before: 1, is_fused: true };
            let ((layer, depthwise, weight, bias), _) = generate(3, &Device::Cpu, |vb| {
                let layer = Separable::load([inputs, outputs], window, [vb.pp("a"), vb.pp("b")])?;
                let depthwise = Depthwise::load(inputs, window, &vb.pp("a"))?;
                let weight = vb.get((outputs, inputs, 1, 1), "b.weight")?;
                Ok((layer, depthwise, weight, vb.get(outputs, "b.bias")?))
            }).unwrap();
            let memory = Arc::new(Memory::default());
            let x = wave([height, width, inputs], 1);
            let shortcut = wave([height, width, outputs], 2);
            let found = if has_shortcut {
                layer.forward_onto(&features(&x, &memory), features(&shortcut, &memory))
            } else {
                layer.forward(&features(&x, &memory))
            };
            let found = found.unwrap().into_tensor().unwrap();
            let weight = weight.reshape((outputs, inputs)).unwrap().t().unwrap().contiguous();
            let plain = Pointwise::Other { weight: weight.unwrap(), bias, is_rectified: true };
            let filtered = Features::Other(depthwise.forward(&x).unwrap());
            let expected = if has_shortcut {
                plain.forward_onto(&filtered, Features::Other(shortcut))
            } else {
                plain.forward(&filtered)
            };
            let off = (found - expected.unwrap().into_tensor().unwrap()).unwrap().abs().unwrap();
            let off = off.flatten_all().unwrap().max(D::Minus1).unwrap();
            let off = off.to_scalar::<f32>().unwrap();
            prop_assert!(off < 1e-5, "off by {off}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() -> Result<()> {
        let window = DepthwiseGeometry { stride: 2, padding_before: 1, is_fused: true };
        let (layer, _) = generate(3, &Device::Cpu, |vb| {
            Separable::load([3, 2], window, [vb.pp("a"), vb.pp("b")])
        })?;
        let memory = Arc::new(Memory::default());
        let x = features(&wave([4, 4, 3], 1), &memory);
        assert!(layer.forward(&x).is_ok());
        assert!(layer.forward(&features(&wave([4, 5, 3], 1), &memory)).is_err());
        assert!(layer.forward(&features(&wave([4, 4, 2], 1), &memory)).is_err());
        assert!(layer.forward(&Features::Other(wave([4, 4, 3], 1))).is_err());
        assert!(layer.forward_onto(&x, features(&wave([4, 4, 2], 1), &memory)).is_err());
        Ok(())
    }
}
