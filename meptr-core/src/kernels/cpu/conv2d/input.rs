//! Strided views of inputs and residuals, and copies of the rows that a task reads.

use candle::{Layout, Result, bail};

/// View of a tensor `(batch, height, width, channels)` in any layout.
#[derive(Debug)]
pub(super) struct ImageView<'a> {
    values: &'a [f32],
    dims: [usize; 4],
    strides: [usize; 4],
    is_upsampled: bool,
}

impl<'a> ImageView<'a> {
    pub(super) fn new(all: &'a [f32], layout: &Layout, is_upsampled: bool) -> Result<Self> {
        let (dims, strides) = (layout.dims(), layout.stride());
        let (&[b, h, w, c], &[sb, sh, sw, sc]) = (dims, strides) else {
            bail!("images have four dimensions, not {dims:?}");
        };
        let values = &all[layout.start_offset()..];
        Ok(Self { values, dims: [b, h, w, c], strides: [sb, sh, sw, sc], is_upsampled })
    }

    /// View of one contiguous image.
    pub(super) fn contiguous(values: &'a [f32], [height, width, channels]: [usize; 3]) -> Self {
        let strides = [values.len(), width * channels, channels, 1];
        Self { values, dims: [1, height, width, channels], strides, is_upsampled: false }
    }

    /// Batch, height and width.
    pub(super) fn size(&self) -> [usize; 3] {
        let [batch, height, width, _] = self.dims;
        let times = if self.is_upsampled { 2 } else { 1 };
        [batch, times * height, times * width]
    }

    pub(super) fn channels(&self) -> usize {
        self.dims[3]
    }

    /// Some rows of an image without a copy, if they are contiguous.
    pub(super) fn contiguous_rows(
        &self,
        image: usize,
        first: usize,
        rows: usize,
    ) -> Option<&'a [f32]> {
        let [_, _, width, channels] = self.dims;
        let [batch_stride, row_stride, pixel_stride, channel_stride] = self.strides;
        let is_contiguous = !self.is_upsampled
            && channel_stride == 1
            && pixel_stride == channels
            && row_stride == width * channels;
        let start = image * batch_stride + first * row_stride;
        is_contiguous.then(|| &self.values[start..start + rows * row_stride])
    }

    /// Copies a row of an image into pixels of `pixel` values, from value `offset` of each on.
    fn copy_row(&self, [image, row]: [usize; 2], pixel: usize, offset: usize, into: &mut [f32]) {
        let channels = self.channels();
        let [batch_stride, row_stride, pixel_stride, channel_stride] = self.strides;
        let shift = u32::from(self.is_upsampled);
        let start = image * batch_stride + (row >> shift) * row_stride;
        if channel_stride == 1 && pixel_stride == channels && pixel == channels && shift == 0 {
            into.copy_from_slice(&self.values[start..start + into.len()]);
            return;
        }
        for (column, into) in into.chunks_exact_mut(pixel).enumerate() {
            let start = start + (column >> shift) * pixel_stride;
            let into = &mut into[offset..offset + channels];
            if channel_stride == 1 {
                into.copy_from_slice(&self.values[start..start + channels]);
            } else {
                let from = self.values[start..].iter().step_by(channel_stride);
                into.iter_mut().zip(from).for_each(|(into, from)| *into = *from);
            }
        }
    }
}

/// Rows to copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowRange {
    pub(super) image: usize,
    /// First row; rows outside the image are zeros.
    pub(super) first: isize,
    /// Pixels of zeros before and after each row.
    pub(super) padding: [usize; 2],
    /// Channels of all sources.
    pub(super) channels: usize,
}

/// Copies as many rows as `into` holds, with padding and the channels of all sources concatenated.
pub(super) fn copy_rows(sources: &[ImageView], rows: RowRange, into: &mut [f32]) {
    let RowRange { image, first, padding: [before, after], channels } = rows;
    let Some([_, height, width]) = sources.first().map(ImageView::size) else { return };
    let row_length = (before + width + after) * channels;
    for (number, into) in into.chunks_exact_mut(row_length).enumerate() {
        let Some(row) =
            first.checked_add_unsigned(number).and_then(|row| usize::try_from(row).ok())
        else {
            into.fill(0.0);
            continue;
        };
        if row >= height {
            into.fill(0.0);
            continue;
        }
        let (border, rest) = into.split_at_mut(before * channels);
        border.fill(0.0);
        let (inner, border) = rest.split_at_mut(width * channels);
        border.fill(0.0);
        let mut offset = 0;
        for source in sources {
            source.copy_row([image, row], channels, offset, inner);
            offset += source.channels();
        }
    }
}

/// Values that are added to the sums.
#[derive(Debug, Clone, Copy)]
pub(super) enum Residual<'a> {
    None,
    View(ResidualView<'a>),
    /// Previous content of the output.
    Output,
}

/// [`Residual`] of some channels of one pixel.
#[derive(Debug, Clone, Copy)]
pub(super) enum PixelResidual<'a> {
    None,
    Values(&'a [f32]),
    Output,
}

impl<'a> Residual<'a> {
    /// Residual without its first pixels.
    pub(super) fn skip_pixels(self, count: usize) -> Self {
        match self {
            Self::View(view) => Self::View(view.skip_pixels(count)),
            other => other,
        }
    }

    /// Residual of `channels` channels of a pixel, from channel `first` on.
    #[inline(always)]
    pub(super) fn at(self, pixel: usize, first: usize, channels: usize) -> PixelResidual<'a> {
        match self {
            Self::None => PixelResidual::None,
            Self::View(ResidualView { values, pixel_stride }) => {
                PixelResidual::Values(&values[pixel * pixel_stride + first..][..channels])
            }
            Self::Output => PixelResidual::Output,
        }
    }
}

/// View of a tensor that is added to the output.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResidualView<'a> {
    values: &'a [f32],
    pixel_stride: usize,
}

impl<'a> ResidualView<'a> {
    /// View of a tensor of these dimensions whose pixels have one stride throughout.
    pub(super) fn new(all: &'a [f32], layout: &Layout, dims: [usize; 4]) -> Result<Self> {
        let [_, height, width, channels] = dims;
        match *layout.stride() {
            [batch_stride, row_stride, pixel_stride, 1]
                if layout.dims() == dims
                    && pixel_stride >= channels
                    && row_stride == width * pixel_stride
                    && batch_stride == height * row_stride =>
            {
                Ok(Self { values: &all[layout.start_offset()..], pixel_stride })
            }
            _ => bail!("no residual of the shape {dims:?}: {layout:?}"),
        }
    }

    /// View without its first pixels.
    pub(super) fn skip_pixels(self, count: usize) -> Self {
        Self { values: &self.values[count * self.pixel_stride..], ..self }
    }

    /// Adds to pixels of `channels` values.
    #[inline(always)]
    pub(super) fn add_to(self, output: &mut [f32], channels: usize) {
        let pixels = output.chunks_exact_mut(channels).zip(self.values.chunks(self.pixel_stride));
        for (pixel, other) in pixels {
            pixel.iter_mut().zip(other).for_each(|(x, other)| *x += other);
        }
    }
}
