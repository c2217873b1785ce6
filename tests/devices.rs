//! Devices of `meptr`: available ones, messages about others, several at once.

use anyhow::Result;
use serde_json::Value;

use crate::support::{Folder, Run, film, list, meptr};

/// A prediction as JSON, with more on the command line.
fn predict(more: &[&str]) -> Run {
    meptr(["predict", "--format", "json"].iter().chain(more))
}

#[test]
fn several_devices_share_the_videos_and_change_nothing() -> Result<()> {
    let folder = Folder::new()?;
    std::fs::create_dir(folder.path().join("clips"))?;
    for number in 0..5 {
        folder.clip(&format!("clips/{number}.mp4"), &film(1 + number % 3))?;
    }
    std::fs::write(folder.path().join("clips/3b.mp4"), "no video")?;
    let results = |devices: &str| -> Result<Value> {
        let run = predict(&["--device", devices, "clips"]).within(folder.path());
        let mut report = run.ends_with(1)?.json()?;
        for video in report["videos"].as_array_mut().expect("a list") {
            video.as_object_mut().expect("an object").remove("steps"); // times
        }
        Ok(report)
    };
    let one = results("cpu")?;
    assert_eq!(list(&one["videos"]).len(), 5);
    assert_eq!(one, results("cpu,cpu")?);
    Ok(())
}

/// Holds with and without the feature `cuda`: no machine has that many GPUs.
#[test]
fn a_gpu_that_is_not_there_is_an_error_that_names_what_is_missing() -> Result<()> {
    let folder = Folder::new()?;
    folder.clip("a.mp4", &film(1))?;
    let run = predict(&["--device", "cuda:999", "a.mp4"]).within(folder.path()).ends_with(2)?;
    assert!(run.err.contains("cannot compute on cuda:999: "), "{}", run.err);
    if !cfg!(feature = "cuda") {
        assert!(run.err.contains("built without CUDA"), "{}", run.err);
        assert!(run.err.contains("scripts/build-cuda.sh"), "{}", run.err);
    }
    Ok(())
}

#[test]
fn fewer_bits_need_a_gpu() -> Result<()> {
    let folder = Folder::new()?;
    folder.clip("a.mp4", &film(1))?;
    let line = ["--device", "cpu", "--precision", "f16", "a.mp4"];
    let run = predict(&line).within(folder.path()).ends_with(2)?;
    assert!(run.err.contains("--precision f16 needs a GPU"), "{}", run.err);
    // Refused before the weights and the corpus are looked at: neither exists.
    let options = ["--weights", "nowhere", "--device", "cpu", "--precision", "f16"];
    let extract = meptr(["extract", "nowhere.toml", "--store", "s"].iter().chain(&options));
    let predict_nowhere = predict(&[&options[..], &["a.mp4"]].concat());
    for run in [predict_nowhere, extract] {
        let run = run.within(folder.path()).ends_with(2)?;
        assert!(run.err.contains("--precision f16 needs a GPU"), "{}", run.err);
        assert!(!run.err.contains("nowhere"), "{}", run.err);
    }
    predict(&["--precision", "half", "a.mp4"]).within(folder.path()).ends_with(2)?;
    Ok(())
}

/// bf16 on the processor is for those that have the instructions; what it gives is told apart from
/// f32 only by its last digits.
#[test]
fn bf16_runs_on_processors_that_multiply_it() -> Result<()> {
    let folder = Folder::new()?;
    folder.clip("a.mp4", &film(1))?;
    let line = ["--device", "cpu", "--precision", "bf16", "a.mp4"];
    if !meptr_core::kernels::cpu::has_bf16() {
        let run = predict(&line).within(folder.path()).ends_with(2)?;
        assert!(run.err.contains("a processor with AMX"), "{}", run.err);
        return Ok(());
    }
    predict(&line).within(folder.path()).ends_with(0)?;
    Ok(())
}
