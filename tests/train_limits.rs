//! `meptr train`, `search` and `evaluate` where something is wrong: what they refuse, and what is left.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use meptr_core::bundle::{PartKind, PartMetadata};
use meptr_core::{Bundle, Modality};
use serde_json::Value;

use crate::support::features::Features;
use crate::support::{Run, film, meptr};
use crate::train::{Trained, evaluate, resume, train};

/// A stage 3 of few epochs on the models of the shared run.
fn third(trained: &Trained, out: &str, settings: &[&str]) -> Run {
    let mut run = meptr(["train", "stage3", "--quiet", "--from"]);
    run.0.arg(trained.run()).arg("--out").arg(trained.features.at(out));
    run.0.args(["--set", "stage3.training.max_epochs=2"]);
    for setting in settings {
        run.0.args(["--set", setting]);
    }
    run
}

#[test]
fn a_model_that_runs_away_is_never_best() -> Result<()> {
    let trained = Trained::shared();
    let settings = ["stage3.selection=mean_emo", "stage3.training.learning_rate=1e30"];
    let done = third(trained, "away", &settings).ends_with(2)?;
    assert!(done.err.contains("stage3 fusion"), "{}", done.err);
    assert!(!trained.features.at("away/bundle").exists());

    let grid = trained.features.at("away.toml");
    std::fs::write(&grid, "stage3.training.learning_rate = [1e30, 1e-3]\n")?;
    let search = |strategy: &str| {
        let mut run = meptr(["search", strategy, "--quiet", "--format", "jsonl", "--from"]);
        run.0.arg(trained.run()).arg("--grid").arg(&grid);
        run.0.arg("--out").arg(trained.features.at("away-search"));
        run.0.args(["--set", settings[0], "--set", "stage3.training.max_epochs=2"]);
        run
    };
    let trials = search("exhaustive").ends_with(0)?.json_lines()?;
    assert!(trials[0]["dev_score"].is_null() && trials[1]["dev_score"].is_number(), "{trials:?}");
    assert_eq!(search("greedy").ends_with(0)?.json_lines()?, trials);
    Ok(())
}

