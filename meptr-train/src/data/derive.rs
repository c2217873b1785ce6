//! Rows of stage 3 from stored sequences, by the models of stage 2.

use candle::Device;
use meptr_core::models::{CrossTaskModel, HeadScores, ScoreTransform};
use meptr_core::{Modality, PerModality};
use rayon::prelude::*;

use super::{FusionRows, StoredClips};
use crate::stage::Control;
use crate::{Error, Result};

/// Rows between two calls of `on_row`'s listener; enough to keep all cores at work.
const ROWS_AT_ONCE: usize = 32;

impl StoredClips {
    /// What stage 3 reads: for each video and modality, the vector and the predictions of the
    /// modality's model, bit for bit those of a prediction on the same features. `on_row` hears
    /// of every video that is done; none when it says to stop.
    ///
    /// A video that lacks a modality has zeros there and leaves that modality's place in the
    /// graph; a modality that no video has, or that there is no model of, is absent.
    ///
    /// # Errors
    /// As [`StoredClips::sequence`]; also when a model does not fit the features or the device
    /// fails.
    pub fn fusion_rows(
        &self,
        heads: &PerModality<Option<CrossTaskModel>>,
        transform: ScoreTransform,
        device: &Device,
        mut on_row: impl FnMut(usize) -> Control,
    ) -> Result<Option<FusionRows>> {
        let rows: Vec<usize> = (0..self.clips().len()).collect();
        let mut said: PerModality<Vec<Option<HeadScores>>> = PerModality::default();
        for rows in rows.chunks(ROWS_AT_ONCE) {
            let row = |row: &usize| self.heads_say(*row, heads, device);
            let all = rows.par_iter().map(row).collect::<Result<Vec<_>>>()?;
            for (row, mut one) in rows.iter().zip(all) {
                for modality in Modality::ALL {
                    said[modality].push(one[modality].take());
                }
                if on_row(*row) == Control::Stop {
                    return Ok(None);
                }
            }
        }
        let join = || {
            Ok(FusionRows {
                input: PerModality::try_from_fn(|modality| {
                    HeadScores::inputs(&said[modality], transform, device)
                })?,
                labels: self.labels(&rows, device)?,
            })
        };
        join().map(Some).map_err(Error::doing("joining the rows of stage 3"))
    }

    fn heads_say(
        &self,
        row: usize,
        heads: &PerModality<Option<CrossTaskModel>>,
        device: &Device,
    ) -> Result<PerModality<Option<HeadScores>>> {
        PerModality::try_from_fn(|modality| {
            let Some(head) = &heads[modality] else { return Ok(None) };
            let Some(sequence) = self.sequence(row, modality)? else { return Ok(None) };
            let name = &self.clips()[row].name;
            let say = || {
                let features = sequence.features.to_device(device)?.unsqueeze(0)?;
                HeadScores::of_pieces(head, &features, &sequence.pieces)
            };
            let doing = Error::doing(format!("running the {modality} model on `{name}`"));
            say().map(Some).map_err(doing)
        })
    }
}
