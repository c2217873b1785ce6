//! Attention over heads without holding all scores.

use meptr_core::Precision;
use rayon::prelude::*;

use super::scratch::zeros;
#[cfg(target_arch = "x86_64")]
use super::tiles;
use super::{Unit, vectors};

/// Queries of a task are a multiple of this.
const MIN_QUERIES: usize = 32;

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

impl<'a> Attend<'a> {
    /// From the start of a query, key or value to that of the next step's.
    pub(super) fn step(&self) -> usize {
        3 * self.heads * self.head_width
    }

    /// Queries (0), keys (1) or values (2) of a head, from the first step's on.
    pub(super) fn part(&self, head: &Head, index: usize) -> &'a [f32] {
        let first = head.batch * self.time * self.step();
        &self.query_key_value[first + (index * self.heads + head.head) * self.head_width..]
    }
}

/// `softmax(query key^T) value` per head, `(batch, time, heads * head_width)`, with factors of this
/// precision at least.
///
/// # Panics
/// When sizes do not fit each other; callers check shapes.
pub fn attend(precision: Precision, attend: Attend) -> Vec<f32> {
    attend_on(Unit::best(precision), attend)
}

fn attend_on(unit: Unit, attend: Attend) -> Vec<f32> {
    let Attend { time, lengths, heads, head_width, .. } = attend;
    let width = heads * head_width;
    assert_eq!(attend.query_key_value.len(), 3 * lengths.len() * time * width);
    let mut out = zeros(lengths.len() * time * width);
    // A task lays out a head's keys once, so it takes all queries unless threads would wait.
    let tasks = 2 * rayon::current_num_threads();
    let shares = tasks.div_ceil((lengths.len() * heads).max(1));
    let share = time.div_ceil(shares).next_multiple_of(MIN_QUERIES).min(time.max(1));
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
    work.into_par_iter().for_each(|head| match unit {
        Unit::Vectors(arch) => vectors::attend(arch, attend, head),
        #[cfg(target_arch = "x86_64")]
        Unit::Tiles(tiles, pieces) => tiles::attend(tiles, pieces, attend, head),
    });
    out
}

/// Some queries of one head, and where to write what they read.
pub(super) struct Head<'o> {
    pub(super) batch: usize,
    head: usize,
    /// The first query.
    pub(super) first: usize,
    pub(super) out: Vec<&'o mut [f32]>,
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
        check_on(&Unit::all(), 5e-6, time, lengths, heads, head_width);
    }

    fn check_on(
        units: &[Unit],
        tolerance: f64,
        time: usize,
        lengths: &[usize],
        heads: usize,
        head_width: usize,
    ) {
        let count = 3 * lengths.len() * time * heads * head_width;
        let query_key_value: Vec<f32> =
            (0..count).map(|at| ((at * at) as f32 * 0.17).sin()).collect();
        let attend = Attend { query_key_value: &query_key_value, time, lengths, heads, head_width };
        for unit in units {
            for (found, expected) in attend_on(*unit, attend).iter().zip(plain(attend)) {
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
    fn attention_of_bf16_is_near() {
        check_on(&[Unit::best(Precision::Bf16)], 0.03, 70, &[66], 1, 40);
    }

    #[test]
    fn long_sequences_equal_their_definition() {
        check(400, &[390], 1, 64);
    }
}
