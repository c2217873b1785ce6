//! Attention with the vectors of the CPU.

use pulp::{Arch, Simd, WithSimd};

use super::super::attention::{Attend, Head};
use super::super::dispatch;
use super::kernel::{Next, PANEL_VECTORS, Times};
use super::multiply::MAX_CHAIN;
use super::pack;
use crate::backbones::vector_math;

/// Queries whose scores are held at a time.
const QUERIES_AT_ONCE: usize = 48;

/// Sets what some queries of a head read.
pub(in super::super) fn attend(arch: Arch, attend: Attend, head: Head) {
    dispatch(arch, Run { arch, attend, head });
}

struct Run<'a, 'o> {
    arch: Arch,
    attend: Attend<'a>,
    head: Head<'o>,
}

impl WithSimd for Run<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { arch, attend, mut head } = self;
        let Attend { lengths, head_width, .. } = attend;
        let (step, keys) = (attend.step(), lengths[head.batch]);
        let [queries, key_of, value_of] = [0, 1, 2].map(|index| attend.part(&head, index));
        let panel = PANEL_VECTORS * S::F32_LANES;
        let mut laid_out = vec![0.0; keys.div_ceil(panel) * head_width * panel];
        pack::pack(arch, key_of, step, keys, head_width, panel, &mut laid_out);
        let values = value_panels(value_of, step, keys, head_width, panel);
        let mut nothing = Next::NOTHING;
        let mut scores = vec![0.0; QUERIES_AT_ONCE.min(head.out.len()) * keys];
        for (number, out) in head.out.chunks_mut(QUERIES_AT_ONCE).enumerate() {
            let queries = &queries[(head.first + number * QUERIES_AT_ONCE) * step..];
            let mut lines: Vec<&mut [f32]> =
                scores.chunks_exact_mut(keys).take(out.len()).collect();
            for (number, panel_of) in laid_out.chunks_exact(head_width * panel).enumerate() {
                let times = Times {
                    x: queries,
                    row_step: step,
                    depth: head_width,
                    panel: panel_of,
                    adds: false,
                };
                times.run(simd, &mut lines, number * panel, &mut nothing);
            }
            lines.iter_mut().for_each(|line| vector_math::softmax(line));
            for (number, panel_of) in values.chunks_exact(keys * panel).enumerate() {
                for start in (0..keys).step_by(MAX_CHAIN) {
                    let depth = MAX_CHAIN.min(keys - start);
                    let panel_of = &panel_of[start * panel..][..depth * panel];
                    let x = &scores[start..];
                    let times =
                        Times { x, row_step: keys, depth, panel: panel_of, adds: start > 0 };
                    times.run(simd, out, number * panel, &mut nothing);
                }
            }
        }
    }
}

/// Values are in the kernel's order as they are; they are only brought together.
fn value_panels(values: &[f32], step: usize, keys: usize, width: usize, panel: usize) -> Vec<f32> {
    let mut panels = vec![0.0; width.div_ceil(panel) * keys * panel];
    for (number, panel_of) in panels.chunks_exact_mut(keys * panel).enumerate() {
        let (first, last) = (number * panel, width.min((number + 1) * panel));
        for (key, into) in panel_of.chunks_exact_mut(panel).enumerate() {
            into[..last - first].copy_from_slice(&values[key * step..][first..last]);
        }
    }
    panels
}
