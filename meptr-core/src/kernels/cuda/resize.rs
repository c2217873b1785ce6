//! Resizing and sampling of 8-bit images, equal to the CPU's results bit for bit.

use candle::{DType, Device, Result, Tensor};

use super::launch::{Launch, LaunchGrid, address, uninit};
use crate::kernels::bicubic::BicubicTaps;
use crate::kernels::bilinear::{BilinearTap, SamplingTable};

const BLOCK_THREADS: usize = 256;
/// Fields of a crop in the table, as `Crop` in `resize.cuh`.
const FIELDS: usize = 17;
/// Values of a byte.
const BYTES: usize = 256;

/// One axis of a crop's resizing.
#[derive(Debug)]
pub struct ResizeAxis {
    /// Taps of each computed column or row, relative to the crop's first.
    pub taps: Vec<BicubicTaps>,
    /// Columns or rows that stay black before them.
    pub margin: usize,
}

/// A crop of an image and the way it is resized.
#[derive(Debug)]
pub struct ResizeSource {
    /// Bytes of the whole image, u8, 3 per pixel, on the device.
    pub image: Tensor,
    /// Pixels of a row of the image.
    pub image_width: usize,
    /// First column and row of the crop.
    pub start: [usize; 2],
    /// Resizing of the columns.
    pub across: ResizeAxis,
    /// Resizing of the rows.
    pub down: ResizeAxis,
}

/// Resizes crops, across and then down, and maps each byte to the network's input value.
///
/// - `size`: width and height of the result
/// - `values`: input value of each byte, per channel
/// - returns `(crops, 3, height, width)`, f32
///
/// # Errors
/// When an image is too large for 32-bit indices or a launch fails.
pub fn resize_crops(
    crops: &[ResizeSource],
    [width, height]: [usize; 2],
    values: &[[f32; BYTES]; 3],
    device: &Device,
) -> Result<Tensor> {
    let CropTable { table, values_at, narrowed_bytes, max_pixels } = crop_table(crops, values)?;
    let length = table.len();
    let table = Tensor::from_vec(table, length, device)?;
    let narrowed = uninit(DType::U8, narrowed_bytes, device)?;
    let out = uninit(DType::F32, (crops.len(), 3, height, width), device)?;
    Launch::new("resize_across".into(), &table, grid(max_pixels, crops.len()))?
        .tensor(&table)?
        .typed(&narrowed, DType::U8)?
        .run()?;
    Launch::new("resize_down".into(), &table, grid(width * height, crops.len()))?
        .tensor(&table)?
        .typed(&narrowed, DType::U8)?
        .typed(&out, DType::F32)?
        .size(values_at)?
        .size(width)?
        .size(height)?
        .run()?;
    Ok(out)
}

/// A thread per pixel, a row of blocks per image.
fn grid(pixels: usize, images: usize) -> LaunchGrid {
    let blocks = [pixels.div_ceil(BLOCK_THREADS), images, 1];
    LaunchGrid { blocks, threads: BLOCK_THREADS, shared_bytes: 0 }
}

/// Crops as the kernels read them.
struct CropTable {
    /// Fields of all crops, then the bits of the input values, then the taps.
    table: Vec<u32>,
    /// Index of the input values in the table.
    values_at: usize,
    /// Bytes of all crops between the two passes.
    narrowed_bytes: usize,
    /// Most pixels of a crop between the two passes.
    max_pixels: usize,
}

fn crop_table(crops: &[ResizeSource], values: &[[f32; BYTES]; 3]) -> Result<CropTable> {
    let mut table = vec![0; crops.len() * FIELDS];
    let values_at = table.len();
    for values in values {
        table.extend(values.iter().map(|value| value.to_bits()));
    }
    let (mut narrowed, mut max_pixels) = (0, 0);
    for (number, crop) in crops.iter().enumerate() {
        let (columns, lines) = (crop.across.taps.len(), crop.down.taps.len());
        let first_row = crop.down.taps.iter().map(|taps| taps.start).min().unwrap_or_default();
        let ends = crop.down.taps.iter().map(|taps| taps.start + taps.weights.len());
        let rows = ends.max().unwrap_or_default() - first_row;
        let across = append_taps(&mut table, &crop.across.taps);
        let down = append_taps(&mut table, &crop.down.taps);
        let [frame, rows_at] = [address(&crop.image)?, narrowed as u64].map(halves);
        let [left, top] = crop.start;
        let fields: [usize; FIELDS] = [
            frame[0],
            frame[1],
            crop.image_width,
            left,
            top,
            rows_at[0],
            rows_at[1],
            first_row,
            rows,
            columns,
            lines,
            crop.across.margin,
            crop.down.margin,
            across.start,
            down.start,
            across.stride,
            down.stride,
        ];
        for (into, field) in table[number * FIELDS..].iter_mut().zip(fields) {
            *into = u32::try_from(field)
                .map_err(|_| candle::Error::Msg("an image is too large for the GPU".into()))?;
        }
        narrowed += rows * columns * 3;
        max_pixels = max_pixels.max(rows * columns);
    }
    Ok(CropTable { table, values_at, narrowed_bytes: narrowed, max_pixels })
}

/// Position of an axis' taps in the table.
struct TableTaps {
    start: usize,
    /// Weights that are stored per tap.
    stride: usize,
}

fn append_taps(table: &mut Vec<u32>, taps: &[BicubicTaps]) -> TableTaps {
    let start = table.len();
    let stride = taps.iter().map(|taps| taps.weights.len()).max().unwrap_or_default();
    table.extend(taps.iter().flat_map(|taps| [taps.start as u32, taps.weights.len() as u32]));
    for BicubicTaps { weights, .. } in taps {
        table.extend(weights.iter().map(|weight| weight.cast_unsigned()));
        table.extend(std::iter::repeat_n(0, stride - weights.len()));
    }
    TableTaps { start, stride }
}

/// Lower and upper 32 bits.
fn halves(value: u64) -> [usize; 2] {
    [(value & 0xffff_ffff) as usize, (value >> 32) as usize]
}

/// An image to sample.
#[derive(Debug)]
pub struct SampleSource {
    /// Bytes of the whole image, u8, 3 per pixel, on the device.
    pub image: Tensor,
    /// Pixels of a row of the image.
    pub width: usize,
}

/// Samples images of one size: `(images, rows, columns, 3)`, u8.
///
/// # Errors
/// When a launch fails.
pub fn sample(images: &[SampleSource], table: &SamplingTable, device: &Device) -> Result<Tensor> {
    let (width, height) = (table.columns.len(), table.rows.len());
    let taps = table.columns.iter().chain(&table.rows).flat_map(|tap| match tap {
        Some(BilinearTap { indices: [first, second], weights: [near, far] }) => {
            [*first as u32, *second as u32, *near, *far]
        }
        None => [u32::MAX; 4],
    });
    let taps: Vec<u32> = taps.collect();
    let length = taps.len();
    let taps = Tensor::from_vec(taps, length, device)?;
    let out = uninit(DType::U8, (images.len(), height, width, 3), device)?;
    for (number, source) in images.iter().enumerate() {
        let out = out.narrow(0, number, 1)?;
        Launch::new("sample_bilinear".into(), &source.image, grid(width * height, 1))?
            .tensor(&source.image)?
            .typed(&taps, DType::U32)?
            .tensor(&out)?
            .size(source.width)?
            .size(width)?
            .size(height)?
            .size(usize::from(table.fill))?
            .size(table.blending as usize)?
            .run()?;
    }
    Ok(out)
}
