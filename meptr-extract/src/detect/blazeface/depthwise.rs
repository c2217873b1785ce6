//! Depthwise 3x3 convolution.

use std::ops::Range;

use candle::{Result, Tensor};
use candle_nn::VarBuilder;
use pulp::{Arch, Simd, WithSimd};

use super::features::Map;
use crate::detect::convolution::{dispatch, lanes, load, store};

/// Rows and columns of the kernel.
const KERNEL: usize = 3;

/// Where the kernel is applied, and how its products are added up.
///
/// Every `stride`-th row and column, with zeros before the first ones. The output has `1 / stride`
/// times the rows and columns, so that padding at the end is what is missing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) stride: usize,
    pub(super) padding_before: usize,
    /// Whether a product is added before it is rounded, where the CPU can.
    pub(super) is_fused: bool,
}

/// Filters each channel with a 3x3 kernel of its own and adds a bias, on the CPU.
///
/// `y[i, j, c] = bias[c] + sum_kl w[k, l, c] x[s i + k - p, s j + l - p, c]`, 0 outside, with stride
/// `s` and padding `p`.
#[derive(Debug)]
pub(super) struct CpuDepthwise {
    weight: Vec<f32>, // (9, group * channels)
    bias: Vec<f32>,   // (group * channels,)
    channels: usize,
    /// Neighbouring pixels that fill whole vectors together, 1 where pixels are not neighbours.
    group: usize,
    window: Window,
    arch: Arch,
}

/// The same for batches on other devices.
///
/// Weights: `weight` `(channels, 1, 3, 3)`, `bias` `(channels,)`.
#[derive(Debug)]
pub(super) struct Depthwise {
    weight: Tensor, // (9, channels)
    bias: Tensor,
    window: Window,
}

impl Depthwise {
    pub(super) fn load(channels: usize, window: Window, vb: &VarBuilder) -> Result<Self> {
        let weight = vb.get((channels, 1, KERNEL, KERNEL), "weight")?;
        let weight = weight.reshape((channels, KERNEL * KERNEL))?.t()?.contiguous()?;
        let bias = vb.get(channels, "bias")?;
        Ok(Self { weight, bias, window })
    }

    /// Lays the weights out for the CPU.
    pub(super) fn for_cpu(&self) -> Result<CpuDepthwise> {
        self.laid_out(Arch::new())
    }

    /// For vectors of these instructions.
    fn laid_out(&self, arch: Arch) -> Result<CpuDepthwise> {
        let channels = self.bias.dim(0)?;
        let group = match self.window.stride {
            1 => smallest_group(channels, lanes(arch)),
            _ => 1,
        };
        Ok(CpuDepthwise {
            weight: self.weight.repeat((1, group))?.flatten_all()?.to_vec1()?,
            bias: self.bias.repeat(group)?.to_vec1()?,
            channels,
            group,
            window: self.window,
            arch,
        })
    }

    /// `(batch, height, width, channels)` to `(batch, height / stride, width / stride, channels)`.
    ///
    /// # Errors
    /// When height or width is no multiple of the stride, or the channels are others.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let Window { stride, padding_before, .. } = self.window;
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

/// Pixels of `channels` numbers that fill vectors of `lanes` numbers without a rest.
fn smallest_group(channels: usize, lanes: usize) -> usize {
    (1..=lanes).find(|group| (group * channels).is_multiple_of(lanes)).unwrap_or(1)
}

impl CpuDepthwise {
    /// Height, width and channels of the output for an input of these; `None` where it does not fit.
    pub(super) fn output_dims(&self, [height, width, channels]: [usize; 3]) -> Option<[usize; 3]> {
        let stride = self.window.stride;
        let fits = height % stride == 0 && width % stride == 0 && channels == self.channels;
        fits.then_some([height / stride, width / stride, channels])
    }

    /// Writes output rows, from `first` on, as many as `output` holds.
    pub(super) fn fill_rows(&self, x: &Map, first: usize, output: &mut [f32]) {
        if self.window.is_fused {
            dispatch(self.arch, FillRows::<true> { layer: self, x, first, output });
        } else {
            dispatch(self.arch, FillRows::<false> { layer: self, x, first, output });
        }
    }

