//! Convolution on the CPU for the frozen detectors.
//!
//! Pictures lie channels last, `(batch, height, width, channels)`. A task takes some output rows of
//! one picture, copies the input rows that they see once, with their border, and multiplies them
//! where they lie: the kernel's columns and the channels of a pixel are neighbours in memory, so no
//! window is copied out. Bias, activation and shortcut are applied while the rows are in the cache.

mod input;
mod kernel;

use candle::{CpuStorage, DType, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use input::{Added, Shortcut, Source};
use kernel::{Panels, Rows};
pub(super) use kernel::{dispatch, lanes, load, store};

/// Numbers that the input rows of one task have at most: half a megabyte.
const TASK_ELEMENTS: usize = 1 << 17;

/// What follows the sum of products and the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing; a shortcut is added.
    Linear,
    /// `max(x, 0)`, after the shortcut is added.
    Relu,
    /// `x sigmoid(x)`, before the shortcut is added.
    Silu,
    /// `1 / (1 + e^-x)`, before the shortcut is added.
    Sigmoid,
}

impl Ending {
    /// Whether the activation comes after what is added, or there is none.
    fn is_last(self) -> bool {
        matches!(self, Self::Linear | Self::Relu)
    }
}

/// How a kernel moves over a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Steps {
    /// Pixels from one position to the next, at least 1.
    pub(super) stride: usize,
    /// Zeros before the first and after the last row and column.
    pub(super) padding: [usize; 2],
}

/// Channels of the input, one after the other where there are several parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    /// `(batch, height, width, channels)`, f32 on the CPU, in any layout.
    pub(super) x: &'a Tensor,
    /// Whether every pixel stands for 2x2 pixels.
    pub(super) is_doubled: bool,
}

impl<'a> From<&'a Tensor> for Part<'a> {
    fn from(x: &'a Tensor) -> Self {
        Self { x, is_doubled: false }
    }
}

/// A convolution with weights laid out for the CPU's vectors.
///
/// `y[b, i, j, o] = ending(bias[o] + sum_klc w[o, c, k, l] x[b, s i + k - p, s j + l - p, c])`, 0
/// outside, with stride `s` and padding `p` before.
#[derive(Debug)]
pub(super) struct CpuConvolution {
    panels: Panels,
    inputs: usize,
    kernel: usize,
    steps: Steps,
    ending: Ending,
}

impl CpuConvolution {
    /// Lays out `weight` `(outputs, inputs, kernel, kernel)` and `bias` `(outputs,)`.
    pub(super) fn new(
        weight: &Tensor,
        bias: &Tensor,
        steps: Steps,
        ending: Ending,
    ) -> Result<Self> {
        let (outputs, inputs, kernel, _) = weight.dims4()?;
        let by_depth =
            weight.permute((2, 3, 1, 0))?.reshape((kernel * kernel * inputs, outputs))?;
        let (by_depth, bias) = (by_depth.flatten_all()?.to_vec1()?, bias.flatten_all()?.to_vec1()?);
        let panels = Panels::new(&by_depth, &bias);
        Ok(Self { panels, inputs, kernel, steps, ending })
    }

    /// Runs over pictures of one size.
    ///
    /// - `parts`: all of one batch, height and width (once doubled), with `inputs` channels in sum
    /// - `shortcut`: of the output's shape; contiguous, or some of the channels of what is
    /// - returns `(batch, rows, columns, outputs)`, `rows = (height + padding - kernel) / s + 1`
    ///
    /// # Errors
    /// When a shape differs from the above or a tensor is not f32 on the CPU.
    pub(super) fn forward(&self, parts: &[Part], shortcut: Option<&Tensor>) -> Result<Tensor> {
        let guards: Vec<_> = parts.iter().map(|part| part.x.storage_and_layout()).collect();
        let sources = guards.iter().zip(parts).map(|((storage, layout), part)| {
            Source::new(numbers(storage)?, layout, part.is_doubled)
        });
        let sources = sources.collect::<Result<Vec<_>>>()?;
        let Some([batch, height, width]) = sources.first().map(Source::size) else {
            bail!("a convolution needs an input");
        };
        let channels: usize = sources.iter().map(Source::channels).sum();
        let is_one_size = sources.iter().all(|source| source.size() == [batch, height, width]);
        if !is_one_size || channels != self.inputs {
            bail!("{} channels expected, {channels} of {:?} found", self.inputs, parts);
        }
        let (rows, columns) = (self.positions(height), self.positions(width));
        let shape = (batch, rows, columns, self.panels.outputs());
        let held = shortcut.map(Tensor::storage_and_layout);
        let shortcut = held.as_ref().map(|(storage, layout)| {
            Shortcut::new(numbers(storage)?, layout, [batch, rows, columns, self.panels.outputs()])
        });
        let added = shortcut.transpose()?.map_or(Added::Nothing, Added::Shortcut);
        let mut output = vec![0.0; batch * rows * columns * self.panels.outputs()];
        if !output.is_empty() {
            let pictures = Pictures { sources: &sources, width, rows, columns };
            self.fill(&pictures, added, &mut output);
        }
        Tensor::from_vec(output, shape, &candle::Device::Cpu)
    }

