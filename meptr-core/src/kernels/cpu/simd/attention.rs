//! Attention on vector instructions.

use pulp::{Arch, Simd, WithSimd};

use super::super::attention_args::{AttentionArgs, HeadQueries, QkvPart};
use super::super::dispatch::dispatch;
use super::super::row_ops;
use super::gemm::MAX_CHAIN;
use super::microkernel::{MicroKernel, PANEL_VECTORS, RowPrefetch};
use super::pack::{PackSource, pack};

/// Queries whose scores are held at a time.
const QUERIES_PER_BLOCK: usize = 48;

/// Computes the attention of some queries of one head.
pub(in super::super) fn attention(arch: Arch, args: AttentionArgs, queries: HeadQueries) {
    dispatch(arch, SimdAttention { arch, args, queries });
}

struct SimdAttention<'a, 'o> {
    arch: Arch,
    args: AttentionArgs<'a>,
    queries: HeadQueries<'o>,
}

impl WithSimd for SimdAttention<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { arch, args, queries: mut head } = self;
        let AttentionArgs { lengths, head_width, .. } = args;
        let (stride, keys) = (args.step_stride(), lengths[head.batch]);
        let [queries, key_values, value_values] =
            [QkvPart::Query, QkvPart::Key, QkvPart::Value].map(|part| args.part(&head, part));
        let panel = PANEL_VECTORS * S::F32_LANES;
        let mut packed_keys = vec![0.0; keys.div_ceil(panel) * head_width * panel];
        let source =
            PackSource { values: key_values, row_stride: stride, count: keys, depth: head_width };
        pack(arch, source, panel, &mut packed_keys);
        let packed_values = pack_values(value_values, stride, [keys, head_width], panel);
        let mut no_prefetch = RowPrefetch::NONE;
        let mut scores = vec![0.0; QUERIES_PER_BLOCK.min(head.out.len()) * keys];
        for (number, out) in head.out.chunks_mut(QUERIES_PER_BLOCK).enumerate() {
            let queries = &queries[(head.first + number * QUERIES_PER_BLOCK) * stride..];
            let mut rows: Vec<&mut [f32]> = scores.chunks_exact_mut(keys).take(out.len()).collect();
            for (number, packed) in packed_keys.chunks_exact(head_width * panel).enumerate() {
                let kernel = MicroKernel {
                    x: queries,
                    row_stride: stride,
                    depth: head_width,
                    panel: packed,
                    accumulate: false,
                };
                kernel.run(simd, &mut rows, number * panel, &mut no_prefetch);
            }
            rows.iter_mut().for_each(|row| row_ops::softmax_inline(row));
            for (number, packed) in packed_values.chunks_exact(keys * panel).enumerate() {
                for start in (0..keys).step_by(MAX_CHAIN) {
                    let depth = MAX_CHAIN.min(keys - start);
                    let kernel = MicroKernel {
                        x: &scores[start..],
                        row_stride: keys,
                        depth,
                        panel: &packed[start * panel..][..depth * panel],
                        accumulate: start > 0,
                    };
                    kernel.run(simd, out, number * panel, &mut no_prefetch);
                }
            }
        }
    }
}

/// Packs the values of `keys` keys, `width` each. They lie in the micro-kernel's order already and
/// are only brought together.
fn pack_values(values: &[f32], stride: usize, [keys, width]: [usize; 2], panel: usize) -> Vec<f32> {
    let mut panels = vec![0.0; width.div_ceil(panel) * keys * panel];
    for (number, packed) in panels.chunks_exact_mut(keys * panel).enumerate() {
        let (first, last) = (number * panel, width.min((number + 1) * panel));
        for (key, into) in packed.chunks_exact_mut(panel).enumerate() {
            into[..last - first].copy_from_slice(&values[key * stride..][first..last]);
        }
    }
    panels
}