    /// Output columns whose kernel lies inside a row of `width` pixels.
    fn inner_columns(&self, width: usize) -> Range<usize> {
        let Window { stride, padding_before, .. } = self.window;
        let first = padding_before.div_ceil(stride);
        let end = (width + padding_before).checked_sub(KERNEL).map_or(0, |last| last / stride + 1);
        let end = end.min(width / stride);
        first.min(end)..end
    }
}

struct FillRows<'a, const FUSED: bool> {
    layer: &'a CpuDepthwise,
    x: &'a Map,
    first: usize,
    output: &'a mut [f32],
}

impl<const FUSED: bool> WithSimd for FillRows<'_, FUSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { layer, x, first, output } = self;
        let [height, width, channels] = x.dims();
        let Window { stride, padding_before, .. } = layer.window;
        let row_length = width / stride * channels;
        let inner = layer.inner_columns(width);
        let groups = inner.len() / layer.group;
        let inner = inner.start..inner.start + groups * layer.group;
        for (row, output) in (first..).zip(output.chunks_exact_mut(row_length)) {
            let mut lines = [&x.numbers()[..0]; KERNEL];
            for (kernel_row, line) in lines.iter_mut().enumerate() {
                let y = (row * stride + kernel_row).checked_sub(padding_before);
                if let Some(y) = y.filter(|y| *y < height) {
                    *line = &x.numbers()[y * width * channels..][..width * channels];
                }
            }
            let is_plain =
                fill_inner_columns::<S, FUSED>(simd, layer, lines, inner.clone(), output);
            for (column, pixel) in output.chunks_exact_mut(channels).enumerate() {
                if !is_plain || !inner.contains(&column) {
                    fill_pixel::<S, FUSED>(simd, layer, lines, column, pixel);
                }
            }
        }
    }
}

/// Columns whose kernel lies inside across; `false` where the rows, empty ones being outside, are
/// not such as are worth a loop of their own.
#[inline(always)]
fn fill_inner_columns<S: Simd, const FUSED: bool>(
    simd: S,
    layer: &CpuDepthwise,
    lines: [&[f32]; KERNEL],
    columns: Range<usize>,
    output: &mut [f32],
) -> bool {
    let channels = layer.channels;
    let Window { stride, padding_before, .. } = layer.window;
    let output = &mut output[columns.start * channels..columns.end * channels];
    let skipped = (columns.start * stride).saturating_sub(padding_before) * channels;
    let mut is_inside = [false; KERNEL];
    let mut rest = lines;
    for row in 0..KERNEL {
        is_inside[row] = !lines[row].is_empty();
        rest[row] = lines[row].get(skipped..).unwrap_or(&[]);
    }
    let [upper, middle, lower] = rest;
    match is_inside {
        [true, true, true] => {
            fill_inner::<S, FUSED, 3>(simd, layer, [upper, middle, lower], 0, output);
        }
        [true, true, false] => fill_inner::<S, FUSED, 2>(simd, layer, [upper, middle], 0, output),
        [false, true, true] => fill_inner::<S, FUSED, 2>(simd, layer, [middle, lower], 1, output),
        _ => return false,
    }
    true
}

/// Adds a product.
#[inline(always)]
fn add<S: Simd, const FUSED: bool>(simd: S, sum: S::f32s, x: S::f32s, weight: S::f32s) -> S::f32s {
    if FUSED {
        simd.mul_add_e_f32s(x, weight, sum)
    } else {
        simd.add_f32s(sum, simd.mul_f32s(x, weight))
    }
}

/// One pixel of which some of the kernel may lie outside.
#[inline(always)]
fn fill_pixel<S: Simd, const FUSED: bool>(
    simd: S,
    layer: &CpuDepthwise,
    lines: [&[f32]; KERNEL],
    column: usize,
    output: &mut [f32],
) {
    let channels = layer.channels;
    let Window { stride, padding_before, .. } = layer.window;
    for (vector, output) in output.chunks_mut(S::F32_LANES).enumerate() {
        let range = vector * S::F32_LANES..vector * S::F32_LANES + output.len();
        let mut sum = load(simd, &layer.bias[range.clone()]);
        for (tap, weight) in layer.weight.chunks_exact(layer.bias.len()).enumerate() {
            let x = (column * stride + tap % KERNEL).checked_sub(padding_before);
            let line = lines[tap / KERNEL];
            let pixel = x.and_then(|x| line.get(x * channels..(x + 1) * channels));
            if let Some(pixel) = pixel {
                let (x, weight) = (&pixel[range.clone()], &weight[range.clone()]);
                sum = add::<S, FUSED>(simd, sum, load(simd, x), load(simd, weight));
            }
        }
        store(simd, output, sum);
    }
}

