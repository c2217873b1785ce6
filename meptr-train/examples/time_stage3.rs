//! Times epochs of stage 3 at the published sizes on made-up rows: `time_stage3 ROWS EPOCHS`.
//!
//! Prints a line of JSON, `{"rows": 18000, "seconds": [..]}`, the seconds of each epoch with its
//! scoring. Two thirds of the rows have emotion labels, the others traits, as in the union of the
//! published corpora. `benches/pytorch_stage3.py` does the same in PyTorch.

use anyhow::{Context, Result, bail};
use candle::{Device, Tensor};
use meptr_core::PerModality;
use meptr_core::models::{FusionConfig, FusionModel, ModalityInput};
use meptr_core::rng::{RandomStream, SeedStreams};
use meptr_core::weights::Trainable;
use meptr_train::data::{Corpus, FusionRows, Labels, Sampler};
use meptr_train::stage::{
    EpochReport, FusionData, FusionTraining, Start, TrainableModel, TrainingConfig, TrainingRun,
    TrainingState, train_fusion,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rows, epochs] = &arguments[..] else { bail!("usage: time_stage3 ROWS EPOCHS") };
    let rows: usize = rows.parse().context("ROWS is a number")?;
    let usual = FusionTraining::default();
    let max_epochs = epochs.parse().context("EPOCHS is a number")?;
    let config = FusionTraining {
        training: TrainingConfig { max_epochs, ..usual.training.clone() },
        ..usual
    };
    let seeds = SeedStreams::new(1);
    let model_config = FusionConfig::published();
    let data = FusionData {
        train: Corpus::new("train", made_up(rows, &model_config, seeds.stream("train"))?),
        dev: vec![Corpus::new("dev", made_up(96, &model_config, seeds.stream("dev"))?)],
    };
    let trainable = Trainable::new(seeds);
    let model = FusionModel::load(&model_config, trainable.builder(&Device::Cpu))?;
    let sampler = Sampler::Shuffled { batch_size: config.training.batch_size, seeds };
    let start = Start::Fresh(seeds.stream("dropout"));
    let mut seconds = Vec::new();
    let mut keep = |report: &EpochReport, _: &TrainingState| {
        seconds.push(report.seconds);
        Ok(())
    };
    let parts = TrainableModel::new(&model, &trainable);
    train_fusion(&config, parts, &data, TrainingRun { sampler: &sampler, start }, &mut keep)?;
    print_line(&serde_json::json!({"rows": rows, "seconds": seconds}));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the result of a program for measuring")]
fn print_line(line: &serde_json::Value) {
    println!("{line}");
}

fn made_up(rows: usize, config: &FusionConfig, mut stream: RandomStream) -> Result<FusionRows> {
    let mut noise = |width: usize, centre: f64, spread: f64| -> Result<Tensor> {
        let cells = (0..rows * width).map(|_| (centre + spread * stream.normal()) as f32);
        Ok(Tensor::from_vec(cells.collect::<Vec<_>>(), (rows, width), &Device::Cpu)?)
    };
    let input = PerModality::try_from_fn(|modality| {
        Ok::<_, anyhow::Error>(Some(ModalityInput {
            vector: noise(config.input_dims[modality], 0.0, 1.0)?,
            emotion_logits: Some(noise(7, 0.0, 1.0)?),
            trait_values: Some(noise(5, 0.5, 0.15)?),
            is_present: None,
        }))
    })?;
    let with_emotion = rows * 2 / 3;
    let known = |is_known: &dyn Fn(usize) -> bool, width: usize| -> Result<Tensor> {
        let cell = |cell: usize| match is_known(cell / width) {
            true => 0.5 + 0.5 * (cell as f32).sin(),
            false => f32::NAN,
        };
        Ok(Tensor::from_vec((0..rows * width).map(cell).collect(), (rows, width), &Device::Cpu)?)
    };
    let emotion = known(&|row| row < with_emotion, 7)?;
    let personality = known(&|row| row >= with_emotion, 5)?;
    Ok(FusionRows { input, labels: Labels::new(emotion, personality)? })
}
