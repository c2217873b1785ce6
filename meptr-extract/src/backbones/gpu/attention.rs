//! Attention over heads.

use candle::{DType, Result, Tensor};

use super::operations::{Softmax, SplitHeads, SwapMiddle};

/// Bytes of scores at a time in 16 bits: what a GPU's second-level cache holds, so that they are
/// written, made shares and read without going through memory.
const SCORES_AT_ONCE: usize = 32 << 20;
/// The same in f32, whose products take so long that memory does not matter: few large ones.
const LONG_SCORES_AT_ONCE: usize = 256 << 20;
/// Sequences are filled up to a multiple of this, since products of numbers that do not start at a
/// multiple of 16 bytes are slow.
const STEPS: usize = 8;

/// `softmax(query key^T) value` per head.
///
/// - `query_key_value`: `(batch * time, 3 * heads * width)` without the bias `(3 * heads * width,)`,
///   queries scaled
/// - `lengths`: per row of the batch the steps that are attended to, 1 to `time`
/// - returns `(batch * time, heads * width)`
pub(crate) fn attend(
    query_key_value: &Tensor,
    bias: &Tensor,
    lengths: &[usize],
    heads: usize,
) -> Result<Tensor> {
    let (rows, width) = query_key_value.dims2()?;
    let (batch, head_width) = (lengths.len(), width / 3 / heads);
    let time = rows / batch;
    let padded = time.next_multiple_of(STEPS);
    let split = SplitHeads { batch, heads, padded };
    let split = query_key_value.apply_op2_no_bwd(bias, &split)?;
    let split = split.reshape((3, batch * heads, padded, head_width))?;
    let part = |index| split.narrow(0, index, 1)?.squeeze(0);
    let (query, key, value) = (part(0)?, part(1)?.t()?, part(2)?);
    let lengths: Vec<u32> = lengths.iter().map(|length| *length as u32).collect();
    let lengths = Tensor::new(lengths, query_key_value.device())?;
    let (allowed, number) = match query_key_value.dtype() {
        DType::F32 => (LONG_SCORES_AT_ONCE, size_of::<f32>()),
        _ => (SCORES_AT_ONCE, size_of::<u16>()),
    };
    let at_once = (allowed / (padded * padded * number)).max(1);
    let read: Result<Vec<Tensor>> = (0..batch * heads)
        .step_by(at_once)
        .map(|first| {
            let here = |part: &Tensor| part.narrow(0, first, at_once.min(batch * heads - first));
            let scores = here(&query)?.matmul(&here(&key)?)?;
            let softmax = Softmax { first: first * padded, rows_each: heads * padded };
            scores.inplace_op2(&lengths, &softmax)?;
            scores.matmul(&here(&value)?)
        })
        .collect();
    let read = Tensor::cat(&read?, 0)?.reshape((batch, heads, padded, head_width))?;
    read.apply_op1_no_bwd(&SwapMiddle { kept: time })?.reshape((rows, heads * head_width))
}
