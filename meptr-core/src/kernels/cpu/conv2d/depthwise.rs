//! Depthwise 3x3 convolution.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::super::dispatch::{dispatch, f32_lanes, load, store};

/// Rows and columns of the kernel.
const KERNEL: usize = 3;

/// Stride, padding and rounding of a depthwise convolution.
///
/// The kernel is applied at every `stride`-th row and column, with zeros before the first ones. The
/// output has `1 / stride` times the rows and columns; the padding at the end follows from that.
#[derive(Debug, Clone, Copy)]
pub struct DepthwiseGeometry {
    /// Pixels from one position to the next, at least 1.
    pub stride: usize,
    /// Zeros before the first row and column, at most 2.
    pub padding_before: usize,
    /// Whether a product is added before it is rounded (fused multiply-add), where the CPU can.
    pub is_fused: bool,
}

/// Filters each channel with a 3x3 kernel of its own and adds a bias.
///
/// `y[i, j, c] = bias[c] + sum_kl w[k, l, c] x[s i + k - p, s j + l - p, c]` with stride `s`, padding
/// `p` before, and `x` 0 outside the image.
#[derive(Debug)]
pub struct Depthwise3x3 {
    weight: Vec<f32>, // (9, group * channels)
    bias: Vec<f32>,   // (group * channels,)
    channels: usize,
    /// Adjacent pixels that fill whole vectors together; 1 where positions are not adjacent.
    group: usize,
    geometry: DepthwiseGeometry,
    arch: Arch,
}

/// Smallest number of pixels of `channels` values that fill vectors of `lanes` lanes exactly.
fn smallest_group(channels: usize, lanes: usize) -> usize {
    (1..=lanes).find(|group| (group * channels).is_multiple_of(lanes)).unwrap_or(1)
}

impl Depthwise3x3 {
    /// Packs weights for this CPU.
    ///
    /// - `weight`: `(9, channels)`, row-major
    /// - `bias`: `(channels,)`
    ///
    /// # Panics
    /// When the sizes differ from the above.
    pub fn new(weight: &[f32], bias: &[f32], geometry: DepthwiseGeometry) -> Self {
        Self::packed_for(weight, bias, geometry, Arch::new())
    }

    /// Like [`Self::new`], for the vectors of `arch`.
    fn packed_for(weight: &[f32], bias: &[f32], geometry: DepthwiseGeometry, arch: Arch) -> Self {
        let channels = bias.len();
        assert_eq!(weight.len(), KERNEL * KERNEL * channels, "nine taps of each channel");
        let group = match geometry.stride {
            1 => smallest_group(channels, f32_lanes(arch)),
            _ => 1,
        };
        let taps = weight.chunks_exact(channels.max(1));
        let weight = taps.flat_map(|tap| tap.repeat(group)).collect();
        Self { weight, bias: bias.repeat(group), channels, group, geometry, arch }
    }

    /// Height, width and channels of the output for an input of these; `None` when the input has
    /// other channels or a side that the stride does not divide.
    pub fn output_dims(&self, [height, width, channels]: [usize; 3]) -> Option<[usize; 3]> {
        let stride = self.geometry.stride;
        let fits = height % stride == 0 && width % stride == 0 && channels == self.channels;
        fits.then_some([height / stride, width / stride, channels])
    }

    /// Fills output rows from `first` on, as many as `output` holds, on this thread.
    ///
    /// - `x`: one image, `(height, width, channels)`
    /// - `dims`: height, width and channels, for which [`Self::output_dims`] is not `None`
    pub fn fill_rows(&self, x: &[f32], dims: [usize; 3], first: usize, output: &mut [f32]) {
        if self.geometry.is_fused {
            dispatch(self.arch, DepthwiseJob::<true> { layer: self, x, dims, first, output });
        } else {
            dispatch(self.arch, DepthwiseJob::<false> { layer: self, x, dims, first, output });
        }
    }

    /// Output columns whose kernel lies inside a row of `width` pixels.
    fn inner_columns(&self, width: usize) -> Range<usize> {
        let DepthwiseGeometry { stride, padding_before, .. } = self.geometry;
        let first = padding_before.div_ceil(stride);
        let end = (width + padding_before).checked_sub(KERNEL).map_or(0, |last| last / stride + 1);
        let end = end.min(width / stride);
        first.min(end)..end
    }
}

struct DepthwiseJob<'a, const FUSED: bool> {
    layer: &'a Depthwise3x3,
    x: &'a [f32],
    dims: [usize; 3],
    first: usize,
    output: &'a mut [f32],
}

