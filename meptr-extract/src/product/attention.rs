//! Attention over heads without holding all scores.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::kernel::{Next, PANEL_VECTORS, Times};
use super::multiply::MAX_CHAIN;
use super::{dispatch, pack};
use crate::backbones::vector_math;

/// Queries whose scores are held at a time.
const QUERIES_AT_ONCE: usize = 48;

/// Sequences to attend within.
#[derive(Debug, Clone, Copy)]
pub struct Attend<'a> {
    /// `(batch, time, 3, heads, head_width)`: scaled queries, keys, values.
    pub query_key_value: &'a [f32],
    /// Steps of every row.
    pub time: usize,
    /// Per row the number of real steps, 1 to `time`; later ones are not attended to.
    pub lengths: &'a [usize],
    /// The number of heads.
    pub heads: usize,
    /// Numbers of a head's query, key or value.
    pub head_width: usize,
}

/// `softmax(query key^T) value` per head, `(batch, time, heads * head_width)`.
///
/// # Panics
/// When sizes do not fit each other; callers check shapes.
pub fn attend(attend: Attend) -> Vec<f32> {
    attend_with(Arch::new(), attend)
}

fn attend_with(arch: Arch, attend: Attend) -> Vec<f32> {
    let Attend { time, lengths, heads, head_width, .. } = attend;
    let width = heads * head_width;
    assert_eq!(attend.query_key_value.len(), 3 * lengths.len() * time * width);
    let mut out = vec![0.0; lengths.len() * time * width];
    // A task lays out a head's keys once, so it takes all queries unless threads would wait.
    let tasks = 2 * rayon::current_num_threads();
    let shares = tasks.div_ceil((lengths.len() * heads).max(1));
    let share = time.div_ceil(shares).max(QUERIES_AT_ONCE.min(time)).max(1);
    let mut work: Vec<Head> = Vec::new();
    for (batch, lines) in out.chunks_exact_mut((time * width).max(1)).enumerate() {
        for (number, lines) in lines.chunks_mut(share * width).enumerate() {
            let mut here: Vec<Head> = (0..heads)
                .map(|head| Head { batch, head, first: number * share, out: Vec::new() })
                .collect();
            for line in lines.chunks_exact_mut(width) {
                let columns = line.chunks_exact_mut(head_width);
                here.iter_mut().zip(columns).for_each(|(head, columns)| head.out.push(columns));
            }
            work.append(&mut here);
        }
    }
    work.into_par_iter().for_each(|head| dispatch(arch, Run { arch, attend, head }));
    out
}

/// Some queries of one head, and where to write what they read.
struct Head<'o> {
    batch: usize,
    head: usize,
    first: usize,
    out: Vec<&'o mut [f32]>,
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
        let Self { arch, attend, head: Head { batch, head, first, mut out } } = self;
        let Attend { query_key_value, time, lengths, heads, head_width } = attend;
        let (step, keys) = (3 * heads * head_width, lengths[batch]);
        let part = |index: usize| {
            &query_key_value[batch * time * step + (index * heads + head) * head_width..]
        };
        let panel = PANEL_VECTORS * S::F32_LANES;
        let mut laid_out = vec![0.0; keys.div_ceil(panel) * head_width * panel];
        pack::pack(arch, part(1), step, keys, head_width, panel, &mut laid_out);
        let values = value_panels(part(2), step, keys, head_width, panel);
        let mut nothing = Next::NOTHING;
        let mut scores = vec![0.0; QUERIES_AT_ONCE.min(out.len()) * keys];
        for (number, out) in out.chunks_mut(QUERIES_AT_ONCE).enumerate() {
            let queries = &part(0)[(first + number * QUERIES_AT_ONCE) * step..];
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by its definition, in f64.
    fn plain(attend: Attend) -> Vec<f64> {
        let Attend { query_key_value, time, lengths, heads, head_width } = attend;
        let width = heads * head_width;
        let at = |batch: usize, step: usize, part: usize, head: usize| {
            let start = ((batch * time + step) * 3 + part) * width + head * head_width;
            &query_key_value[start..start + head_width]
        };
        let mut out = vec![0.0; lengths.len() * time * width];
        for (batch, length) in lengths.iter().enumerate() {
            for (step, head) in (0..time).flat_map(|step| (0..heads).map(move |head| (step, head)))
            {
                let query = at(batch, step, 0, head);
                let weights: Vec<f64> = (0..*length)
                    .map(|key| {
                        let products = query.iter().zip(at(batch, key, 1, head));
                        products.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>().exp()
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                let into = &mut out[(batch * time + step) * width + head * head_width..];
                for (key, weight) in weights.iter().enumerate() {
                    for (into, value) in into.iter_mut().zip(at(batch, key, 2, head)) {
                        *into += weight / sum * f64::from(*value);
                    }
                }
            }
        }
        out
    }

    fn check(time: usize, lengths: &[usize], heads: usize, head_width: usize) {
        let count = 3 * lengths.len() * time * heads * head_width;
        let query_key_value: Vec<f32> =
            (0..count).map(|at| ((at * at) as f32 * 0.17).sin()).collect();
        let attend = Attend { query_key_value: &query_key_value, time, lengths, heads, head_width };
        for arch in [Arch::Scalar, Arch::new()] {
            for (found, expected) in attend_with(arch, attend).iter().zip(plain(attend)) {
                assert!((f64::from(*found) - expected).abs() < 5e-6, "{found} is not {expected}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn attention_equals_its_definition(
            time in 1usize..70,
            shares in prop::collection::vec(0.0f64..1.0, 1..4),
            heads in 1usize..4,
            head_width in 1usize..40,
        ) {
            let lengths: Vec<usize> =
                shares.iter().map(|share| 1 + (share * (time - 1) as f64) as usize).collect();
            check(time, &lengths, heads, head_width);
        }
    }

    #[test]
    fn long_sequences_equal_their_definition() {
        check(400, &[390], 1, 64);
    }
}
