//! Boxes, crops and features of frames.

use candle::Tensor;
use meptr_core::Modality;

use super::fallback::FallbackReport;
use crate::detect::{Crop, FrameBoxes};
use crate::{Error, Result};

/// Boxes, crops and CLIP features of some frames.
#[derive(Debug, Clone)]
pub struct VisualFeatures {
    /// Faces and bodies of each frame.
    pub boxes: Vec<FrameBoxes>,
    /// Crops in the reference's order; `frame` is an index into `boxes`.
    pub crops: Vec<Crop>,
    /// Fall-backs by which the crops were chosen.
    pub fallbacks: FallbackReport,
    /// CLIP features of the distinct crops, `(distinct crops, width)`, f32.
    pub(super) rows: Tensor,
    /// Row in `rows` of each crop.
    pub(super) row_of_crop: Vec<u32>,
}

impl VisualFeatures {
    /// Features of some crops, by their indices, `(1, crops, width)`, f32; `None` for no index.
    ///
    /// # Errors
    /// When the device has no memory for them.
    ///
    /// # Panics
    /// When an index is out of range.
    pub fn select(&self, crops: &[usize]) -> Result<Option<Tensor>> {
        let rows: Vec<u32> = crops.iter().map(|index| self.row_of_crop[*index]).collect();
        if rows.is_empty() {
            return Ok(None);
        }
        let select = || {
            let count = rows.len();
            let rows = Tensor::from_vec(rows, count, self.rows.device())?;
            self.rows.index_select(&rows, 0)?.unsqueeze(0)
        };
        select().map(Some).map_err(Error::doing("selecting the features of crops"))
    }

    /// Indices of the crops of a modality.
    pub fn crop_indices(&self, modality: Modality) -> impl Iterator<Item = usize> {
        let crops = self.crops.iter().enumerate();
        crops.filter(move |(_, crop)| crop.modality == modality).map(|(index, _)| index)
    }

    /// Appends the features of the frames that follow.
    pub(super) fn append(&mut self, next: Self) -> Result<()> {
        let frames = self.boxes.len();
        let rows = self.rows.dim(0).map_err(Error::doing("counting features"))? as u32;
        self.rows = Tensor::cat(&[&self.rows, &next.rows], 0)
            .map_err(Error::doing("joining the features of crops"))?;
        self.boxes.extend(next.boxes);
        let crops = next.crops.into_iter();
        self.crops.extend(crops.map(|crop| Crop { frame: crop.frame + frames, ..crop }));
        self.row_of_crop.extend(next.row_of_crop.into_iter().map(|row| row + rows));
        Ok(())
    }
}
