//! Convolution with packed weights.

use candle::{CpuStorage, DType, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use super::args::{Conv2dActivation, Conv2dGeometry, ConvInput};
use super::input::{self, ImageView, Residual, ResidualView};
use super::microkernel::{ConvRows, PackedWeights};

/// Most values of the input rows of one task: half a megabyte.
const MAX_TASK_VALUES: usize = 1 << 17;

/// Convolution with weights packed for the vectors of the CPU.
///
/// `y[b, i, j, o] = activation(bias[o] + sum_klc w[o, c, k, l] x[b, s i + k - p, s j + l - p, c])`
/// with stride `s`, padding `p` before, and `x` 0 outside the image.
#[derive(Debug)]
pub struct Conv2d {
    weights: PackedWeights,
    inputs: usize,
    kernel: usize,
    geometry: Conv2dGeometry,
    activation: Conv2dActivation,
}

impl Conv2d {
    /// Packs `weight` `(outputs, inputs, kernel, kernel)` and `bias` `(outputs,)`.
    ///
    /// # Errors
    /// When a tensor has another number of dimensions or is not f32.
    pub fn new(
        weight: &Tensor,
        bias: &Tensor,
        geometry: Conv2dGeometry,
        activation: Conv2dActivation,
    ) -> Result<Self> {
        let (outputs, inputs, kernel, _) = weight.dims4()?;
        let by_depth =
            weight.permute((2, 3, 1, 0))?.reshape((kernel * kernel * inputs, outputs))?;
        let (by_depth, bias) = (by_depth.flatten_all()?.to_vec1()?, bias.flatten_all()?.to_vec1()?);
        let weights = PackedWeights::new(&by_depth, &bias);
        Ok(Self { weights, inputs, kernel, geometry, activation })
    }

    /// Convolves images of one size.
    ///
    /// - `parts`: concatenated along the channels, `inputs` in sum; all of one batch size, height and
    ///   width after upsampling
    /// - `residual`: of the output's shape; contiguous, or some channels of a contiguous tensor
    /// - returns `(batch, rows, columns, outputs)`, `rows = (height + padding - kernel) / s + 1`
    ///
    /// # Errors
    /// When a shape differs from the above or a tensor is not f32 on the CPU.
    pub fn forward(&self, parts: &[ConvInput], residual: Option<&Tensor>) -> Result<Tensor> {
        let guards: Vec<_> = parts.iter().map(|part| part.x.storage_and_layout()).collect();
        let sources = guards.iter().zip(parts).map(|((storage, layout), part)| {
            ImageView::new(f32_values(storage)?, layout, part.is_upsampled)
        });
        let sources = sources.collect::<Result<Vec<_>>>()?;
        let Some([batch, height, width]) = sources.first().map(ImageView::size) else {
            bail!("a convolution needs an input");
        };
        let channels: usize = sources.iter().map(ImageView::channels).sum();
        let is_one_size = sources.iter().all(|source| source.size() == [batch, height, width]);
        if !is_one_size || channels != self.inputs {
            bail!("{} channels expected, {channels} of {:?} found", self.inputs, parts);
        }
        let (rows, columns) = (self.positions(height), self.positions(width));
        let shape = (batch, rows, columns, self.outputs());
        let guard = residual.map(Tensor::storage_and_layout);
        let residual = guard.as_ref().map(|(storage, layout)| {
            let dims = [batch, rows, columns, self.outputs()];
            ResidualView::new(f32_values(storage)?, layout, dims)
        });
        let residual = residual.transpose()?.map_or(Residual::None, Residual::View);
        let mut output = vec![0.0; batch * rows * columns * self.outputs()];
        if !output.is_empty() {
            let images = Images { sources: &sources, width, rows, columns };
            self.fill(&images, residual, &mut output);
        }
        Tensor::from_vec(output, shape, &candle::Device::Cpu)
    }

    /// Input channels.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Output channels.
    pub fn outputs(&self) -> usize {
        self.weights.outputs()
    }

    /// Convolves one image, `(height, width, inputs)`, into `output`, `(rows, columns, outputs)`.
    ///
    /// # Panics
    /// When `output` has another size.
    pub fn fill_image(&self, x: &[f32], [height, width]: [usize; 2], output: &mut [f32]) {
        let (rows, columns) = (self.positions(height), self.positions(width));
        assert_eq!(output.len(), rows * columns * self.outputs(), "output of another size");
        if !output.is_empty() {
            let sources = [ImageView::contiguous(x, [height, width, self.inputs])];
            let images = Images { sources: &sources, width, rows, columns };
            self.fill(&images, Residual::None, output);
        }
    }

    /// Pointwise (1x1) convolution of some pixels, on this thread.
    ///
    /// - `x`: `(pixels, inputs)`
    /// - `accumulate`: adds to the content of `output`, before the activation
    /// - `output`: `(pixels, outputs)`
    ///
    /// # Panics
    /// When the kernel is not 1x1, the activation is computed before the residual is added, or sizes
    /// differ from the above.
    pub fn pointwise(&self, x: &[f32], accumulate: bool, output: &mut [f32]) {
        let columns = output.len() / self.outputs();
        assert!(self.kernel == 1 && self.activation.is_after_residual(), "a pointwise layer");
        assert_eq!(x.len(), columns * self.inputs, "as many pixels on both sides");
        self.weights.multiply(ConvRows {
            x,
            row_length: x.len(),
            row_step: x.len(),
            pixel_step: self.inputs,
            kernel: 1,
            run: self.inputs,
            columns: columns.max(1),
            activation: self.activation,
            residual: if accumulate { Residual::Output } else { Residual::None },
            output,
        });
    }

    /// Positions of the kernel along a side.
    fn positions(&self, side: usize) -> usize {
        let [before, after] = self.geometry.padding;
        match (side + before + after).checked_sub(self.kernel) {
            Some(rest) if side > 0 => rest / self.geometry.stride + 1,
            _ => 0,
        }
    }

    fn fill(&self, images: &Images, residual: Residual, output: &mut [f32]) {
        let Images { rows, columns, .. } = *images;
        let row_length = columns * self.outputs();
        let task_rows = self.rows_per_task(images, output.len() / row_length);
        output.par_chunks_mut(rows * row_length).enumerate().for_each(|(image, output)| {
            let tasks = output.par_chunks_mut(task_rows * row_length).enumerate();
            tasks.for_each_init(Vec::new, |buffer, (task, output)| {
                let first_row = task * task_rows;
                let residual = residual.skip_pixels((image * rows + first_row) * columns);
                self.fill_rows(images, [image, first_row], buffer, residual, output);
            });
        });
    }

    /// Output rows of a task: enough tasks for all threads, and no more input than the cache holds.
    fn rows_per_task(&self, images: &Images, all_rows: usize) -> usize {
        let width = images.width + self.geometry.padding.iter().sum::<usize>();
        let in_cache = MAX_TASK_VALUES / (width * self.inputs * self.geometry.stride);
        let for_threads = all_rows.div_ceil(2 * rayon::current_num_threads());
        in_cache.min(for_threads).clamp(1, images.rows)
    }

    /// Fills some rows of one image, from `first_row` on.
    fn fill_rows(
        &self,
        images: &Images,
        [image, first_row]: [usize; 2],
        buffer: &mut Vec<f32>,
        residual: Residual,
        output: &mut [f32],
    ) {
        let Images { sources, width, columns, .. } = *images;
        let Conv2dGeometry { stride, padding: [before, after] } = self.geometry;
        let rows = output.len() / (columns * self.outputs());
        let first = (first_row * stride) as isize - before as isize;
        let input_rows = (rows - 1) * stride + self.kernel;
        let row_length = (before + width + after) * self.inputs;
        let direct = match sources {
            [one] if self.kernel == 1 && stride == 1 && before + after == 0 => {
                one.contiguous_rows(image, first_row, rows)
            }
            _ => None,
        };
        let x = direct.unwrap_or_else(|| {
            buffer.resize(input_rows * row_length, 0.0);
            let rows =
                input::RowRange { image, first, padding: [before, after], channels: self.inputs };
            input::copy_rows(sources, rows, buffer);
            buffer
        });
        self.weights.multiply(ConvRows {
            x,
            row_length,
            row_step: stride * row_length,
            pixel_step: stride * self.inputs,
            kernel: self.kernel,
            run: self.kernel * self.inputs,
            columns,
            activation: self.activation,
            residual,
            output,
        });
    }
}

/// Input images, and the size of an output image.
struct Images<'a> {
    sources: &'a [ImageView<'a>],
    /// Of an input row.
    width: usize,
    rows: usize,
    columns: usize,
}

