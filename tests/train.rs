//! `meptr train`, `evaluate` and `search`: from stored features to a bundle and its scores.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meptr_core::Bundle;
use meptr_core::bundle::TrainingStatus;
use serde_json::Value;

use crate::support::features::Features;
use crate::support::{Done, Run, film, list, meptr, number, text};

/// Features, and a run over all stages that several tests look at.
pub(crate) struct Trained {
    pub(crate) features: Features,
    out: String,
}

impl Trained {
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Trained> = OnceLock::new();
        let made = || -> Result<Trained> {
            let features = Features::shared()?;
            let done = train(&features, "all", "run", &["--format", "json"]).ends_with(0)?;
            Ok(Self { out: done.out, features })
        };
        SHARED.get_or_init(|| made().expect("the experiment can be trained"))
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.features.at("run")
    }
}

pub(crate) fn train(features: &Features, stages: &str, out: &str, more: &[&str]) -> Run {
    let mut run = meptr(["train", stages, "--quiet", "--config"]);
    run.0.arg(features.at("train.toml")).arg("--out").arg(features.at(out)).args(more);
    run
}

pub(crate) fn resume(features: &Features, out: &str) -> Run {
    let mut run = meptr(["train", "all", "--resume", "--out"]);
    run.0.arg(features.at(out));
    run
}

fn log(run: &Path, model: &str) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(run.join(model).join("log.jsonl"))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn all_stages_give_a_bundle_and_a_run_folder() -> Result<()> {
    let trained = Trained::shared();
    let run = trained.run();
    let summary: Value = serde_json::from_str(&trained.out)?;
    let models = list(&summary["models"]);
    assert_eq!(models.len(), 16);
    assert_eq!(text(&models[0]["model"]), "stage1 body-emotion");
    let fusion = log(&run, "stage3/fusion")?;
    assert!((1..=12).contains(&fusion.len()));
    for (place, line) in (1..).zip(&fusion) {
        assert_eq!(line["epoch"], place);
        assert_eq!((text(&line["stage"]), text(&line["model"])), ("stage3", "fusion"));
        assert!(number(&line["time"]) > 1e9 && number(&line["loss"]).is_finite());
    }
    let files = ["curves.svg", "confusion.svg", "last.safetensors"];
    for name in files.into_iter().chain(["best.safetensors", "events.out.tfevents.meptr"]) {
        assert!(run.join("stage3/fusion").join(name).is_file(), "{name}");
    }
    let config = std::fs::read_to_string(run.join("config.toml"))?;
    assert!(config.contains("patience_epochs = 15"), "defaults are not there:\n{config}");

    let bundle = Bundle::open(&run.join("bundle"))?;
    let manifest = bundle.manifest();
    assert_eq!(manifest.status, TrainingStatus::Demonstration);
    assert!(manifest.about.contains("moods, traits") && manifest.about.contains("dev score"));
    let clip = trained.features.at("clip.mp4");
    film(3).write(&clip)?;
    let mut predict = meptr(["predict", "--format", "json", "--weights"]);
    predict.0.arg(run.join("bundle")).arg(&clip);
    let done = predict.ends_with(0)?;
    assert_eq!(text(&done.json()?["videos"][0]["weights"]["name"]), "trained");
    Ok(())
}

pub(crate) fn evaluate(trained: &Trained, corpus: &str, more: &[&str]) -> Run {
    let features = &trained.features;
    let mut run = meptr(["evaluate", "--weights"]);
    run.0.arg(trained.run().join("bundle")).arg("--store").arg(features.at("store"));
    run.0.arg("--corpus").arg(features.at(&format!("{corpus}.toml"))).args(more);
    run
}

