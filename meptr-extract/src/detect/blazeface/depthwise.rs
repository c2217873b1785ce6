//! Depthwise 3x3 convolution.

use candle::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use candle_nn::VarBuilder;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Rows and columns of the kernel.
const KERNEL: usize = 3;

/// Filters each channel with a 3x3 kernel of its own and adds a bias.
///
/// `y[b, i, j, c] = bias[c] + sum_kl w[k, l, c] x[b, s i + k - p, s j + l - p, c]`, 0 outside, with
/// stride `s` and padding `p` before the first row and column. The output has `1 / s` times the
/// rows and columns, so that padding at the end is what is missing.
///
/// Weights: `weight` `(channels, 1, 3, 3)`, `bias` `(channels,)`.
#[derive(Debug)]
pub(super) struct DepthwiseConv {
    weight: Tensor, // (9, channels)
    bias: Tensor,
    window: Window,
}

/// Where the kernel is applied.
#[derive(Debug, Clone, Copy)]
struct Window {
    stride: usize,
    padding_before: usize,
}

impl DepthwiseConv {
    /// A convolution with `padding_before` zeros before the first row and column.
    pub(super) fn load(
        channels: usize,
        stride: usize,
        padding_before: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get((channels, 1, KERNEL, KERNEL), "weight")?;
        let weight = weight.reshape((channels, KERNEL * KERNEL))?.t()?.contiguous()?;
        let bias = vb.get(channels, "bias")?;
        Ok(Self { weight, bias, window: Window { stride, padding_before } })
    }

    /// `(batch, height, width, channels)` to `(batch, height / stride, width / stride, channels)`.
    ///
    /// # Errors
    /// When height or width is no multiple of the stride, or the channels are others.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.device().is_cpu() {
            x.contiguous()?.apply_op3_no_bwd(&self.weight, &self.bias, &self.window)
        } else {
            self.forward_by_shifts(x)
        }
    }

    /// The same from tensor operations, for devices other than the CPU.
    fn forward_by_shifts(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let Window { stride, padding_before } = self.window;
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

/// Candle's own grouped convolution runs one convolution per channel; this one goes over the
/// picture once.
impl CustomOp3 for Window {
    fn name(&self) -> &'static str {
        "depthwise-conv-3x3"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, channels) = x_layout.shape().dims4()?;
        let (rows, columns) = (height / self.stride, width / self.stride);
        if weight_layout.dims() != [KERNEL * KERNEL, channels]
            || rows * self.stride != height
            || columns * self.stride != width
        {
            bail!("{:?} does not fit a depthwise convolution", x_layout.dims());
        }
        let x = contiguous(x, x_layout)?;
        let weight = contiguous(weight, weight_layout)?;
        let bias = contiguous(bias, bias_layout)?;
        let mut output = vec![0.0; batch * rows * columns * channels];
        let arch = Arch::new();
        output.par_chunks_mut(columns * channels).enumerate().for_each(|(index, output)| {
            let picture =
                &x[index / rows * height * width * channels..][..height * width * channels];
            let source = Source { picture, height, width };
            let row = index % rows;
            arch.dispatch(Row { window: self, source, row, weight, bias, output });
        });
        Ok((CpuStorage::F32(output), Shape::from((batch, rows, columns, channels))))
    }
}

struct Source<'a> {
    picture: &'a [f32],
    height: usize,
    width: usize,
}

/// One row of the output.
struct Row<'a> {
    window: &'a Window,
    source: Source<'a>,
    row: usize,
    weight: &'a [f32],
    bias: &'a [f32],
    output: &'a mut [f32],
}

impl WithSimd for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { window, source, row, weight, bias, output } = self;
        let channels = bias.len();
        for (column, output) in output.chunks_exact_mut(channels).enumerate() {
            output.copy_from_slice(bias);
            for (kernel_row, weight) in weight.chunks_exact(KERNEL * channels).enumerate() {
                let y = (row * window.stride + kernel_row).checked_sub(window.padding_before);
                let Some(y) = y.filter(|y| *y < source.height) else { continue };
                let line =
                    &source.picture[y * source.width * channels..][..source.width * channels];
                add_line(line, column * window.stride, window.padding_before, weight, output);
            }
        }
    }
}

/// Adds the three pixels of a line, from `first - before` on, to an output pixel.
#[inline(always)]
fn add_line(line: &[f32], first: usize, before: usize, weight: &[f32], output: &mut [f32]) {
    let channels = output.len();
    let inner = first.checked_sub(before).and_then(|x| line.get(x * channels..(x + 3) * channels));
    if let Some(pixels) = inner {
        let (a, rest) = pixels.split_at(channels);
        let (b, c) = rest.split_at(channels);
        let (weight_a, rest) = weight.split_at(channels);
        let (weight_b, weight_c) = rest.split_at(channels);
        let first_two = a.iter().zip(weight_a).zip(b.iter().zip(weight_b));
        let all = first_two.zip(c.iter().zip(weight_c));
        for (output, (((a, wa), (b, wb)), (c, wc))) in output.iter_mut().zip(all) {
            *output = ((*output + a * wa) + b * wb) + c * wc;
        }
        return;
    }
    for (tap, weight) in weight.chunks_exact(channels).enumerate() {
        let x = (first + tap).checked_sub(before);
        let pixel = x.and_then(|x| line.get(x * channels..(x + 1) * channels));
        for (output, (x, weight)) in output.iter_mut().zip(pixel.into_iter().flatten().zip(weight))
        {
            *output += x * weight;
        }
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("a depthwise convolution needs its input in one piece"),
    }
}

#[cfg(test)]
mod tests {
    use candle::{D, Device};
    use meptr_core::weights::generate;

    use super::*;

    #[test]
    fn both_ways_of_computing_agree() -> Result<()> {
        let (batch, channels) = (2, 5);
        for (stride, padding_before, height, width) in
            [(1, 1, 4, 7), (2, 1, 6, 8), (2, 0, 4, 4), (1, 1, 1, 1), (2, 0, 2, 2)]
        {
            let (layer, _) = generate(3, &Device::Cpu, |vb| {
                DepthwiseConv::load(channels, stride, padding_before, vb)
            })?;
            let count = batch * height * width * channels;
            let x: Vec<f32> = (0..count).map(|n| ((n * 7919) % 101) as f32 / 50.0 - 1.0).collect();
            let x = Tensor::from_vec(x, (batch, height, width, channels), &Device::Cpu)?;
            let (found, expected) = (layer.forward(&x)?, layer.forward_by_shifts(&x)?);
            assert_eq!(found.dims(), [batch, height / stride, width / stride, channels]);
            let difference = (found - expected)?.abs()?.flatten_all()?.max(D::Minus1)?;
            assert!(difference.to_scalar::<f32>()? < 1e-6);
        }
        Ok(())
    }

    #[test]
    fn a_size_that_the_stride_does_not_divide_is_an_error() -> Result<()> {
        let (layer, _) = generate(3, &Device::Cpu, |vb| DepthwiseConv::load(2, 2, 1, vb))?;
        let x = Tensor::zeros((1, 5, 4, 2), candle::DType::F32, &Device::Cpu)?;
        assert!(layer.forward(&x).is_err());
        Ok(())
    }
}