    /// Input channels.
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Output channels.
    pub(super) fn outputs(&self) -> usize {
        self.panels.outputs()
    }

    /// Runs over one picture, `(height, width, inputs)`, into memory of the output's size.
    pub(super) fn fill_picture(&self, x: &[f32], [height, width]: [usize; 2], output: &mut [f32]) {
        let (rows, columns) = (self.positions(height), self.positions(width));
        assert_eq!(output.len(), rows * columns * self.outputs(), "output of another size");
        if !output.is_empty() {
            let sources = [Source::picture(x, [height, width, self.inputs])];
            let pictures = Pictures { sources: &sources, width, rows, columns };
            self.fill(&pictures, Added::Nothing, output);
        }
    }

    /// Mixes the channels of some pixels, on this thread, for a kernel of 1x1 and an ending without
    /// sigmoid; `is_added`: to what `output` holds, before the ending.
    ///
    /// - `x`: `(pixels, inputs)`
    /// - `output`: `(pixels, outputs)`
    pub(super) fn mix(&self, x: &[f32], is_added: bool, output: &mut [f32]) {
        let columns = output.len() / self.outputs();
        assert!(self.kernel == 1 && self.ending.is_last(), "mixes pixels");
        assert_eq!(x.len(), columns * self.inputs, "as many pixels on both sides");
        self.panels.multiply(Rows {
            x,
            row_length: x.len(),
            row_step: x.len(),
            pixel_step: self.inputs,
            kernel: 1,
            run: self.inputs,
            columns: columns.max(1),
            ending: self.ending,
            added: if is_added { Added::Output } else { Added::Nothing },
            output,
        });
    }

    /// How often the kernel fits along a side.
    fn positions(&self, side: usize) -> usize {
        let [before, after] = self.steps.padding;
        match (side + before + after).checked_sub(self.kernel) {
            Some(rest) if side > 0 => rest / self.steps.stride + 1,
            _ => 0,
        }
    }

    fn fill(&self, pictures: &Pictures, added: Added, output: &mut [f32]) {
        let Pictures { rows, columns, .. } = *pictures;
        let row_length = columns * self.panels.outputs();
        let rows_at_once = self.rows_at_once(pictures, output.len() / row_length);
        let picture = |(number, output): (usize, &mut [f32])| {
            let task = |buffer: &mut Vec<f32>, (task, output): (usize, &mut [f32])| {
                let first_row = task * rows_at_once;
                let added = added.from((number * rows + first_row) * columns);
                self.fill_rows(pictures, [number, first_row], buffer, added, output);
            };
            let tasks = output.par_chunks_mut(rows_at_once * row_length).enumerate();
            tasks.for_each_init(Vec::new, task);
        };
        output.par_chunks_mut(rows * row_length).enumerate().for_each(picture);
    }

    /// Output rows of a task: enough tasks for all threads, and no more input than the cache holds.
    fn rows_at_once(&self, pictures: &Pictures, all_rows: usize) -> usize {
        let width = pictures.width + self.steps.padding.iter().sum::<usize>();
        let in_cache = TASK_ELEMENTS / (width * self.inputs * self.steps.stride);
        let for_threads = all_rows.div_ceil(2 * rayon::current_num_threads());
        in_cache.min(for_threads).clamp(1, pictures.rows)
    }

