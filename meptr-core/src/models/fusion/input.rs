//! Input of stage 3.

use candle::{Result, Tensor};

use crate::{Modality, PerModality};

/// Input of stage 3 by modality; a modality that is `None` leaves the graph of every row.
pub type FusionInput = PerModality<Option<ModalityInput>>;

/// Input of one modality for a batch of `rows` videos.
#[derive(Debug, Clone)]
pub struct ModalityInput {
    /// `(rows, width)`, f32: the modality's vector; finite in rows without this modality, too.
    pub vector: Tensor,
    /// `(rows, 7)`, f32: the modality's emotion logits, if it has them.
    pub emotion_logits: Option<Tensor>,
    /// `(rows, 5)`, f32: the modality's trait scores, as the configuration's
    /// [`ScoreTransform`](super::ScoreTransform) makes them, if it has them.
    pub trait_values: Option<Tensor>,
    /// `(rows,)`, f32, 1 = the row has this modality, 0 = the modality leaves this row's graph;
    /// `None` = every row has it.
    pub is_present: Option<Tensor>,
}

/// The modalities that take part, in order.
pub(super) fn taking_part<'a>(
    input: &'a FusionInput,
    disabled: &[Modality],
) -> Result<Vec<(Modality, &'a ModalityInput)>> {
    let present: Vec<_> = input
        .iter()
        .filter(|(modality, _)| !disabled.contains(modality))
        .filter_map(|(modality, part)| Some((modality, part.as_ref()?)))
        .collect();
    if present.is_empty() {
        candle::bail!("none of the five modalities is there")
    }
    Ok(present)
}

/// `(rows, parts)`, f32, 1 = the row has this part; `None` when every row has every part.
pub(super) fn presence(parts: &[&ModalityInput]) -> Result<Option<Tensor>> {
    if parts.iter().all(|part| part.is_present.is_none()) {
        return Ok(None);
    }
    let column = |part: &&ModalityInput| match &part.is_present {
        Some(is_present) => Ok(is_present.clone()),
        None => part.vector.narrow(1, 0, 1)?.squeeze(1)?.ones_like(),
    };
    let columns = parts.iter().map(column).collect::<Result<Vec<_>>>()?;
    Ok(Some(Tensor::stack(&columns, 1)?))
}