#[test]
fn every_model_of_a_bundle_is_scored() -> Result<()> {
    let trained = Trained::shared();
    let csv = trained.features.at("clips.csv").display().to_string();
    let done = evaluate(trained, "moods", &["--format", "json", "--csv", &csv]).ends_with(0)?;
    let report = done.json()?;
    let models = list(&report["models"]);
    assert_eq!(models.len(), 11);
    assert_eq!(list(&report["published"]).len(), 3);
    for model in models {
        let rows = if model["model"] == "text" { 12 } else { 14 };
        assert_eq!(model["emotion"]["rows"], rows, "{model}");
        assert!(model["personality"].is_null());
        assert_eq!(list(&model["emotion"]["classes"]).len(), 6);
    }
    let fusion = &models[10];
    assert_eq!((text(&fusion["stage"]), text(&fusion["model"])), ("stage3", "fusion"));
    // What the features tell is easy to learn.
    assert!(number(&fusion["emotion"]["muar"]) > 0.6, "{fusion}");
    assert!(number(&fusion["emotion"]["reference"]["muar"]) > 0.6, "{fusion}");
    let strongest = &fusion["emotion"]["strongest"];
    let counts = list(&strongest["confusion"]).iter().flat_map(list).map(number);
    assert_eq!(counts.sum::<f64>(), 14.0, "{strongest}");
    let [low, high] = list(&fusion["intervals"]["emotion"]["accuracy"]) else { panic!("{fusion}") };
    let accuracy = number(&strongest["accuracy"]);
    assert!(number(low) <= accuracy && accuracy <= number(high), "{fusion}");
    assert_eq!(number(&fusion["chance"]["emotion"]["muar"]), 0.5);
    assert_eq!(
        (text(&report["schema"]), number(&report["resamples"])),
        ("meptr-evaluation/2", 1e3)
    );
    let table = std::fs::read_to_string(&csv)?;
    assert_eq!(table.lines().count(), 1 + 2 * (4 * 14 + 12) + 14);

    let truth = trained.features.at("moods/hidden-test.csv").display().to_string();
    let more = ["--stage", "stage3", "--truth", &truth, "--format", "json"];
    let report = evaluate(trained, "moods", &more).ends_with(0)?.json()?;
    let [only] = list(&report["models"]) else { panic!("{report}") };
    assert!(only["emotion"].is_null());
    assert_eq!(list(&only["personality"]["trait_ccc"]).len(), 5);

    let table = evaluate(trained, "moods", &[]).ends_with(0)?.out;
    for part in ["95 % interval", "reference", "strongest: truth", "Neutral has no column"] {
        assert!(table.contains(part), "{part} is not in {table}");
    }
    let table = evaluate(trained, "traits", &[]).ends_with(0)?.out;
    for part in ["mACC", "Extraversion", "cannot be compared", "70.26", "DEMONSTRATION"] {
        assert!(table.contains(part), "{part} is not in {table}");
    }
    let other = trained.features.at("train.toml").display().to_string();
    evaluate(trained, "moods", &["--truth", &other]).ends_with(2)?;
    Ok(())
}

/// The bytes of every checkpoint and of the bundle's weights.
fn weights(run: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut folders = vec![run.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "safetensors") {
                let bytes = std::fs::read(&path)?;
                found.push((path.strip_prefix(run)?.to_owned(), bytes));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(unix)]
#[test]
fn a_run_that_was_stopped_twice_ends_as_one_that_was_not() -> Result<()> {
    let trained = Trained::shared();
    let features = &trained.features;
    let start = train(features, "all", "stopped", &[]);
    let done = stop(start, "INT", &features.at("stopped/stage1/scene-emotion/log.jsonl"))?;
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.contains("--resume` goes on"), "{}", done.err);
    // Settings are those of the run.
    let mut with_settings = resume(features, "stopped");
    with_settings.0.args(["--seed", "3"]);
    with_settings.ends_with(2)?;
    let again = resume(features, "stopped");
    stop(again, "KILL", &features.at("stopped/stage3/fusion/last.safetensors"))?;
    let done = resume(features, "stopped").ends_with(0)?;
    assert!(done.err.contains("stage3 fusion: goes on after epoch"), "{}", done.err);

    let (expected, found) = (weights(&trained.run())?, weights(&features.at("stopped"))?);
    let names = |files: &[(PathBuf, Vec<u8>)]| -> Vec<PathBuf> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&expected), names(&found));
    for ((name, expected), (_, found)) in expected.iter().zip(&found) {
        assert!(expected == found, "{} differs", name.display());
    }
    for model in ["stage1/scene-emotion", "stage3/fusion"] {
        let lines = |run: &Path| -> Result<Vec<(Value, Value)>> {
            let lines = log(run, model)?;
            Ok(lines.iter().map(|line| (line["epoch"].clone(), line["loss"].clone())).collect())
        };
        assert_eq!(lines(&trained.run())?, lines(&features.at("stopped"))?, "{model}");
        let events = |run: &Path| std::fs::metadata(run.join(model).join(EVENTS));
        assert_eq!(events(&trained.run())?.len(), events(&features.at("stopped"))?.len());
    }
    // A finished run has nothing to do and says the same again.
    let out = resume(features, "stopped").ends_with(0)?.out;
    assert!(out.contains("stage3 fusion") && out.contains("bundle:"), "{out}");
    Ok(())
}

