//! Sampling of one token from logits.

use meptr_core::rng::RandomStream;

use super::logit_filters::log_sum_exp;

/// Samples a token: the most probable (the first of equals) at temperature 0, else one drawn from
/// `softmax(logits / temperature)`. Returns it with its natural log-probability at temperature 1;
/// `None` when no token is possible.
pub(super) fn sample_token(
    logits: &[f32],
    temperature: f64,
    random: &mut RandomStream,
) -> Option<(u32, f64)> {
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
    // Only an infinite logit gives NaN here: that token is certain.
    Some((token as u32, if log_probability.is_nan() { 0.0 } else { log_probability }))
}

fn draw(
    logits: &[f32],
    highest: f64,
    temperature: f64,
    random: &mut RandomStream,
) -> Option<usize> {
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
    use meptr_core::rng::SeedStreams;

    use super::*;

    fn random() -> RandomStream {
        SeedStreams::new(7).stream("sampling")
    }

    #[test]
    fn greedy_takes_the_first_of_the_most_probable() {
        let logits = [f32::NAN, 1.0, 2.0, 2.0, f32::NEG_INFINITY];
        let (token, log_probability) = sample_token(&logits, 0.0, &mut random()).unwrap();
        assert_eq!(token, 2);
        let expected = -(2.0 + (-1.0f64).exp()).ln();
        assert!((log_probability - expected).abs() < 1e-9);
    }

    #[test]
    fn nothing_possible_is_none_and_infinity_is_certain() {
        let mut random = random();
        assert_eq!(sample_token(&[f32::NEG_INFINITY, f32::NAN], 0.5, &mut random), None);
        assert_eq!(sample_token(&[0.0, f32::INFINITY], 0.5, &mut random), Some((1, 0.0)));
    }

    #[test]
    fn draws_follow_the_tempered_probabilities_and_never_take_the_forbidden() {
        let mut random = random();
        let logits = [0.0, 1.0, f32::NEG_INFINITY];
        let count = 20_000;
        let ones = (0..count)
            .map(|_| sample_token(&logits, 0.5, &mut random).unwrap().0)
            .inspect(|token| assert!(*token < 2))
            .filter(|token| *token == 1)
            .count();
        let expected = 1.0 / (1.0 + (-2.0f64).exp()); // 0.881, standard error 0.0023
        assert!((ones as f64 / count as f64 - expected).abs() < 0.01);
    }
}
