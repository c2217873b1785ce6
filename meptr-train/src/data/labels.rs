//! Labels of a batch in which each row may lack those of one task.

use candle::{DType, Result, Tensor};

/// Labels of a batch, and which rows have them.
#[derive(Debug, Clone)]
pub struct Labels {
    /// `(batch, 7)`, f32: how much of each emotion; NaN where unknown.
    pub emotion: Tensor,
    /// `(batch, 5)`, f32, 0 to 1: trait scores; NaN where unknown.
    pub personality: Tensor,
    /// Per row: does it have emotion labels?
    pub has_emotion: Vec<bool>,
    /// Per row: does it have trait labels?
    pub has_personality: Vec<bool>,
}

impl Labels {
    /// A row has the labels of a task when any of them is a number.
    ///
    /// - `emotion`: `(batch, 7)`, `personality`: `(batch, 5)`; NaN where unknown
    ///
    /// # Errors
    /// When a tensor is not a matrix.
    pub fn new(emotion: Tensor, personality: Tensor) -> Result<Self> {
        let has_emotion = rows_with_a_number(&emotion)?;
        let has_personality = rows_with_a_number(&personality)?;
        Ok(Self { emotion, personality, has_emotion, has_personality })
    }

    /// These emotion labels beside the trait labels of other rows.
    pub fn with_personality_of(&self, other: &Self) -> Self {
        Self {
            personality: other.personality.clone(),
            has_personality: other.has_personality.clone(),
            ..self.clone()
        }
    }
}

fn rows_with_a_number(labels: &Tensor) -> Result<Vec<bool>> {
    let rows = labels.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    Ok(rows.into_iter().map(|row| row.into_iter().any(|label| !label.is_nan())).collect())
}

/// Rows for which `chosen` is `wanted`, as the `(rows,)` u32 index that Candle selects by.
pub(crate) fn rows_where(chosen: &[bool], wanted: bool) -> Vec<u32> {
    let numbered = (0u32..).zip(chosen);
    numbered.filter(|(_, chosen)| **chosen == wanted).map(|(row, _)| row).collect()
}

/// The named rows of a matrix.
pub(crate) fn select_rows(matrix: &Tensor, rows: &[u32]) -> Result<Tensor> {
    matrix.index_select(&Tensor::new(rows, matrix.device())?, 0)
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::*;

    #[test]
    fn a_row_without_any_number_is_unlabelled() -> Result<()> {
        let nan = f32::NAN;
        let emotion = Tensor::new(&[[0.0f32, nan], [nan, nan]], &Device::Cpu)?;
        let personality = Tensor::new(&[[nan, nan], [0.1f32, 0.2]], &Device::Cpu)?;
        let labels = Labels::new(emotion, personality)?;
        assert_eq!(labels.has_emotion, [true, false]);
        assert_eq!(labels.has_personality, [false, true]);
        assert_eq!(rows_where(&labels.has_emotion, false), [1]);
        Ok(())
    }
}
