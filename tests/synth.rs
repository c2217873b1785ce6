//! `meptr synth`: corpora that the other commands take, the same ones every time.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use meptr_core::store::{FeatureFile, Store};
use meptr_core::{Modality, Task};
use meptr_train::data::DescribedCorpus;

use crate::support::{Folder, meptr};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/demo");

fn synth(folder: &Path, seed: &str) -> Result<()> {
    let mut run = meptr(["synth", "--videos", "5", "--seed", seed]);
    run.0.arg(folder);
    let done = run.ends_with(0)?;
    assert!(done.out.contains("emotions.toml") && done.out.contains("traits.toml"), "{}", done.out);
    assert_eq!(done.err, "");
    Ok(())
}

/// The content of every file below a folder, by its path from there.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder)?.display().to_string();
                found.insert(name, std::fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

#[test]
fn the_same_seed_gives_the_same_bytes() -> Result<()> {
    let folder = Folder::new()?;
    for (name, seed) in [("a", "3"), ("b", "3"), ("c", "4")] {
        synth(&folder.at(name), seed)?;
    }
    let [a, b, c] = ["a", "b", "c"].map(|name| files(&folder.at(name)));
    let (a, b, c) = (a?, b?, c?);
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(b[name] == *bytes, "{name}");
    }
    assert!(a["emotions/train.csv"] != c["emotions/train.csv"]);
    // Two configurations, six tables, each also hidden, and the videos.
    assert_eq!(a.len(), 2 * (2 + 6) + 2 * 5, "{:?}", a.keys());
    Ok(())
}

#[test]
fn both_corpora_are_extracted_as_they_are() -> Result<()> {
    let folder = Folder::new()?;
    let corpora = folder.at("corpora");
    synth(&corpora, "1")?;
    let store = folder.at("store");
    for (name, task) in [("emotions", Task::Emotion), ("traits", Task::Personality)] {
        let toml = corpora.join(format!("{name}.toml"));
        let mut run = meptr(["extract", "--weights", DEMO, "--quiet"]);
        run.0.arg(&toml).arg("--store").arg(&store);
        run.ends_with(0)?;
        let corpus = DescribedCorpus::read_with_media(&toml)?;
        let hidden =
            DescribedCorpus::read_with_media(&corpora.join(format!("hidden/{name}.toml")))?;
        assert_eq!((&corpus.name, &corpus.warnings), (&hidden.name, &hidden.warnings));
        for (split, hidden) in corpus.splits().iter().zip(hidden.splits()) {
            for (clip, hidden) in split.clips.iter().zip(&hidden.clips) {
                assert_eq!((&clip.name, &clip.text), (&hidden.name, &hidden.text));
                let tells_emotions = task == Task::Emotion;
                assert_eq!(clip.emotion.is_some(), tells_emotions);
                assert_eq!(clip.personality.is_some(), !tells_emotions);
                assert_eq!(hidden.emotion.is_some(), !tells_emotions);
                assert_eq!(hidden.personality.is_some(), tells_emotions);
                let path = Store::at(&store).path(&corpus.name, split.name, &clip.name);
                let file = FeatureFile::open(&path)?;
                for modality in Modality::ALL {
                    file.sequence(modality)?.with_context(|| format!("{modality}"))?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn faces_are_found_in_most_pictures() -> Result<()> {
    let folder = Folder::new()?;
    synth(&folder.at("corpora"), "5")?;
    let mut run = meptr(["predict", "--format", "json", "--weights", DEMO]);
    run.0.arg(folder.at("corpora/traits/video/train"));
    let result = run.ends_with(0)?.json()?;
    let (mut found, mut all) = (0.0, 0.0);
    for video in crate::support::list(&result["videos"]) {
        let sources = &video["predictions"][0]["modalities"]["face"]["sources"];
        for source in crate::support::list(sources) {
            let crops = crate::support::number(&source["crops"]);
            all += crops;
            found += if source["source"] == "detected" { crops } else { 0.0 };
        }
    }
    assert!(all > 80.0 && found > 0.9 * all, "{found} of {all}");
    Ok(())
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() -> Result<()> {
    let folder = Folder::new()?;
    folder.file("mine.txt", "mine")?;
    let mut run = meptr(["synth", "--videos", "5"]);
    run.0.arg(folder.path());
    let done = run.ends_with(2)?;
    assert!(done.err.contains("is not empty"), "{}", done.err);
    assert_eq!(files(folder.path())?.len(), 1);
    let done = meptr(["synth", "x", "--videos", "4"]).within(folder.path()).ends_with(2)?;
    assert!(done.err.contains("from 5 to"), "{}", done.err);
    let done = meptr(["synth", "mine.txt"]).within(folder.path()).ends_with(2)?;
    assert!(done.err.contains("mine.txt"), "{}", done.err);
    Ok(())
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_whole_videos_and_no_tables() -> Result<()> {
    use std::process::{Command, Stdio};
    let folder = Folder::new()?;
    let target = folder.at("corpora");
    let mut run = meptr(["synth", "--videos", "2000"]);
    let mut child = run.0.arg(&target).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let start = std::time::Instant::now();
    while files(&target).map_or(0, |files| files.len()) < 5 {
        anyhow::ensure!(start.elapsed().as_secs() < 60 && child.try_wait()?.is_none(), "no videos");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status()?;
    let done = crate::support::Done::of(child.wait_with_output()?)?;
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.contains("without tables"), "{}", done.err);
    let is_video = |name: &String| name.ends_with(".mp4") || name.ends_with(".mkv");
    assert!(files(&target)?.keys().all(is_video));
    Ok(())
}