    /// Fills some rows of one picture, from `first_row` on.
    fn fill_rows(
        &self,
        pictures: &Pictures,
        [number, first_row]: [usize; 2],
        buffer: &mut Vec<f32>,
        added: Added,
        output: &mut [f32],
    ) {
        let Pictures { sources, width, columns, .. } = *pictures;
        let Steps { stride, padding: [before, after] } = self.steps;
        let rows = output.len() / (columns * self.panels.outputs());
        let first = (first_row * stride) as isize - before as isize;
        let seen = (rows - 1) * stride + self.kernel;
        let row_length = (before + width + after) * self.inputs;
        let direct = match sources {
            [one] if self.kernel == 1 && stride == 1 && before + after == 0 => {
                one.plain_rows(number, first_row, rows)
            }
            _ => None,
        };
        let x = direct.unwrap_or_else(|| {
            buffer.resize(seen * row_length, 0.0);
            input::copy_rows(sources, number, first, [before, after], self.inputs, buffer);
            buffer
        });
        self.panels.multiply(Rows {
            x,
            row_length,
            row_step: stride * row_length,
            pixel_step: stride * self.inputs,
            kernel: self.kernel,
            run: self.kernel * self.inputs,
            columns,
            ending: self.ending,
            added,
            output,
        });
    }
}

/// The input, and the size of the output.
struct Pictures<'a> {
    sources: &'a [Source<'a>],
    width: usize,
    rows: usize,
    columns: usize,
}

fn numbers(storage: &Storage) -> Result<&[f32]> {
    match storage {
        Storage::Cpu(CpuStorage::F32(numbers)) => Ok(numbers),
        other => bail!("{:?} is not {:?} on the CPU", other.dtype(), DType::F32),
    }
}

#[cfg(test)]
mod tests {
    use candle::{D, Device};
    use proptest::prelude::*;

    use super::*;