const EVENTS: &str = "events.out.tfevents.meptr";

/// Sends a signal when a file is there.
fn stop(mut run: Run, signal: &str, file: &Path) -> Result<Done> {
    let mut child = run.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let start = Instant::now();
    while !file.exists() {
        ensure!(child.try_wait()?.is_none(), "it ended before `{}` was there", file.display());
        ensure!(start.elapsed() < Duration::from_secs(120), "nothing comes");
        std::thread::sleep(Duration::from_millis(2));
    }
    let kill = format!("kill -s {signal} {}", child.id());
    ensure!(Command::new("sh").args(["-c", &kill]).status()?.success());
    Done::of(child.wait_with_output()?)
}

#[test]
fn settings_can_be_changed_by_key_and_stages_built_upon_another_run() -> Result<()> {
    let trained = Trained::shared();
    let features = &trained.features;
    let from = trained.run().display().to_string();
    let mut run = meptr(["train", "stage3", "--from", &from, "--out"]);
    run.0.arg(features.at("other")).args(["--set", "stage3.training.max_epochs=2"]);
    let objective = "stage3.objective={ kind = \"published\", lambda = 0 }";
    run.0.args(["--set", objective, "--seed", "9"]);
    let done = run.ends_with(0)?;
    assert!(done.err.contains("stage3 fusion: epoch 2: loss"), "{}", done.err);
    assert_eq!(log(&features.at("other"), "stage3/fusion")?.len(), 2);
    let config = std::fs::read_to_string(features.at("other/config.toml"))?;
    assert!(config.contains("seed = 9") && config.contains("lambda = 0.0"), "{config}");
    assert!(Bundle::open(&features.at("other/bundle")).is_ok());
    let head = |run: PathBuf| std::fs::read(run.join("bundle/heads/face.safetensors"));
    assert!(head(features.at("other"))? == head(trained.run())?);
    // A folder that holds a run is not written over.
    let again = train(features, "stage3", "other", &[]).ends_with(2)?;
    assert!(again.err.contains("holds a run"), "{}", again.err);
    let alone = train(features, "stage2", "alone", &[]).ends_with(2)?;
    assert!(alone.err.contains("stage2 needs models of stage1"), "{}", alone.err);
    assert!(!features.at("alone").exists());
    Ok(())
}

#[test]
fn everything_wrong_is_told_before_any_training() -> Result<()> {
    let features = Features::new()?;
    let config = features.at("train.toml");
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, text.replace("corpora", "corproa"))?;
    let more = [
        "--set=stage1.training.learning_rate=-1",
        "--set=stage2.pairing=none",
        "--set=stage3.training.batch_size=many",
        "--set=stage3.objective.lamdba=0.1",
    ];
    let done = train(&features, "all", "run", &more).ends_with(2)?;
    for part in [
        "`corproa`: there is no such key",
        "`corpora` is missing",
        "`stage1.training.learning_rate` must be above 0",
        "`stage2.pairing`",
        "`stage3.training.batch_size`",
        "`stage3.objective.lamdba`",
    ] {
        assert!(done.err.contains(part), "{part} is not in {}", done.err);
    }
    std::fs::write(&config, &text)?;

    // Other numbers than those that were written, at the end of a file.
    let damaged = features.stored("moods", "train", 5);
    let mut bytes = std::fs::read(&damaged)?;
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&damaged, bytes)?;
    let done = train(&features, "all", "run", &[]).ends_with(2)?;
    assert!(
        done.err.contains("train-5.safetensors") && done.err.contains("were altered"),
        "{}",
        done.err
    );

    // Splits that are not there, or say nothing about a task.
    std::fs::remove_dir_all(features.at("store/moods/dev"))?;
    let traits = std::fs::read_to_string(features.at("traits.toml"))?;
    std::fs::write(features.at("traits.toml"), traits.replace("dev = \"dev.csv\"\n", ""))?;
    let done = train(&features, "all", "run", &[]).ends_with(2)?;
    assert!(done.err.contains("run `meptr extract` first"), "{}", done.err);
    let toml = std::fs::read_to_string(features.at("moods.toml"))?;
    std::fs::write(features.at("moods.toml"), toml.replace("dev = \"dev.csv\"\n", ""))?;
    let done = train(&features, "all", "run", &[]).ends_with(2)?;
    assert!(done.err.contains("no corpus has a dev split"), "{}", done.err);
    assert!(!features.at("run").exists());
    Ok(())
}

