//! Emotion labels as tables hold them, and as training takes them: shares that sum to 1.

use meptr_core::Emotion;
use serde::{Deserialize, Serialize};

/// Scale of the emotion labels of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmotionsAs {
    /// Shares of the clip, 0 to 1, that sum to 1: the tables of the MEPTR authors.
    #[default]
    Shares,
    /// Raw CMU-MOSEI: six emotions from 0 to 3, no Neutral.
    Intensities,
}

/// Largest distance from 1 of the sum of a row of shares; tables round them.
const SUM_TOLERANCE: f64 = 0.02;
/// Largest intensity of CMU-MOSEI.
const MAX_INTENSITY: f32 = 3.0;

impl EmotionsAs {
    /// Shares that sum to 1, from a row of labels in the order of [`Emotion::ALL`].
    ///
    /// Shares are divided by their sum. Intensities are divided by theirs; a row of zeros becomes
    /// Neutral 1.
    ///
    /// # Errors
    /// A sentence that says how the row does not fit the scale.
    pub fn shares(self, labels: [f32; Emotion::COUNT]) -> Result<[f32; Emotion::COUNT], String> {
        let largest = match self {
            Self::Shares => 1.0,
            Self::Intensities => MAX_INTENSITY,
        };
        if let Some(wrong) = labels.iter().find(|label| !(0.0..=largest).contains(*label)) {
            return Err(format!("{wrong} is not in 0 to {largest}"));
        }
        let sum: f64 = labels.iter().map(|label| f64::from(*label)).sum();
        match self {
            Self::Shares if (sum - 1.0).abs() > SUM_TOLERANCE => {
                return Err(format!("the labels sum to {sum:.3}, not to 1"));
            }
            Self::Shares => {}
            Self::Intensities => {
                let neutral = labels[Emotion::Neutral as usize];
                if neutral > 0.0 && f64::from(neutral) < sum {
                    return Err(format!("Neutral is {neutral} beside another emotion"));
                }
                if sum == 0.0 {
                    let mut shares = [0.0; Emotion::COUNT];
                    shares[Emotion::Neutral as usize] = 1.0;
                    return Ok(shares);
                }
            }
        }
        Ok(labels.map(|label| (f64::from(label) / sum) as f32))
    }

    /// Start of the message about rows that do not fit the scale, with the other one as the remedy.
    pub(super) fn misfit(self) -> &'static str {
        match self {
            Self::Shares => {
                "has emotion labels that are not shares of a clip (raw intensities of 0 to 3 are \
                 read with `emotions_as = \"intensities\"`)"
            }
            Self::Intensities => {
                "has emotion labels that are not intensities of 0 to 3 (shares that sum to 1 are \
                 read with `emotions_as = \"shares\"`)"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIRD: f32 = 1.0 / 3.0;

    #[test]
    fn shares_are_checked_and_normalised() {
        let of = |labels| EmotionsAs::Shares.shares(labels);
        let thirds = of([0.0, 0.0, 0.0, 0.333, 0.333, 0.333, 0.0]).unwrap();
        assert_eq!(thirds, [0.0, 0.0, 0.0, THIRD, THIRD, THIRD, 0.0]);
        assert_eq!(of([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).unwrap()[0], 1.0);
        for (labels, why) in [
            ([0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0], "2 is not in 0 to 1"),
            ([0.0, 0.0, 0.0, 0.0, 1.0, 0.5, 0.0], "the labels sum to 1.500"),
            ([0.0; 7], "the labels sum to 0.000"),
            ([0.0, 0.0, 0.0, 0.0, f32::INFINITY, 0.0, 0.0], "inf is not in 0 to 1"),
            ([0.0, -0.1, 0.0, 0.0, 1.0, 0.1, 0.0], "-0.1 is not in 0 to 1"),
        ] {
            let error = of(labels).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(of([0.0, 0.0, 0.0, 0.0, 0.5, 0.485, 0.0]).is_ok(), "rounded labels");
        assert!(of([0.0, 0.0, 0.0, 0.0, 0.5, 0.475, 0.0]).is_err());
    }

    #[test]
    fn intensities_become_shares_of_their_sum() {
        let of = |labels| EmotionsAs::Intensities.shares(labels);
        // 2 of Anger, 0.6667 of Sadness: 3/4 and 1/4.
        let found = of([0.0, 2.0, 0.0, 0.0, 0.0, 2.0 / 3.0, 0.0]).unwrap();
        assert_eq!(found, [0.0, 0.75, 0.0, 0.0, 0.0, 0.25, 0.0]);
        assert_eq!(of([0.0; 7]).unwrap(), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(of([0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).unwrap()[0], 1.0);
        assert!(of([0.5, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]).unwrap_err().contains("Neutral is 0.5"));
        assert!(of([0.0, 3.5, 0.0, 0.0, 0.0, 0.0, 0.0]).unwrap_err().contains("0 to 3"));
    }
}