/// A row of pixels whose kernel lies inside across, with `ROWS` rows of the kernel from `first` on:
/// a vector of channels at a time, whose weights are in registers.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "indices that are constants keep weights in registers"
)]
fn fill_inner<S: Simd, const FUSED: bool, const ROWS: usize>(
    simd: S,
    layer: &CpuDepthwise,
    lines: [&[f32]; ROWS],
    first: usize,
    output: &mut [f32],
) {
    let (channels, length) = (layer.channels, layer.bias.len());
    let seen = length + (KERNEL - 1) * channels;
    let step = layer.window.stride * length;
    for start in (0..length).step_by(S::F32_LANES) {
        let end = length.min(start + S::F32_LANES);
        let bias = load(simd, &layer.bias[start..end]);
        let mut weights = [[bias; KERNEL]; ROWS];
        for row in 0..ROWS {
            for tap in 0..KERNEL {
                let weight = &layer.weight[((first + row) * KERNEL + tap) * length..][..length];
                weights[row][tap] = load(simd, &weight[start..end]);
            }
        }
        for (group, output) in output.chunks_exact_mut(length).enumerate() {
            let mut sum = bias;
            for row in 0..ROWS {
                let window = &lines[row][group * step..][..seen];
                for tap in 0..KERNEL {
                    let x = &window[tap * channels + start..tap * channels + end];
                    sum = add::<S, FUSED>(simd, sum, load(simd, x), weights[row][tap]);
                }
            }
            store(simd, &mut output[start..end], sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle::{D, Device};
    use meptr_core::weights::generate;
    use proptest::prelude::*;

    use super::super::features::Memory;
    use super::*;

    fn map_of(x: &Tensor) -> Map {
        let (_, height, width, channels) = x.dims4().unwrap();
        let mut map = Arc::new(Memory::default()).map([height, width, channels]);
        map.numbers_mut().copy_from_slice(&x.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        map
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn rows_equal_the_sum_of_shifted_pictures(
            height in 1usize..8, width in 1usize..20, channels in 1usize..50,
            stride in 1usize..3, padding_before in 0usize..3, is_fused: bool, is_portable: bool,
        ) {
            let (height, width) = (height * stride, width * stride);
            let window = Window { stride, padding_before, is_fused };
            let load = |vb: VarBuilder| Depthwise::load(channels, window, &vb);
            let (layer, _) = generate(3, &Device::Cpu, load).unwrap();
            let count = height * width * channels;
            let x: Vec<f32> = (0..count).map(|n| ((n * 7919) % 101) as f32 / 50.0 - 1.0).collect();
            let x = Tensor::from_vec(x, (1, height, width, channels), &Device::Cpu).unwrap();
            let expected = layer.forward(&x).unwrap();
            let arch = if is_portable { Arch::Scalar } else { Arch::new() };
            let on_cpu = layer.laid_out(arch).unwrap();
            let x = map_of(&x);
            let dims = on_cpu.output_dims(x.dims()).unwrap();
            let mut found = vec![f32::NAN; dims.iter().product()];
            let upper = dims[0] / 2; // in two parts
            let (first, second) = found.split_at_mut(upper * dims[1] * channels);
            on_cpu.fill_rows(&x, 0, first);
            on_cpu.fill_rows(&x, upper, second);
            let found = Tensor::from_vec(found, expected.dims(), &Device::Cpu).unwrap();
            let off = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap();
            let off = off.max(D::Minus1).unwrap().to_scalar::<f32>().unwrap();
            prop_assert!(off < 1e-6, "off by {off}");
        }
    }

    #[test]
    fn a_size_that_the_stride_does_not_divide_does_not_fit() -> Result<()> {
        let window = Window { stride: 2, padding_before: 1, is_fused: true };
        let (layer, _) = generate(3, &Device::Cpu, |vb| Depthwise::load(2, window, &vb))?;
        let layer = layer.for_cpu()?;
        assert_eq!(layer.output_dims([5, 4, 2]), None);
        assert_eq!(layer.output_dims([4, 4, 3]), None);
        assert_eq!(layer.output_dims([6, 4, 2]), Some([3, 2, 2]));
        Ok(())
    }
}