#[test]
fn one_process_writes_to_a_run_and_the_run_goes_on() -> Result<()> {
    let features = Features::new()?;
    let mut first = train(&features, "all", "run", &[]);
    let mut first = first.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let log = features.at("run/stage1/face-emotion/log.jsonl");
    let start = Instant::now();
    while !log.exists() {
        ensure!(start.elapsed() < Duration::from_secs(120) && first.try_wait()?.is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    let done = resume(&features, "run").done()?;
    first.kill()?;
    first.wait()?;
    assert!(done.code == Some(2) && done.err.contains("another process"), "{}", done.err);
    // As two processes without a lock would leave it.
    let lines = std::fs::read_to_string(features.at("run/stage1/body-emotion/log.jsonl"))?;
    std::fs::write(features.at("run/stage1/body-emotion/log.jsonl"), lines.repeat(2))?;
    std::fs::remove_file(features.at("run/stage1/body-emotion/best.json"))?;
    let done = resume(&features, "run").ends_with(0)?;
    assert!(done.out.contains("stage3 fusion"), "{}", done.out);
    Ok(())
}

#[test]
fn a_run_whose_files_were_changed_says_so() -> Result<()> {
    let trained = Trained::shared();
    let features = &trained.features;
    third(trained, "changed", &[]).ends_with(0)?;
    let manifest = features.at("changed/bundle/manifest.json");
    let written = || std::fs::metadata(&manifest)?.modified();
    let before = written()?;
    resume(features, "changed").ends_with(0)?;
    assert_eq!(written()?, before, "a bundle was made again of the same parts");

    let config = features.at("changed/config.toml");
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, text.replace("emotion_weight = 1.0", "emotion_weight = 0.5"))?;
    let done = resume(features, "changed").ends_with(2)?;
    let expected = "`stage3.objective.emotion_weight` = 0.5, but stage3 fusion was begun with 1.0";
    assert!(done.err.contains(expected), "{}", done.err);
    std::fs::write(&config, &text)?;
    std::fs::remove_file(features.at("changed/stage3/fusion/log.jsonl"))?;
    let done = resume(features, "changed").ends_with(2)?;
    assert!(done.err.contains("holds 0 of the 2 epochs"), "{}", done.err);

    // The bundle stays until there is another.
    std::fs::remove_dir_all(features.at("changed/stage3"))?;
    std::fs::write(&config, text.replace("emotion_weight = 1.0", "emotion_weight = 0.5"))?;
    std::fs::write(features.at("changed/.bundle.new"), "in the way")?;
    let done = resume(features, "changed").ends_with(2)?;
    assert!(done.err.contains("cannot replace"), "{}", done.err);
    Bundle::open(&features.at("changed/bundle"))?;
    Ok(())
}

#[test]
fn corpora_without_a_modality_give_a_bundle() -> Result<()> {
    let features = Features::without(Some(Modality::Text))?;
    let some = "modalities=[\"body\", \"face\", \"scene\", \"audio\"]";
    let settings = [format!("--set=stage1.{some}"), format!("--set=stage2.{some}")];
    train(&features, "all", "run", &[&settings[0], &settings[1]]).ends_with(0)?;
    let bundle = Bundle::open(&features.at("run/bundle"))?;
    let config = &bundle.manifest().parts.fusion.config;
    assert_eq!(config.ablation.disabled_modalities, [Modality::Text]);
    assert!(bundle.manifest().about.contains("does without text"), "{}", bundle.manifest().about);
    let clip = features.at("clip.mp4");
    film(3).write(&clip)?;
    std::fs::write(features.at("clip.txt"), "said")?;
    let mut predict = meptr(["predict", "--format", "json", "--weights"]);
    predict.0.arg(features.at("run/bundle")).arg(&clip);
    let result: Value = serde_json::from_str(&predict.ends_with(0)?.out)?;
    let text = &result["videos"][0]["predictions"][0]["modalities"]["text"];
    assert_eq!(text["available"], false, "{text}");
    assert_eq!(text["reason"], "the fusion model was trained without it");
    Ok(())
}

#[test]
fn a_model_of_one_task_gives_no_bundle_and_says_so() -> Result<()> {
    let trained = Trained::shared();
    let single = "stage3.single_task={ task = \"emotion\", slice = \"emo\" }";
    let done = third(trained, "single", &[single]).ends_with(0)?;
    assert!(done.out.contains("no bundle: it has no place for a model of emotion"), "{}", done.out);
    let folder = trained.features.at("single");
    assert!(!folder.join("bundle").exists());
    let note = PartMetadata::read(&folder.join("stage3/fusion/best.safetensors"))?;
    assert_eq!(note.map(|note| note.kind), Some(PartKind::SingleTask));
    let settings = [single, "stage3.model.ablation.disable_graph_attn=true"];
    let done = third(trained, "single-ablated", &settings).ends_with(2)?;
    assert!(done.err.contains("`stage3.model.ablation`"), "{}", done.err);
    Ok(())
}

#[test]
fn emotion_labels_alone_train_a_model_of_the_emotions() -> Result<()> {
    let trained = Trained::shared();
    let corpus = trained.features.at("moods.toml").display().to_string();
    let single = "stage3.single_task={ task = \"emotion\", slice = \"emo\" }";
    let tasks = "stage1.tasks=[\"emotion\"]";
    let settings = ["--corpora", &corpus, "--set", tasks, "--set", single];
    train(&trained.features, "stage3", "moods-alone", &settings).ends_with(2)?;
    train(&trained.features, "stage1", "moods-alone", &settings).ends_with(0)?;
    let mut third = meptr(["train", "stage3", "--resume", "--out"]);
    third.0.arg(trained.features.at("moods-alone"));
    let done = third.ends_with(0)?;
    assert!(done.out.contains("stage3 fusion"), "{}", done.out);
    assert!(!trained.features.at("moods-alone/stage2").exists());
    // On the models of stage 2, as models of both tasks.
    let slim = single.replace(" }", ", vectors = \"stage2\" }");
    let mut settings = settings;
    settings[5] = &slim;
    let done = train(&trained.features, "stage3", "moods-slim", &settings).ends_with(2)?;
    assert!(done.err.contains("stage3 needs models of stage2"), "{}", done.err);
    Ok(())
}

#[test]
fn settings_that_would_do_nothing_are_refused() -> Result<()> {
    let trained = Trained::shared();
    for (setting, part) in [
        ("stage3.objective.lambda=0.4", "write `kind = \"published\"`"),
        ("stage3.objective.components=[\"emo_sup\"]", "write `kind = \"supervised\"` instead"),
        ("stage3.model.input_dims.body=7", "`stage3.model.input_dims`"),
        ("stage3.model.hidden_dim=100000000", "at most 8192"),
        ("stage3=[]", "it is a table of settings"),
        ("stage3.training.schedule=cosin", "expected one of `none`, `plateau`, `cosine`"),
        (
            "stage1.training_overrides.text.batch_sise=4",
            "`stage1.training_overrides.text.batch_sise`: there is no",
        ),
        ("stage1.loss.personality_weight=0", "models of personality would learn nothing"),
    ] {
        let done = third(trained, "nothing", &[setting]).ends_with(2)?;
        assert!(done.err.contains(part), "{setting}: {}", done.err);
    }
    let mut seed = third(trained, "nothing", &[]);
    seed.0.args(["--seed", "18446744073709551615"]);
    seed.ends_with(2)?;
    let grid = trained.features.at("other-grid.toml");
    std::fs::write(&grid, "stage1.training.learning_rate = [1e-3, 1e-2]\n")?;
    let mut search = meptr(["search", "greedy", "--from"]);
    search.0.arg(trained.run()).arg("--grid").arg(&grid).arg("--out");
    search.0.arg(trained.features.at("nothing"));
    let done = search.ends_with(2)?;
    assert!(done.err.contains("is no setting of stage3"), "{}", done.err);
    assert!(!trained.features.at("nothing").exists());
    Ok(())
}

#[test]
fn what_is_read_is_not_written_over() -> Result<()> {
    let trained = Trained::shared();
    let table = trained.features.at("moods/test.csv");
    let before = std::fs::read(&table)?;
    let csv = table.display().to_string();
    let done = evaluate(trained, "moods", &["--csv", &csv]).ends_with(2)?;
    assert!(done.err.contains("which this run reads"), "{}", done.err);
    assert!(std::fs::read(&table)? == before);

    let out = trained.features.at("best-of");
    std::fs::create_dir_all(&out)?;
    std::fs::copy(trained.run().join("config.toml"), out.join("best.toml"))?;
    std::fs::write(out.join("grid.toml"), "stage3.training.max_epochs = [1]\n")?;
    let mut search = meptr(["search", "greedy", "--config"]);
    search.0.arg(out.join("best.toml")).arg("--grid").arg(out.join("grid.toml"));
    search.0.arg("--out").arg(&out);
    let done = search.ends_with(2)?;
    assert!(done.err.contains("best.toml` would be written over"), "{}", done.err);
    Ok(())
}

/// Numbers of 32 bits are the same in a grid as in the configuration.
#[test]
fn a_greedy_search_knows_the_settings_it_starts_from() -> Result<()> {
    let trained = Trained::shared();
    let grid = trained.features.at("small.toml");
    let lines = "stage3.objective.emotion_weight = [0.4, 1.0]\nstage3.model.dropout = [0.1, 0.3]\n";
    std::fs::write(&grid, lines)?;
    let mut search = meptr(["search", "greedy", "--quiet", "--format", "jsonl", "--from"]);
    search.0.arg(trained.run()).arg("--grid").arg(&grid);
    search.0.arg("--out").arg(trained.features.at("small-search"));
    search.0.args(["--set", "stage3.training.max_epochs=1"]);
    search.0.args(["--set", "stage3.objective.emotion_weight=0.4"]);
    let trials: Vec<Value> = search.ends_with(0)?.json_lines()?;
    assert_eq!(trials.len(), 3, "{trials:?}");
    Ok(())
}
