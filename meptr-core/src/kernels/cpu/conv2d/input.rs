//! Copying the rows that a task sees out of one or several tensors.

use candle::{Layout, Result, bail};

/// A tensor `(batch, height, width, channels)` in any layout.
#[derive(Debug)]
pub(super) struct Source<'a> {
    numbers: &'a [f32],
    dims: [usize; 4],
    strides: [usize; 4],
    is_doubled: bool,
}

impl<'a> Source<'a> {
    pub(super) fn new(all: &'a [f32], layout: &Layout, is_doubled: bool) -> Result<Self> {
        let (dims, strides) = (layout.dims(), layout.stride());
        let (&[b, h, w, c], &[sb, sh, sw, sc]) = (dims, strides) else {
            bail!("pictures have four dimensions, not {dims:?}");
        };
        let numbers = &all[layout.start_offset()..];
        Ok(Self { numbers, dims: [b, h, w, c], strides: [sb, sh, sw, sc], is_doubled })
    }

    /// One picture that lies in one piece.
    pub(super) fn picture(numbers: &'a [f32], [height, width, channels]: [usize; 3]) -> Self {
        let strides = [numbers.len(), width * channels, channels, 1];
        Self { numbers, dims: [1, height, width, channels], strides, is_doubled: false }
    }

    /// Batch, height and width.
    pub(super) fn size(&self) -> [usize; 3] {
        let [batch, height, width, _] = self.dims;
        let times = if self.is_doubled { 2 } else { 1 };
        [batch, times * height, times * width]
    }

    pub(super) fn channels(&self) -> usize {
        self.dims[3]
    }

    /// Some rows of a picture where they lie, if they lie there as they are multiplied.
    pub(super) fn plain_rows(
        &self,
        picture: usize,
        first: usize,
        rows: usize,
    ) -> Option<&'a [f32]> {
        let [_, _, width, channels] = self.dims;
        let [batch_stride, row_stride, pixel_stride, channel_stride] = self.strides;
        let is_plain = !self.is_doubled
            && channel_stride == 1
            && pixel_stride == channels
            && row_stride == width * channels;
        let start = picture * batch_stride + first * row_stride;
        is_plain.then(|| &self.numbers[start..start + rows * row_stride])
    }

    /// Copies a row of a picture into pixels of `pixel` numbers, from number `offset` of each on.
    fn copy_row(&self, picture: usize, row: usize, pixel: usize, offset: usize, into: &mut [f32]) {
        let channels = self.channels();
        let [batch_stride, row_stride, pixel_stride, channel_stride] = self.strides;
        let shift = u32::from(self.is_doubled);
        let start = picture * batch_stride + (row >> shift) * row_stride;
        if channel_stride == 1 && pixel_stride == channels && pixel == channels && shift == 0 {
            into.copy_from_slice(&self.numbers[start..start + into.len()]);
            return;
        }
        for (column, into) in into.chunks_exact_mut(pixel).enumerate() {
            let start = start + (column >> shift) * pixel_stride;
            let into = &mut into[offset..offset + channels];
            if channel_stride == 1 {
                into.copy_from_slice(&self.numbers[start..start + channels]);
            } else {
                let from = self.numbers[start..].iter().step_by(channel_stride);
                into.iter_mut().zip(from).for_each(|(into, from)| *into = *from);
            }
        }
    }
}

/// Copies rows of a picture, from `first` on (0 where there are none), channels of all sources
/// side by side, with `before` and `after` pixels of zeros around each.
pub(super) fn copy_rows(
    sources: &[Source],
    picture: usize,
    first: isize,
    [before, after]: [usize; 2],
    channels: usize,
    into: &mut [f32],
) {
    let Some([_, height, width]) = sources.first().map(Source::size) else { return };
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
            source.copy_row(picture, row, channels, offset, inner);
            offset += source.channels();
        }
    }
}

/// What is added to the output, pixel by pixel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Added<'a> {
    Nothing,
    Shortcut(Shortcut<'a>),
    /// What the output holds before.
    Output,
}

/// [`Added`] to one pixel.
#[derive(Debug, Clone, Copy)]
pub(super) enum AddedPixel<'a> {
    Nothing,
    Numbers(&'a [f32]),
    Output,
}

impl<'a> Added<'a> {
    /// The rest, from a pixel on.
    pub(super) fn from(self, pixel: usize) -> Self {
        match self {
            Self::Shortcut(shortcut) => Self::Shortcut(shortcut.from(pixel)),
            other => other,
        }
    }

    /// What some channels of a pixel get.
    #[inline(always)]
    pub(super) fn at(self, pixel: usize, first: usize, channels: usize) -> AddedPixel<'a> {
        match self {
            Self::Nothing => AddedPixel::Nothing,
            Self::Shortcut(Shortcut { numbers, pixel_stride }) => {
                AddedPixel::Numbers(&numbers[pixel * pixel_stride + first..][..channels])
            }
            Self::Output => AddedPixel::Output,
        }
    }
}

/// Numbers to add to the output, pixel by pixel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shortcut<'a> {
    numbers: &'a [f32],
    pixel_stride: usize,
}

impl<'a> Shortcut<'a> {
    /// A tensor of these dimensions whose pixels lie at one distance from each other.
    pub(super) fn new(all: &'a [f32], layout: &Layout, dims: [usize; 4]) -> Result<Self> {
        let [_, height, width, channels] = dims;
        match *layout.stride() {
            [batch_stride, row_stride, pixel_stride, 1]
                if layout.dims() == dims
                    && pixel_stride >= channels
                    && row_stride == width * pixel_stride
                    && batch_stride == height * row_stride =>
            {
                Ok(Self { numbers: &all[layout.start_offset()..], pixel_stride })
            }
            _ => bail!("no shortcut of the shape {dims:?}: {layout:?}"),
        }
    }

    /// The rest, from a pixel on.
    pub(super) fn from(self, pixel: usize) -> Self {
        Self { numbers: &self.numbers[pixel * self.pixel_stride..], ..self }
    }

    /// Adds to pixels of `channels` numbers.
    #[inline(always)]
    pub(super) fn add_to(self, output: &mut [f32], channels: usize) {
        let pixels = output.chunks_exact_mut(channels).zip(self.numbers.chunks(self.pixel_stride));
        for (pixel, other) in pixels {
            pixel.iter_mut().zip(other).for_each(|(x, other)| *x += other);
        }
    }
}
