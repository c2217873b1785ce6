//! Attention over heads.

use candle::{DType, Result, Tensor};

use super::call::{Call, is_aligned, room, suffix};

/// As in `attention.cuh`.
const QUERIES: usize = 128;
const KEYS: usize = 64;
const THREADS: usize = 256;
/// Widths of a head that there are kernels for; a narrower head is filled up with zeros.
const WIDTHS: [usize; 3] = [32, 64, 128];
/// What the width of a head is a multiple of.
const WIDTH_STEP: usize = 8;

/// Whether there is a kernel for heads of this width, on a tensor that kernels take.
pub(crate) fn attends(x: &Tensor, head_width: usize) -> bool {
    super::takes(x) && head_width.is_multiple_of(WIDTH_STEP) && kernel_width(head_width).is_some()
}

fn kernel_width(head_width: usize) -> Option<usize> {
    WIDTHS.into_iter().find(|width| head_width <= *width)
}

/// `softmax(query key^T) value` per head.
///
/// - `query_key_value`: `(batch * time, 3 * heads * width)` without the bias `(3 * heads * width,)`,
///   queries scaled
/// - `lengths`: u32 `(batch,)`, the steps that are attended to, 1 to `time`
/// - returns `(batch * time, heads * width)`
pub(crate) fn attend(
    query_key_value: &Tensor,
    bias: &Tensor,
    lengths: &Tensor,
    heads: usize,
) -> Result<Tensor> {
    let (rows, width) = query_key_value.dims2()?;
    let (batch, head_width) = (lengths.dims1()?, width / 3 / heads);
    let time = rows / batch;
    let fits = (rows, width) == (batch * time, 3 * heads * head_width) && bias.dims() == [width];
    let is_aligned = is_aligned(query_key_value)? && is_aligned(bias)?;
    let (true, true, Some(kernel_width)) = (fits, is_aligned, kernel_width(head_width)) else {
        candle::bail!("{:?} cannot be read by {heads} heads", query_key_value.dims());
    };
    let dtype = query_key_value.dtype();
    let out = room(query_key_value, (rows, heads * head_width))?;
    // Keys and values in 16 bits, f32 in two pieces; a scale of each key; the largest value twice.
    let shared_bytes = 2 * KEYS * kernel_width * dtype.size_in_bytes() + KEYS * 4 + 8;
    let name = format!("attend_{}_{kernel_width}", suffix(dtype)?);
    let blocks = [time.div_ceil(QUERIES), heads, batch];
    Call::new(name, query_key_value, blocks, THREADS, shared_bytes.next_multiple_of(16))?
        .tensor(query_key_value)?
        .tensor(bias)?
        .typed(lengths, DType::U32)?
        .tensor(&out)?
        .size(time)?
        .size(head_width)?
        .run()?;
    Ok(out)
}
