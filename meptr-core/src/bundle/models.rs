//! Trained models of a bundle: five cross-task models and the fusion model.

use candle::Device;

use super::open::Bundle;
use crate::models::{CrossTaskModel, FusionModel, ScoreTransform, may_be_left};
use crate::weights::{COLLECTED, LoadErrors, load_file};
use crate::{Modality, PerModality, Result};

/// Cross-task models and the fusion model of a bundle, as prediction and evaluation read them.
#[derive(Debug)]
pub struct BundleModels {
    /// Cross-task model of each modality.
    pub heads: PerModality<CrossTaskModel>,
    /// Model of all modalities.
    pub fusion: FusionModel,
    /// Transform of the cross-task models' trait scores before the fusion model reads them.
    pub score_transform: ScoreTransform,
    /// Modalities that the fusion model was trained without.
    disabled: Vec<Modality>,
}

impl BundleModels {
    /// Loads the models.
    ///
    /// # Errors
    /// When weight files do not fit their configurations, all of them in one error; or when a file
    /// cannot be read.
    pub fn open(bundle: &Bundle, device: &Device) -> Result<Self> {
        let parts = &bundle.manifest().parts;
        let mut errors = LoadErrors::default();
        let heads = PerModality::try_from_fn(|modality| {
            let part = &parts.heads[modality];
            let head = load_file(&bundle.path(&part.file), device, may_be_left, |vb| {
                CrossTaskModel::load(&part.config, vb)
            });
            errors.collect(head)
        })?;
        let part = &parts.fusion;
        let fusion = load_file(&bundle.path(&part.file), device, may_be_left, |vb| {
            FusionModel::load(&part.config, vb)
        });
        let fusion = errors.collect(fusion)?;
        errors.finish()?;
        Ok(Self {
            heads: heads.map(|_, head| head.expect(COLLECTED)),
            fusion: fusion.expect(COLLECTED),
            score_transform: part.config.score_transform,
            disabled: part.config.ablation.disabled_modalities.clone(),
        })
    }

    /// Whether the fusion model uses a modality; `false` for one that it was trained without.
    pub fn uses(&self, modality: Modality) -> bool {
        !self.disabled.contains(&modality)
    }
}
