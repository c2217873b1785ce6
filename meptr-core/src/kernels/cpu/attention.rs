//! Self-attention over heads that never holds all scores.

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::attention_args::{AttentionArgs, HeadQueries};
use super::isa::Isa;
use super::scratch::zeros;
use super::simd;
use crate::Precision;

/// Queries of a task are a multiple of this.
const MIN_QUERIES: usize = 32;

/// Computes `softmax(query key^T) value` per head.
///
/// - `precision`: least precision of the factors; sums are f32
/// - returns `(batch, time, heads * head_width)`
///
/// # Panics
/// When sizes do not fit each other; callers check shapes.
pub fn attention(precision: Precision, args: AttentionArgs) -> Vec<f32> {
    attention_on(Isa::best(precision), args)
}

fn attention_on(isa: Isa, args: AttentionArgs) -> Vec<f32> {
    let AttentionArgs { time, lengths, heads, head_width, .. } = args;
    let width = heads * head_width;
    assert_eq!(args.query_key_value.len(), 3 * lengths.len() * time * width);
    let mut out = zeros(lengths.len() * time * width);
    tasks(args, &mut out).into_par_iter().for_each(|queries| match isa {
        Isa::Simd(arch) => simd::attention(arch, args, queries),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(amx, terms) => amx::attention(amx, terms, args, queries),
    });
    out
}

/// Splits the output into tasks. A task packs its head's keys once, so it takes all of the head's
/// queries unless threads would be idle.
fn tasks<'o>(args: AttentionArgs, out: &'o mut [f32]) -> Vec<HeadQueries<'o>> {
    let AttentionArgs { time, lengths, heads, head_width, .. } = args;
    let width = heads * head_width;
    let wanted = 2 * rayon::current_num_threads();
    let shares = wanted.div_ceil((lengths.len() * heads).max(1));
    let share = time.div_ceil(shares).next_multiple_of(MIN_QUERIES).min(time.max(1));
    let mut tasks: Vec<HeadQueries> = Vec::new();
    for (batch, rows) in out.chunks_exact_mut((time * width).max(1)).enumerate() {
        for (number, rows) in rows.chunks_mut(share * width).enumerate() {
            let mut by_head: Vec<HeadQueries> = (0..heads)
                .map(|head| HeadQueries { batch, head, first: number * share, out: Vec::new() })
                .collect();
            for row in rows.chunks_exact_mut(width) {
                let columns = row.chunks_exact_mut(head_width);
                by_head.iter_mut().zip(columns).for_each(|(head, columns)| head.out.push(columns));
            }
            tasks.append(&mut by_head);
        }
    }
    tasks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Attention by its definition, in f64.
    fn reference(args: AttentionArgs) -> Vec<f64> {
        let AttentionArgs { query_key_value, time, lengths, heads, head_width } = args;
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
        check_on(&Isa::all(), 5e-6, time, lengths, heads, head_width);
    }

    fn check_on(
        isas: &[Isa],
        tolerance: f64,
        time: usize,
        lengths: &[usize],
        heads: usize,
        head_width: usize,
    ) {
        let count = 3 * lengths.len() * time * heads * head_width;
        let query_key_value: Vec<f32> =
            (0..count).map(|at| ((at * at) as f32 * 0.17).sin()).collect();
        let args =
            AttentionArgs { query_key_value: &query_key_value, time, lengths, heads, head_width };
        for isa in isas {
            for (found, expected) in attention_on(*isa, args).iter().zip(reference(args)) {
                let off = (f64::from(*found) - expected).abs();
                assert!(off < tolerance, "{found} is not {expected}");
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
    fn attention_in_bf16_is_near() {
        check_on(&[Isa::best(Precision::Bf16)], 0.03, 70, &[66], 1, 40);
    }

    #[test]
    fn long_sequences_equal_their_definition() {
        check(400, &[390], 1, 64);
    }
}