impl<const FUSED: bool> WithSimd for DepthwiseJob<'_, FUSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { layer, x, dims: [height, width, channels], first, output } = self;
        let DepthwiseGeometry { stride, padding_before, .. } = layer.geometry;
        let row_length = width / stride * channels;
        let inner = layer.inner_columns(width);
        let groups = inner.len() / layer.group;
        let inner = inner.start..inner.start + groups * layer.group;
        for (row, output) in (first..).zip(output.chunks_exact_mut(row_length)) {
            let mut lines = [&x[..0]; KERNEL];
            for (kernel_row, line) in lines.iter_mut().enumerate() {
                let y = (row * stride + kernel_row).checked_sub(padding_before);
                if let Some(y) = y.filter(|y| *y < height) {
                    *line = &x[y * width * channels..][..width * channels];
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

/// Fills the columns whose kernel lies inside a row. Returns false, and fills none, when fewer than
/// two adjacent kernel rows lie inside the image; rows outside it are empty.
#[inline(always)]
fn fill_inner_columns<S: Simd, const FUSED: bool>(
    simd: S,
    layer: &Depthwise3x3,
    lines: [&[f32]; KERNEL],
    columns: Range<usize>,
    output: &mut [f32],
) -> bool {
    let channels = layer.channels;
    let DepthwiseGeometry { stride, padding_before, .. } = layer.geometry;
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

/// `sum + x weight`, with one rounding or two.
#[inline(always)]
fn add<S: Simd, const FUSED: bool>(simd: S, sum: S::f32s, x: S::f32s, weight: S::f32s) -> S::f32s {
    if FUSED {
        simd.mul_add_e_f32s(x, weight, sum)
    } else {
        simd.add_f32s(sum, simd.mul_f32s(x, weight))
    }
}

/// Fills one pixel, whose kernel may lie partly outside the image.
#[inline(always)]
fn fill_pixel<S: Simd, const FUSED: bool>(
    simd: S,
    layer: &Depthwise3x3,
    lines: [&[f32]; KERNEL],
    column: usize,
    output: &mut [f32],
) {
    let channels = layer.channels;
    let DepthwiseGeometry { stride, padding_before, .. } = layer.geometry;
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

/// Fills pixels whose kernel lies inside a row, with `ROWS` kernel rows from `first` on: a vector of
/// channels at a time, with its weights in registers.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant indices keep weights in registers")]
fn fill_inner<S: Simd, const FUSED: bool, const ROWS: usize>(
    simd: S,
    layer: &Depthwise3x3,
    lines: [&[f32]; ROWS],
    first: usize,
    output: &mut [f32],
) {
    let (channels, length) = (layer.channels, layer.bias.len());
    let window_length = length + (KERNEL - 1) * channels;
    let step = layer.geometry.stride * length;
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
                let window = &lines[row][group * step..][..window_length];
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
    use proptest::prelude::*;

    use super::*;

    /// Convolution by its definition.
    fn reference(
        x: &[f32],
        [height, width, channels]: [usize; 3],
        [weight, bias]: [&[f32]; 2],
        geometry: DepthwiseGeometry,
    ) -> Vec<f32> {
        let DepthwiseGeometry { stride, padding_before, .. } = geometry;
        let mut output = Vec::new();
        for (row, column) in (0..height / stride)
            .flat_map(|row| (0..width / stride).map(move |column| (row, column)))
        {
            for channel in 0..channels {
                let mut sum = bias[channel];
                for tap in 0..KERNEL * KERNEL {
                    let y = (row * stride + tap / KERNEL).checked_sub(padding_before);
                    let x_position = (column * stride + tap % KERNEL).checked_sub(padding_before);
                    let inside = y.filter(|y| *y < height).zip(x_position.filter(|x| *x < width));
                    if let Some((y, x_position)) = inside {
                        let pixel = (y * width + x_position) * channels + channel;
                        sum += x[pixel] * weight[tap * channels + channel];
                    }
                }
                output.push(sum);
            }
        }
        output
    }

    fn wave(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|n| (((n + seed) * 7919) % 101) as f32 / 50.0 - 1.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn rows_equal_the_definition(
            height in 1usize..8, width in 1usize..20, channels in 1usize..50,
            stride in 1usize..3, padding_before in 0usize..3, is_fused: bool, is_portable: bool,
        ) {
            let dims = [height * stride, width * stride, channels];
            let geometry = DepthwiseGeometry { stride, padding_before, is_fused };
            let (x, weight) = (wave(dims.iter().product(), 0), wave(9 * channels, 5));
            let bias = wave(channels, 3);
            let arch = if is_portable { Arch::Scalar } else { Arch::new() };
            let layer = Depthwise3x3::packed_for(&weight, &bias, geometry, arch);
            let out_dims = layer.output_dims(dims).unwrap();
            let mut found = vec![f32::NAN; out_dims.iter().product()];
            let upper = out_dims[0] / 2; // in two parts
            let (first, second) = found.split_at_mut(upper * out_dims[1] * channels);
            layer.fill_rows(&x, dims, 0, first);
            layer.fill_rows(&x, dims, upper, second);
            let expected = reference(&x, dims, [&weight, &bias], geometry);
            for (found, expected) in found.iter().zip(&expected) {
                prop_assert!((found - expected).abs() < 2e-6, "{found} is not {expected}");
            }
        }
    }

    #[test]
    fn a_size_that_the_stride_does_not_divide_does_not_fit() {
        let geometry = DepthwiseGeometry { stride: 2, padding_before: 1, is_fused: true };
        let layer = Depthwise3x3::new(&[0.5; 18], &[0.0; 2], geometry);
        assert_eq!(layer.output_dims([5, 4, 2]), None);
        assert_eq!(layer.output_dims([4, 4, 3]), None);
        assert_eq!(layer.output_dims([6, 4, 2]), Some([3, 2, 2]));
    }
}
