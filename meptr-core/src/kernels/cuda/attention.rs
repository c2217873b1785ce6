//! Self-attention over heads.

use candle::{DType, Result, Tensor};

use super::launch::{Launch, LaunchGrid, is_aligned, suffix, supports, uninit_like};

/// Queries of a block, as in `attention.cuh`.
const QUERIES: usize = 128;
/// Keys of a tile, as in `attention.cuh`.
const KEYS: usize = 64;
/// Threads of a block, as in `attention.cuh`.
const THREADS: usize = 256;
/// Head widths that kernels are compiled for; narrower heads are padded with zeros.
const WIDTHS: [usize; 3] = [32, 64, 128];
/// Divisor of a supported head width.
const WIDTH_STEP: usize = 8;

/// Whether there is a kernel for heads of this width and a tensor like `x`.
pub fn supports_attention(x: &Tensor, head_width: usize) -> bool {
    supports(x) && head_width.is_multiple_of(WIDTH_STEP) && kernel_width(head_width).is_some()
}

fn kernel_width(head_width: usize) -> Option<usize> {
    WIDTHS.into_iter().find(|width| head_width <= *width)
}

/// Computes `softmax(query key^T) value` per head, flash attention (Dao 2023).
///
/// - `query_key_value`: `(batch * time, 3 * heads * width)` before the bias is added, queries scaled
/// - `bias`: `(3 * heads * width,)`
/// - `lengths`: u32 `(batch,)`, steps of each row that are attended to, 1 to `time`
/// - returns `(batch * time, heads * width)`
///
/// # Errors
/// When a shape differs from the above, a tensor is not contiguous and aligned, or the launch fails.
pub fn attention(
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
        candle::bail!("no attention kernel for {:?} and {heads} heads", query_key_value.dims());
    };
    let dtype = query_key_value.dtype();
    let out = uninit_like(query_key_value, (rows, heads * head_width))?;
    // Keys and values in 16 bits (f32 as two terms), a scale of each key, the largest value twice.
    let shared_bytes = 2 * KEYS * kernel_width * dtype.size_in_bytes() + KEYS * 4 + 8;
    let name = format!("attention_{}_{kernel_width}", suffix(dtype)?);
    let grid = LaunchGrid {
        blocks: [time.div_ceil(QUERIES), heads, batch],
        threads: THREADS,
        shared_bytes: shared_bytes.next_multiple_of(16),
    };
    Launch::new(name, query_key_value, grid)?
        .tensor(query_key_value)?
        .tensor(bias)?
        .typed(lengths, DType::U32)?
        .tensor(&out)?
        .size(time)?
        .size(head_width)?
        .run()?;
    Ok(out)
}
