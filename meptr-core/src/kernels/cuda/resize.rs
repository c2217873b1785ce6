//! Pictures of 8 bits to the inputs of networks, equal to what the processor makes of them.

use candle::{DType, Device, Result, Tensor};

use super::call::{Call, address, room_for};
use crate::RgbImage;
use crate::image::Taps;
use crate::image::sampling::{Pair, Sampling};

const BLOCK: usize = 256;
/// Of a part, in the table; as `Part` in `pictures.cuh`.
const FIELDS: usize = 17;
/// Values of a byte.
const BYTES: usize = 256;

/// One axis of a part's way to CLIP.
#[derive(Debug)]
pub(crate) struct Axis {
    /// Of each column or row that is computed, from the part's first on.
    pub(crate) taps: Vec<Taps>,
    /// Columns or rows that stay black before them.
    pub(crate) margin: usize,
}

/// A part of a picture on its way to CLIP.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    pub(crate) image: &'a RgbImage,
    /// Its first column and row.
    pub(crate) start: [usize; 2],
    pub(crate) across: Axis,
    pub(crate) down: Axis,
}

/// Resizes parts, across and then down, and gives the network's number for each byte:
/// `(parts, 3, height, width)`, f32.
pub(crate) fn resize_parts(
    parts: &[Part],
    (width, height): (usize, usize),
    values: &[[f32; BYTES]; 3],
    device: &Device,
) -> Result<Tensor> {
    let frames: Vec<Tensor> =
        parts.iter().map(|part| part.image.on_device(device)).collect::<Result<_>>()?;
    let mut table = vec![0; parts.len() * FIELDS];
    let values_at = table.len();
    for values in values {
        table.extend(values.iter().map(|value| value.to_bits()));
    }
    let (mut narrowed, mut most_pixels) = (0, 0);
    for (number, (part, frame)) in parts.iter().zip(&frames).enumerate() {
        let (columns, lines) = (part.across.taps.len(), part.down.taps.len());
        let first_row = part.down.taps.iter().map(|taps| taps.start).min().unwrap_or_default();
        let ends = part.down.taps.iter().map(|taps| taps.start + taps.weights.len());
        let rows = ends.max().unwrap_or_default() - first_row;
        let [across, most_across] = append(&mut table, &part.across.taps);
        let [down, most_down] = append(&mut table, &part.down.taps);
        let [frame, rows_at] = [address(frame)?, narrowed as u64].map(halves);
        let [left, top] = part.start;
        let fields: [usize; FIELDS] = [
            frame[0],
            frame[1],
            part.image.width(),
            left,
            top,
            rows_at[0],
            rows_at[1],
            first_row,
            rows,
            columns,
            lines,
            part.across.margin,
            part.down.margin,
            across,
            down,
            most_across,
            most_down,
        ];
        for (into, field) in table[number * FIELDS..].iter_mut().zip(fields) {
            *into = u32::try_from(field)
                .map_err(|_| candle::Error::Msg("a picture is too large".into()))?;
        }
        narrowed += rows * columns * 3;
        most_pixels = most_pixels.max(rows * columns);
    }
    let length = table.len();
    let table = Tensor::from_vec(table, length, device)?;
    let narrowed = room_for(DType::U8, narrowed, device)?;
    let out = room_for(DType::F32, (parts.len(), 3, height, width), device)?;
    let blocks = |pixels: usize| [pixels.div_ceil(BLOCK), parts.len(), 1];
    Call::new("narrow_parts".into(), &table, blocks(most_pixels), BLOCK, 0)?
        .tensor(&table)?
        .typed(&narrowed, DType::U8)?
        .run()?;
    Call::new("lower_parts".into(), &table, blocks(width * height), BLOCK, 0)?
        .tensor(&table)?
        .typed(&narrowed, DType::U8)?
        .typed(&out, DType::F32)?
        .size(values_at)?
        .size(width)?
        .size(height)?
        .run()?;
    Ok(out)
}

/// Where the taps begin in the table, and how many weights are kept of each.
fn append(table: &mut Vec<u32>, taps: &[Taps]) -> [usize; 2] {
    let (start, most) =
        (table.len(), taps.iter().map(|taps| taps.weights.len()).max().unwrap_or_default());
    table.extend(taps.iter().flat_map(|taps| [taps.start as u32, taps.weights.len() as u32]));
    for Taps { weights, .. } in taps {
        table.extend(weights.iter().map(|weight| weight.cast_unsigned()));
        table.extend(std::iter::repeat_n(0, most - weights.len()));
    }
    [start, most]
}

fn halves(number: u64) -> [usize; 2] {
    [(number & 0xffff_ffff) as usize, (number >> 32) as usize]
}

/// Samples pictures: `(pictures, rows, columns, 3)`, u8.
pub(crate) fn sample(images: &[&RgbImage], sampling: &Sampling, device: &Device) -> Result<Tensor> {
    let (width, height) = (sampling.columns.len(), sampling.rows.len());
    let pairs = sampling.columns.iter().chain(&sampling.rows).flat_map(|pair| match pair {
        Some(Pair { places: [first, second], weights: [near, far] }) => {
            [*first as u32, *second as u32, *near, *far]
        }
        None => [u32::MAX; 4],
    });
    let pairs: Vec<u32> = pairs.collect();
    let length = pairs.len();
    let pairs = Tensor::from_vec(pairs, length, device)?;
    let out = room_for(DType::U8, (images.len(), height, width, 3), device)?;
    for (number, image) in images.iter().enumerate() {
        let (frame, out) = (image.on_device(device)?, out.narrow(0, number, 1)?);
        let blocks = [(width * height).div_ceil(BLOCK), 1, 1];
        Call::new("sample_pairs".into(), &frame, blocks, BLOCK, 0)?
            .tensor(&frame)?
            .typed(&pairs, DType::U32)?
            .tensor(&out)?
            .size(image.width())?
            .size(width)?
            .size(height)?
            .size(usize::from(sampling.fill))?
            .size(sampling.blending as usize)?
            .run()?;
    }
    Ok(out)
}
