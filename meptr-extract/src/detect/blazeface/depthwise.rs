//! Depthwise 3x3 convolution on any device.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;
use meptr_core::kernels::cpu::conv2d::{Depthwise3x3, DepthwiseGeometry};

/// Rows and columns of the kernel.
const KERNEL: usize = 3;

/// Depthwise convolution of a batch with Candle's operations. [`Depthwise3x3`] has the formula, and
/// the kernel for one image on the CPU.
///
/// Weights: `weight` `(channels, 1, 3, 3)`, `bias` `(channels,)`.
#[derive(Debug)]
pub(super) struct Depthwise {
    weight: Tensor, // (9, channels)
    bias: Tensor,
    geometry: DepthwiseGeometry,
}

impl Depthwise {
    pub(super) fn load(
        channels: usize,
        geometry: DepthwiseGeometry,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get((channels, 1, KERNEL, KERNEL), "weight")?;
        let weight = weight.reshape((channels, KERNEL * KERNEL))?.t()?.contiguous()?;
        let bias = vb.get(channels, "bias")?;
        Ok(Self { weight, bias, geometry })
    }

    /// Packs the weights for the CPU.
    pub(super) fn for_cpu(&self) -> Result<Depthwise3x3> {
        let weight: Vec<f32> = self.weight.flatten_all()?.to_vec1()?;
        Ok(Depthwise3x3::new(&weight, &self.bias.to_vec1()?, self.geometry))
    }

    /// Convolves `(batch, height, width, channels)` to
    /// `(batch, height / stride, width / stride, channels)`.
    ///
    /// # Errors
    /// When height or width is no multiple of the stride, or the channels differ.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let DepthwiseGeometry { stride, padding_before, .. } = self.geometry;
        let (rows, columns) = (height / stride, width / stride);
        let padding_after = KERNEL - 1 - padding_before;
        let padded = x.pad_with_zeros(1, padding_before, padding_after)?.pad_with_zeros(
            2,
            padding_before,
            padding_after,
        )?;
        let mut sum = self.bias.broadcast_as((batch, rows, columns, channels))?.contiguous()?;
        for tap in 0..KERNEL * KERNEL {
            let shifted = padded
                .narrow(1, tap / KERNEL, height)?
                .narrow(2, tap % KERNEL, width)?
                .contiguous()?
                .reshape((batch, rows, stride, columns, stride, channels))?
                .narrow(2, 0, 1)?
                .narrow(4, 0, 1)?
                .squeeze(4)?
                .squeeze(2)?; // (batch, rows, columns, channels)
            sum = (sum + shifted.broadcast_mul(&self.weight.get(tap)?)?)?;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use candle::{D, Device};
    use meptr_core::weights::generate;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn rows_equal_the_sum_of_shifted_pictures(
            height in 1usize..8, width in 1usize..20, channels in 1usize..50,
            stride in 1usize..3, padding_before in 0usize..3, is_fused: bool,
        ) {
            let (height, width) = (height * stride, width * stride);
            let geometry = DepthwiseGeometry { stride, padding_before, is_fused };
            let load = |vb: VarBuilder| Depthwise::load(channels, geometry, &vb);
            let (layer, _) = generate(3, &Device::Cpu, load).unwrap();
            let count = height * width * channels;
            let x: Vec<f32> = (0..count).map(|n| ((n * 7919) % 101) as f32 / 50.0 - 1.0).collect();
            let x = Tensor::from_vec(x, (1, height, width, channels), &Device::Cpu).unwrap();
            let expected = layer.forward(&x).unwrap();
            let on_cpu = layer.for_cpu().unwrap();
            let input = [height, width, channels];
            let x: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
            let dims = on_cpu.output_dims(input).unwrap();
            let mut found = vec![f32::NAN; dims.iter().product()];
            let upper = dims[0] / 2; // in two parts
            let (first, second) = found.split_at_mut(upper * dims[1] * channels);
            on_cpu.fill_rows(&x, input, 0, first);
            on_cpu.fill_rows(&x, input, upper, second);
            let found = Tensor::from_vec(found, expected.dims(), &Device::Cpu).unwrap();
            let off = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap();
            let off = off.max(D::Minus1).unwrap().to_scalar::<f32>().unwrap();
            prop_assert!(off < 1e-6, "off by {off}");
        }
    }
}
