//! Choosing one token from logits.

use super::logit_filters::log_sum_exp;

/// A seeded source of random numbers (SplitMix64, Steele et al. 2014), the same on any machine.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// A stream of its own for every list of numbers.
    pub(super) fn stream(seeds: &[u64]) -> Self {
        let mut random = Self(0);
        for seed in seeds {
            random.0 ^= *seed;
            random.0 = random.next();
        }
        random
    }

    /// The next number, evenly spread over 0..1.
    pub(super) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Picks a token: the likeliest (the first of equals) at temperature 0, else one drawn from
/// `softmax(logits / temperature)`. Returns it with its natural log-probability at temperature 1;
/// none when no token is possible.
pub(super) fn pick(logits: &[f32], temperature: f64, random: &mut Random) -> Option<(u32, f64)> {
    let (best, highest) = logits
        .iter()
        .enumerate()
        .filter(|(_, logit)| !logit.is_nan() && **logit > f32::NEG_INFINITY)
        .fold(None, |best: Option<(usize, f32)>, (token, logit)| match best {
            Some((_, highest)) if *logit <= highest => best,
            _ => Some((token, *logit)),
        })?;
    let token = if temperature > 0.0 && highest.is_finite() {
        draw(logits, f64::from(highest), temperature, random).unwrap_or(best)
    } else {
        best
    };
    let log_probability = f64::from(logits[token]) - log_sum_exp(logits);
    // Only an infinite logit gives NaN here: that token was certain.
    Some((token as u32, if log_probability.is_nan() { 0.0 } else { log_probability }))
}

fn draw(logits: &[f32], highest: f64, temperature: f64, random: &mut Random) -> Option<usize> {
    let weight = |logit: f32| match logit.is_nan() {
        true => 0.0,
        false => ((f64::from(logit) - highest) / temperature).exp(),
    };
    let total: f64 = logits.iter().map(|logit| weight(*logit)).sum();
    let mut left = random.uniform() * total;
    logits.iter().position(|logit| {
        left -= weight(*logit);
        left < 0.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        let logits = [f32::NAN, 1.0, 2.0, 2.0, f32::NEG_INFINITY];
        let (token, log_probability) = pick(&logits, 0.0, &mut Random::stream(&[1])).unwrap();
        assert_eq!(token, 2);
        let expected = -(2.0 + (-1.0f64).exp()).ln();
        assert!((log_probability - expected).abs() < 1e-9);
    }

    #[test]
    fn nothing_possible_is_none_and_infinity_is_certain() {
        let mut random = Random::stream(&[1]);
        assert_eq!(pick(&[f32::NEG_INFINITY, f32::NAN], 0.5, &mut random), None);
        assert_eq!(pick(&[0.0, f32::INFINITY], 0.5, &mut random), Some((1, 0.0)));
    }

    #[test]
    fn draws_follow_the_tempered_probabilities_and_never_take_the_forbidden() {
        let mut random = Random::stream(&[7, 3]);
        let logits = [0.0, 1.0, f32::NEG_INFINITY];
        let count = 20_000;
        let ones = (0..count)
            .map(|_| pick(&logits, 0.5, &mut random).unwrap().0)
            .inspect(|token| assert!(*token < 2))
            .filter(|token| *token == 1)
            .count();
        let expected = 1.0 / (1.0 + (-2.0f64).exp()); // 0.881, standard error 0.0023
        assert!((ones as f64 / count as f64 - expected).abs() < 0.01);
    }

    #[test]
    fn streams_repeat_and_differ() {
        let first = |seeds: &[u64]| Random::stream(seeds).uniform();
        assert_eq!(first(&[1, 2]), first(&[1, 2]));
        assert_ne!(first(&[1, 2]), first(&[2, 1]));
        assert_ne!(first(&[0]), first(&[0, 0]));
    }
}
