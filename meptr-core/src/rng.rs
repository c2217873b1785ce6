//! Seed streams by name: the only source of randomness.
//!
//! One seed gives any number of independent streams, so that initialisation, dropout and shuffling
//! each repeat on their own, on any machine and device.

use serde::{Deserialize, Serialize};

/// Gives out a [`RandomStream`] per purpose, all from one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeedStreams {
    seed: u64,
}

impl SeedStreams {
    /// Streams that repeat whenever `seed` does.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The stream of that name; always the same one for the same seed and name.
    pub fn stream(&self, name: &str) -> RandomStream {
        let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        let mut position = self.seed;
        let mixed_seed = split_mix(&mut position);
        let mut position = hash ^ mixed_seed;
        RandomStream { state: std::array::from_fn(|_| split_mix(&mut position)) }
    }
}

/// Xoshiro256++ of Blackman and Vigna, <https://prng.di.unimi.it>; its state can be saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomStream {
    state: [u64; 4],
}

impl RandomStream {
    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// Uniform in `0.0..1.0`, in steps of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normal with mean 0 and variance 1, by the method of Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Uniform whole number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The high half of a 128-bit product: its bias, below bound / 2^64, cannot be noticed.
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Puts `items` into random order, every order equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// `SplitMix64`: moves `position` on and returns 64 mixed bits.
fn split_mix(position: &mut u64) -> u64 {
    *position = position.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = *position;
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_by_seed_and_name_and_differ_otherwise() {
        let first = |seed, name| SeedStreams::new(seed).stream(name).next_u64();
        assert_eq!(first(3, "dropout"), first(3, "dropout"));
        assert_ne!(first(3, "dropout"), first(3, "order"));
        assert_ne!(first(3, "dropout"), first(4, "dropout"));
    }

    /// Reference: first outputs of the authors' C program for the state 1, 2, 3, 4.
    #[test]
    fn numbers_are_those_of_xoshiro256_plus_plus() {
        let mut stream = RandomStream { state: [1, 2, 3, 4] };
        let found: [u64; 4] = std::array::from_fn(|_| stream.next_u64());
        assert_eq!(found, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn a_saved_stream_goes_on_where_it_was() {
        let mut stream = SeedStreams::new(5).stream("x");
        stream.next_u64();
        let json = serde_json::to_string(&stream).unwrap();
        let mut restored: RandomStream = serde_json::from_str(&json).unwrap();
        assert_eq!(stream.next_u64(), restored.next_u64());
    }

    #[test]
    fn moments_and_ranges_are_right() {
        let mut stream = SeedStreams::new(1).stream("moments");
        let count = 20_000;
        let normals: Vec<f64> = (0..count).map(|_| stream.normal()).collect();
        let mean = normals.iter().sum::<f64>() / f64::from(count);
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / f64::from(count);
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        assert!((0..1000).all(|_| stream.below(7) < 7));
        let mut items: Vec<usize> = (0..100).collect();
        stream.shuffle(&mut items);
        assert!(items != (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
