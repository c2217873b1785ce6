//! Arguments of self-attention.

/// A batch of sequences for self-attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionArgs<'a> {
    /// `(batch, time, 3, heads, head_width)`: queries (already scaled), keys, values.
    pub query_key_value: &'a [f32],
    /// Steps of every row, padding included.
    pub time: usize,
    /// Real steps of each row, 1 to `time`; later steps are not attended to.
    pub lengths: &'a [usize],
    /// Number of heads.
    pub heads: usize,
    /// Values of one head's query, key or value.
    pub head_width: usize,
}

/// Queries, keys or values.
#[derive(Debug, Clone, Copy)]
pub(super) enum QkvPart {
    Query = 0,
    Key = 1,
    Value = 2,
}

impl<'a> AttentionArgs<'a> {
    /// Values from one step's query, key or value to the next step's.
    pub(super) fn step_stride(&self) -> usize {
        3 * self.heads * self.head_width
    }

    /// Queries, keys or values of one head, from the first step on.
    pub(super) fn part(&self, head: &HeadQueries, part: QkvPart) -> &'a [f32] {
        let first = head.batch * self.time * self.step_stride();
        &self.query_key_value[first + (part as usize * self.heads + head.head) * self.head_width..]
    }
}

/// Some queries of one head, and the output rows that they fill.
pub(super) struct HeadQueries<'o> {
    pub(super) batch: usize,
    pub(super) head: usize,
    /// First query.
    pub(super) first: usize,
    /// One row of `head_width` values per query.
    pub(super) out: Vec<&'o mut [f32]>,
}