    fn wave(shape: &[usize], seed: usize) -> Tensor {
        let count: usize = shape.iter().product();
        let value = |index: usize| ((index * 7919 + seed * 31) % 1009) as f32 / 504.5 - 1.0;
        let values: Vec<f32> = (0..count).map(value).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Candle's convolution, channels last.
    fn plain(
        x: &Tensor,
        [weight, bias]: [&Tensor; 2],
        steps: Steps,
        ending: Ending,
        shortcut: Option<&Tensor>,
    ) -> Result<Tensor> {
        let [before, after] = steps.padding;
        let x = x.permute((0, 3, 1, 2))?.pad_with_zeros(2, before, after)?;
        let x = x.pad_with_zeros(3, before, after)?.contiguous()?;
        let y = x.conv2d(weight, 0, steps.stride, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()?;
        let y = y.broadcast_add(bias)?;
        let y = match ending {
            Ending::Linear | Ending::Relu => y,
            Ending::Silu => y.silu()?,
            Ending::Sigmoid => candle_nn::ops::sigmoid(&y)?,
        };
        let y = shortcut.map_or(Ok(y.clone()), |shortcut| &y + shortcut)?;
        if ending == Ending::Relu { y.relu() } else { Ok(y) }
    }

    fn assert_equal(found: &Tensor, expected: &Tensor) {
        assert_eq!(found.dims(), expected.dims());
        let off = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap();
        let off = off.max(D::Minus1).unwrap().to_scalar::<f32>().unwrap();
        // Sums of up to 475 products of up to 1, in f32 in another order.
        assert!(off < 1e-4, "off by {off}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_equals_the_plain_convolution(
            batch in 1usize..3, height in 5usize..23, width in 5usize..40, inputs in 1usize..20,
            outputs in 1usize..70, kernel in prop::sample::select(vec![1usize, 3, 5]),
            stride in 1usize..3, before in 0usize..3, after in 0usize..3,
            ending in prop::sample::select(
                vec![Ending::Linear, Ending::Relu, Ending::Silu, Ending::Sigmoid]
            ),
            is_portable: bool, has_shortcut: bool, is_channels_first: bool,
        ) {
            let x = if is_channels_first {
                wave(&[batch, inputs, height, width], 1).permute((0, 2, 3, 1)).unwrap()
            } else {
                wave(&[batch, height, width, inputs], 1)
            };
            let weight = wave(&[outputs, inputs, kernel, kernel], 2);
            let bias = wave(&[outputs], 3);
            let steps = Steps { stride, padding: [before, after] };
            let mut layer = CpuConvolution::new(&weight, &bias, steps, ending).unwrap();
            if is_portable {
                layer.panels = portable(&weight, &bias);
            }
            let side = |side: usize| (side + before + after - kernel) / stride + 1;
            let wide = wave(&[batch, side(height), side(width), 2 * outputs], 4);
            let shortcut = has_shortcut.then(|| wide.narrow(3, outputs, outputs).unwrap());
            let found = layer.forward(&[(&x).into()], shortcut.as_ref()).unwrap();
            let expected = plain(&x, [&weight, &bias], steps, ending, shortcut.as_ref()).unwrap();
            assert_equal(&found, &expected);
        }
    }

    fn portable(weight: &Tensor, bias: &Tensor) -> Panels {
        let (outputs, inputs, kernel, _) = weight.dims4().unwrap();
        let by_depth = weight.permute((2, 3, 1, 0)).unwrap();
        let by_depth = by_depth.reshape((kernel * kernel * inputs, outputs)).unwrap();
        let by_depth: Vec<f32> = by_depth.flatten_all().unwrap().to_vec1().unwrap();
        Panels::laid_out(&by_depth, &bias.to_vec1().unwrap(), pulp::Arch::Scalar)
    }

    #[test]
    fn parts_stand_side_by_side_and_may_be_doubled() {
        let (whole, half) = (wave(&[2, 6, 8, 10], 1), wave(&[2, 3, 4, 5], 2));
        let part = whole.narrow(3, 4, 3).unwrap();
        let (weight, bias) = (wave(&[9, 8, 3, 3], 3), wave(&[9], 4));
        let steps = Steps { stride: 1, padding: [1, 1] };
        let layer = CpuConvolution::new(&weight, &bias, steps, Ending::Silu).unwrap();
        let doubled = half.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let doubled = doubled.upsample_nearest2d(6, 8).unwrap().permute((0, 2, 3, 1)).unwrap();
        let joined = Tensor::cat(&[&doubled, &part], 3).unwrap();
        let expected = plain(&joined, [&weight, &bias], steps, Ending::Silu, None).unwrap();
        let parts = [Part { x: &half, is_doubled: true }, (&part).into()];
        assert_equal(&layer.forward(&parts, None).unwrap(), &expected);
    }

    #[test]
    fn nothing_gives_nothing_and_not_a_number_stays_one() {
        let (weight, bias) = (wave(&[4, 2, 3, 3], 1), wave(&[4], 2));
        let steps = Steps { stride: 1, padding: [1, 1] };
        for ending in [Ending::Linear, Ending::Relu, Ending::Silu, Ending::Sigmoid] {
            let layer = CpuConvolution::new(&weight, &bias, steps, ending).unwrap();
            let empty = Tensor::zeros((0, 5, 5, 2), DType::F32, &Device::Cpu).unwrap();
            assert_eq!(layer.forward(&[(&empty).into()], None).unwrap().dims(), [0, 5, 5, 4]);
            let flat = Tensor::zeros((1, 0, 5, 2), DType::F32, &Device::Cpu).unwrap();
            assert_eq!(layer.forward(&[(&flat).into()], None).unwrap().elem_count(), 0);
            let broken = (wave(&[1, 3, 3, 2], 3) * f64::NAN).unwrap();
            let found = layer.forward(&[(&broken).into()], None).unwrap();
            let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
            assert!(found.iter().all(|x| x.is_nan()), "{ending:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (weight, bias) = (wave(&[4, 2, 1, 1], 1), wave(&[4], 2));
        let steps = Steps { stride: 1, padding: [0, 0] };
        let layer = CpuConvolution::new(&weight, &bias, steps, Ending::Linear).unwrap();
        let (x, other) = (wave(&[1, 3, 3, 2], 1), wave(&[1, 3, 4, 1], 1));
        assert!(layer.forward(&[(&other).into()], None).is_err());
        assert!(layer.forward(&[(&x).into()], Some(&x)).is_err());
        assert!(layer.forward(&[], None).is_err());
        assert!(layer.forward(&[(&x.to_dtype(DType::F64).unwrap()).into()], None).is_err());
    }
}