fn f32_values(storage: &Storage) -> Result<&[f32]> {
    match storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(values),
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
    fn candle_conv2d(
        x: &Tensor,
        [weight, bias]: [&Tensor; 2],
        geometry: Conv2dGeometry,
        activation: Conv2dActivation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let [before, after] = geometry.padding;
        let x = x.permute((0, 3, 1, 2))?.pad_with_zeros(2, before, after)?;
        let x = x.pad_with_zeros(3, before, after)?.contiguous()?;
        let y = x.conv2d(weight, 0, geometry.stride, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()?;
        let y = y.broadcast_add(bias)?;
        let y = match activation {
            Conv2dActivation::Identity | Conv2dActivation::Relu => y,
            Conv2dActivation::Silu => y.silu()?,
            Conv2dActivation::Sigmoid => candle_nn::ops::sigmoid(&y)?,
        };
        let y = residual.map_or(Ok(y.clone()), |residual| &y + residual)?;
        if activation == Conv2dActivation::Relu { y.relu() } else { Ok(y) }
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
        fn it_equals_candles_convolution(
            batch in 1usize..3, height in 5usize..23, width in 5usize..40, inputs in 1usize..20,
            outputs in 1usize..70, kernel in prop::sample::select(vec![1usize, 3, 5]),
            stride in 1usize..3, before in 0usize..3, after in 0usize..3,
            activation in prop::sample::select(
                vec![Conv2dActivation::Identity, Conv2dActivation::Relu, Conv2dActivation::Silu, Conv2dActivation::Sigmoid]
            ),
            is_portable: bool, has_residual: bool, is_channels_first: bool,
        ) {
            let x = if is_channels_first {
                wave(&[batch, inputs, height, width], 1).permute((0, 2, 3, 1)).unwrap()
            } else {
                wave(&[batch, height, width, inputs], 1)
            };
            let weight = wave(&[outputs, inputs, kernel, kernel], 2);
            let bias = wave(&[outputs], 3);
            let geometry = Conv2dGeometry { stride, padding: [before, after] };
            let mut layer = Conv2d::new(&weight, &bias, geometry, activation).unwrap();
            if is_portable {
                layer.weights = portable(&weight, &bias);
            }
            let side = |side: usize| (side + before + after - kernel) / stride + 1;
            let wide = wave(&[batch, side(height), side(width), 2 * outputs], 4);
            let residual = has_residual.then(|| wide.narrow(3, outputs, outputs).unwrap());
            let residual = residual.as_ref();
            let found = layer.forward(&[(&x).into()], residual).unwrap();
            let expected =
                candle_conv2d(&x, [&weight, &bias], geometry, activation, residual).unwrap();
            assert_equal(&found, &expected);
        }
    }

    fn portable(weight: &Tensor, bias: &Tensor) -> PackedWeights {
        let (outputs, inputs, kernel, _) = weight.dims4().unwrap();
        let by_depth = weight.permute((2, 3, 1, 0)).unwrap();
        let by_depth = by_depth.reshape((kernel * kernel * inputs, outputs)).unwrap();
        let by_depth: Vec<f32> = by_depth.flatten_all().unwrap().to_vec1().unwrap();
        PackedWeights::packed_for(&by_depth, &bias.to_vec1().unwrap(), pulp::Arch::Scalar)
    }

    #[test]
    fn inputs_are_concatenated_and_may_be_upsampled() {
        let (whole, half) = (wave(&[2, 6, 8, 10], 1), wave(&[2, 3, 4, 5], 2));
        let part = whole.narrow(3, 4, 3).unwrap();
        let (weight, bias) = (wave(&[9, 8, 3, 3], 3), wave(&[9], 4));
        let geometry = Conv2dGeometry { stride: 1, padding: [1, 1] };
        let layer = Conv2d::new(&weight, &bias, geometry, Conv2dActivation::Silu).unwrap();
        let doubled = half.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let doubled = doubled.upsample_nearest2d(6, 8).unwrap().permute((0, 2, 3, 1)).unwrap();
        let joined = Tensor::cat(&[&doubled, &part], 3).unwrap();
        let expected =
            candle_conv2d(&joined, [&weight, &bias], geometry, Conv2dActivation::Silu, None)
                .unwrap();
        let parts = [ConvInput { x: &half, is_upsampled: true }, (&part).into()];
        assert_equal(&layer.forward(&parts, None).unwrap(), &expected);
    }

    #[test]
    fn empty_input_gives_empty_output_and_nan_stays_nan() {
        let (weight, bias) = (wave(&[4, 2, 3, 3], 1), wave(&[4], 2));
        let geometry = Conv2dGeometry { stride: 1, padding: [1, 1] };
        for activation in [
            Conv2dActivation::Identity,
            Conv2dActivation::Relu,
            Conv2dActivation::Silu,
            Conv2dActivation::Sigmoid,
        ] {
            let layer = Conv2d::new(&weight, &bias, geometry, activation).unwrap();
            let empty = Tensor::zeros((0, 5, 5, 2), DType::F32, &Device::Cpu).unwrap();
            assert_eq!(layer.forward(&[(&empty).into()], None).unwrap().dims(), [0, 5, 5, 4]);
            let flat = Tensor::zeros((1, 0, 5, 2), DType::F32, &Device::Cpu).unwrap();
            assert_eq!(layer.forward(&[(&flat).into()], None).unwrap().elem_count(), 0);
            let broken = (wave(&[1, 3, 3, 2], 3) * f64::NAN).unwrap();
            let found = layer.forward(&[(&broken).into()], None).unwrap();
            let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
            assert!(found.iter().all(|x| x.is_nan()), "{activation:?}");
        }
    }

    #[test]
    fn mismatched_shapes_are_errors() {
        let (weight, bias) = (wave(&[4, 2, 1, 1], 1), wave(&[4], 2));
        let geometry = Conv2dGeometry { stride: 1, padding: [0, 0] };
        let layer = Conv2d::new(&weight, &bias, geometry, Conv2dActivation::Identity).unwrap();
        let (x, other) = (wave(&[1, 3, 3, 2], 1), wave(&[1, 3, 4, 1], 1));
        assert!(layer.forward(&[(&other).into()], None).is_err());
        assert!(layer.forward(&[(&x).into()], Some(&x)).is_err());
        assert!(layer.forward(&[], None).is_err());
        assert!(layer.forward(&[(&x.to_dtype(DType::F64).unwrap()).into()], None).is_err());
    }
}
