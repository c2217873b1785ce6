//! Gradient clipping.

use candle::Result;

use crate::loss::{Gradients, norm_of};

/// Scales gradients so that their common Euclidean norm is at most `max_norm`.
///
/// As in PyTorch, the factor is `max_norm / (norm + 1e-6)`, and 1 when that is above 1.
///
/// # Errors
/// When the device fails.
pub fn clip_global_norm(gradients: Gradients, max_norm: f32) -> Result<Gradients> {
    let scale = max_norm / (norm_of(&gradients)? + 1e-6);
    if scale >= 1.0 {
        return Ok(gradients);
    }
    let scaled = |(name, gradient)| Ok((name, (gradient * f64::from(scale))?));
    gradients.into_iter().map(scaled).collect()
}

#[cfg(test)]
mod tests {
    use candle::{Device, Tensor};

    use super::*;

    #[test]
    fn long_gradients_are_shortened_and_short_ones_stay() -> Result<()> {
        let gradient = |values: &[f32]| Tensor::new(values, &Device::Cpu);
        let gradients = Gradients::from([
            ("a".into(), gradient(&[3.0])?),
            ("b".into(), gradient(&[0.0, 4.0])?),
        ]);
        assert!((norm_of(&clip_global_norm(gradients.clone(), 1.0)?)? - 1.0).abs() < 1e-6);
        assert_eq!(norm_of(&clip_global_norm(gradients, 6.0)?)?, 5.0);
        Ok(())
    }
}