#[test]
fn features_of_other_weights_are_refused() -> Result<()> {
    let features = Features::new()?;
    let mut init = meptr(["weights", "init", "--preset", "demo", "--seed", "5"]);
    init.0.arg(features.at("base"));
    init.ends_with(0)?;
    let base = features.at("base").display().to_string();
    let done = train(&features, "stage1", "run", &["--base", &base]).ends_with(2)?;
    assert!(done.err.contains("extracted with other weights"), "{}", done.err);
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_made_is_named() -> Result<()> {
    let features = Features::new()?;
    std::fs::write(features.at("file"), "")?;
    let done = train(&features, "stage1", "file/run", &[]).ends_with(2)?;
    assert!(done.err.contains("cannot write") && done.err.contains("file/run"), "{}", done.err);
    Ok(())
}

fn search(trained: &Trained, strategy: &str, more: &[&str]) -> Run {
    let mut run = meptr(["search", strategy, "--quiet", "--from"]);
    run.0.arg(trained.run()).arg("--out").arg(trained.features.at("search"));
    run.0.arg("--grid").arg(trained.features.at("grid.toml")).args(more);
    run
}

#[test]
fn a_search_makes_each_trial_once() -> Result<()> {
    let trained = Trained::shared();
    let grid = trained.features.at("grid.toml");
    let out = trained.features.at("search");
    std::fs::write(&grid, "stage3.training.learnign_rate = [0.1]\nstage3.seed = [1, 'a']\n")?;
    let done = search(trained, "exhaustive", &[]).ends_with(2)?;
    assert!(
        done.err.contains("learnign_rate") && done.err.contains("`stage3.seed`"),
        "{}",
        done.err
    );
    assert!(!out.exists());

    let text =
        "stage3.training.max_epochs = [1, 2]\n[stage3.training]\nlearning_rate = [0.001, 0.01]\n";
    std::fs::write(&grid, text.replace("[stage3.training]\nl", "stage3.training.l"))?;
    let done = search(trained, "exhaustive", &["--format", "jsonl"]).ends_with(0)?;
    let trials = done.json_lines()?;
    assert_eq!(trials.len(), 4);
    let results = std::fs::read_to_string(out.join("results.jsonl"))?;
    assert_eq!(results.lines().count(), 4);
    // The last two are made again, with the same result; greedy knows all that it needs.
    let kept: String = results.lines().take(2).map(|line| format!("{line}\n")).collect();
    std::fs::write(out.join("results.jsonl"), kept)?;
    let again = search(trained, "exhaustive", &["--format", "jsonl"]).ends_with(0)?.json_lines()?;
    for (one, other) in trials.iter().zip(&again) {
        assert_eq!(
            (&one["settings"], &one["dev_score"]),
            (&other["settings"], &other["dev_score"])
        );
    }
    let table = search(trained, "greedy", &[]).ends_with(0)?.out;
    assert_eq!(std::fs::read_to_string(out.join("results.jsonl"))?.lines().count(), 4);
    assert!(table.contains("learning_rate = 0.001"), "{table}");

    let best = |trials: &[Value]| -> Result<f64> {
        let scores = trials.iter().map(|trial| number(&trial["dev_score"]));
        scores.reduce(f64::max).context("a trial")
    };
    let best_config = out.join("best.toml").display().to_string();
    let mut run = meptr(["train", "stage3", "--quiet", "--format", "json", "--config"]);
    run.0.arg(best_config).arg("--out").arg(trained.features.at("best"));
    let summary = run.ends_with(0)?.json()?;
    let score = number(&summary["models"][0]["best"]["dev_score"]);
    assert_eq!(score, best(&trials)?);
    Ok(())
}
