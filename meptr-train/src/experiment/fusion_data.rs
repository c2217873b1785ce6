//! Training data of stage 3, computed by the trained models of the stages before.

use std::path::Path;

use candle_nn::VarBuilder;
use meptr_core::models::{CrossTaskModel, UnimodalModel, may_be_left};
use meptr_core::weights::load_file;
use meptr_core::{Modality, PerModality, Task};

use super::model_run::ExperimentObserver;
use super::train::{Experiment, unimodal};
use crate::stage::{
    EncodesModality, FusionData, SingleTaskChoice, Stage, StageOneEncoder, StageOneEncoders,
};
use crate::{Error, Result};

impl Experiment<'_> {
    /// Training data of stage 3: outputs of the models of stage 2, those of disabled modalities too,
    /// where there are such; or those of stage 1, see [`crate::stage::SingleTaskVectors`]. None when
    /// interrupted.
    ///
    /// # Errors
    /// When these models or the features cannot be read, or the device fails.
    pub fn fusion_data(
        &self,
        progress: &mut impl ExperimentObserver,
    ) -> Result<Option<FusionData>> {
        if let Some(choice) = self.config.stage3.single_task
            && let Some(tasks) = choice.stage_one_tasks()
        {
            let encoders = PerModality::try_from_fn(|modality| {
                self.stage_one_encoders(modality, choice, &tasks)
            })?;
            return self.fusion_data_of(&encoders, progress);
        }
        let heads = PerModality::try_from_fn(|modality| {
            let config = &self.heads[modality];
            let load = |vb: VarBuilder<'_>| CrossTaskModel::load(config, vb);
            self.trained_model(modality, &self.best(Stage::Stage2, modality.name()), load)
        })?;
        self.fusion_data_of(&heads, progress)
    }

    /// The stage-1 models of some tasks; none unless all of them are there.
    fn stage_one_encoders(
        &self,
        modality: Modality,
        choice: SingleTaskChoice,
        tasks: &[Task],
    ) -> Result<Option<StageOneEncoders>> {
        let mut encoders = StageOneEncoders { emotion: None, personality: None };
        for task in tasks {
            let config = self.unimodal_config(modality, *task);
            let load = |vb: VarBuilder<'_>| UnimodalModel::load(config, *task, vb);
            let path = self.best(Stage::Stage1, &unimodal(modality, *task));
            let Some(model) = self.trained_model(modality, &path, load)? else { return Ok(None) };
            let encoder = Some(StageOneEncoder { model, is_read: choice.reads(*task) });
            match task {
                Task::Emotion => encoders.emotion = encoder,
                Task::Personality => encoders.personality = encoder,
            }
        }
        Ok(Some(encoders))
    }

    /// A finished model of a modality; none when it is not there, or no video has the modality.
    fn trained_model<M>(
        &self,
        modality: Modality,
        path: &Path,
        load: impl FnOnce(VarBuilder<'_>) -> candle::Result<M>,
    ) -> Result<Option<M>> {
        if self.sources.width(modality).is_none() || !path.exists() {
            return Ok(None);
        }
        let model = load_file(path, &self.devices.heads, may_be_left, load);
        model.map(Some).map_err(|source| Error::OfModel {
            model: format!(
                "`{}` cannot be used; delete its folder to train that model again",
                path.display()
            ),
            source: Box::new(source.into()),
        })
    }

    fn fusion_data_of(
        &self,
        encoders: &PerModality<Option<impl EncodesModality>>,
        progress: &mut impl ExperimentObserver,
    ) -> Result<Option<FusionData>> {
        let (mut done, all) = (0, self.sources.len());
        let data = self.sources.fusion(encoders, &self.devices.heads, || {
            done += 1;
            progress.rows(done, all)
        })?;
        let to_device =
            |data: FusionData| data.try_map(|rows| rows.to_device(&self.devices.fusion));
        data.map(to_device).transpose().map_err(Error::doing("moving the rows of stage 3"))
    }
}
