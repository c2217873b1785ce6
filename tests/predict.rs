//! Results of `meptr predict` on well-formed videos.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::support::clips::{Audio, Clip, Video};
use crate::support::{Folder, film, list, meptr, number, text};

/// A file of the repository.
fn repository(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// The words between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Fields by the README: a row of its table is a field (below a row of scores when its name starts
/// with a dot) and what it says about it.
fn documented() -> Result<BTreeMap<String, String>> {
    let readme = repository("README.md")?;
    let (_, section) = readme.split_once("### The JSON result").context("its section")?;
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let mut fields = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.split(" | ").collect();
        let names = quoted(cells[0]);
        fields.extend(names.iter().map(|name| ((*name).to_owned(), cells[1].to_owned())));
    }
    Ok(fields)
}

#[test]
fn the_result_has_the_fields_that_the_readme_documents() -> Result<()> {
    let folder = Folder::new()?;
    let subtitles = vec![(0.0, 0.05, "Good day")];
    folder.clip("a.mkv", &Clip { subtitles, ..film(2) })?;
    let run = meptr(["predict", "--format", "json", "a.mkv"]).within(folder.path());
    let report = run.ends_with(0)?.json()?;
    assert_eq!(report["schema"], "meptr-report/1");
    assert_eq!(keys(&report), BTreeSet::from(["failures", "schema", "videos"]));
    let video = &report["videos"][0];
    assert_eq!(video["schema"], "meptr-prediction/2");

    let documented = documented()?;
    let scores = &video["predictions"][0];
    for name in documented.keys() {
        let (holder, key) = match name.strip_prefix('.') {
            Some(key) => (scores, key),
            None => (video, name.as_str()),
        };
        assert!(holder.get(key).is_some(), "the README has `{name}`, the result has not");
    }
    let undocumented = |value: &Value, prefix: &str, also: &str| -> Vec<String> {
        let names = keys(value).into_iter().map(|key| format!("{prefix}{key}"));
        let row = documented.get(also).map(|row| quoted(row)).unwrap_or_default();
        names
            .filter(|name| {
                !documented.contains_key(name) && !row.contains(&name.trim_start_matches('.'))
            })
            .collect()
    };
    let none: [String; 0] = [];
    assert_eq!(undocumented(video, "", ""), ["schema"], "told above the table");
    assert_eq!(undocumented(scores, ".", "predictions"), none);
    assert_eq!(undocumented(&video["media"], "", "media"), none);
    assert_eq!(undocumented(&scores["emotions"][0], "", ".emotions"), none);
    assert_eq!(undocumented(&scores["traits"][0], "", ".traits"), none);
    assert_eq!(undocumented(&scores["modalities"]["face"], "", ".modalities"), none);
    assert_eq!(undocumented(&scores["frames"][0], "", ".frames"), none);
    assert_eq!(undocumented(&video["transcript"], "", "transcript"), none);
    Ok(())
}

/// Checks that hold for every row of scores.
fn check_scores(scores: &Value) {
    let emotions = list(&scores["emotions"]);
    let names: Vec<&str> = emotions.iter().map(|one| text(&one["emotion"])).collect();
    let expected = ["Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise"];
    let lower = |names: &[&str]| names.iter().map(|one| one.to_lowercase()).collect::<Vec<_>>();
    assert_eq!(lower(&names), lower(&expected));
    let probabilities: Vec<f64> = emotions.iter().map(|one| number(&one["probability"])).collect();
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{probabilities:?}");
    assert!(probabilities.iter().all(|one| (0.0..=1.0).contains(one)));
    let is_neutral = probabilities[0] >= 6.0 / 7.0;
    let shown = (1..7).filter(|&class| !is_neutral && probabilities[class] >= 1.0 / 7.0);
    let shown: Vec<&str> = shown.map(|class| names[class]).collect();
    let found: Vec<&str> = list(&scores["shown"]).iter().map(text).collect();
    assert_eq!(found, shown);
    let traits = list(&scores["traits"]);
    assert_eq!(traits.len(), 5);
    assert!(traits.iter().all(|one| (0.0..=1.0).contains(&number(&one["score"]))), "{traits:?}");
}

/// Softmax of the logits, in f64.
fn softmax(logits: &[f64]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::MIN, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

#[test]
fn scores_obey_their_rules_and_name_what_they_come_from() -> Result<()> {
    let folder = Folder::new()?;
    folder.clip("a.mp4", &film(100))?;
    folder.clip("b.mkv", &Clip::of_video(Video::mpeg4(64, 48, 31)))?;
    let run = meptr(["predict", "--format", "jsonl", "a.mp4", "b.mkv"]).within(folder.path());
    let found = run.ends_with(0)?.json_lines()?;
    for (video, count) in found.iter().zip([100, 31]) {
        let scores = &video["predictions"][0];
        assert_eq!(scores["scope"], "video");
        check_scores(scores);
        let of = |name| list(&scores["emotions"]).iter().map(|one| number(&one[name])).collect();
        let (logits, probabilities): (Vec<f64>, Vec<f64>) = (of("logit"), of("probability"));
        for (found, expected) in probabilities.iter().zip(softmax(&logits)) {
            assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
        }
        // The reference: numpy.linspace(0, count - 1, 30).astype(int).
        let expected = (0..30).map(|i| (f64::from(i) * ((count - 1) as f64 / 29.0)) as u64);
        let frames = list(&scores["frames"]);
        let indices: Vec<u64> = frames.iter().map(|one| one["index"].as_u64().unwrap()).collect();
        assert_eq!(indices, expected.collect::<Vec<_>>());
        for frame in frames {
            let expected = number(&frame["index"]) / 25.0;
            assert!((number(&frame["time"]) - expected).abs() < 2e-3, "{frame}");
        }
        let crops = scores["modalities"]["scene"]["inputs"].as_u64();
        assert_eq!(crops, Some(30));
        let own = &scores["modalities"]["scene"];
        assert_eq!(list(&own["emotion_logits"]).len(), 7);
        assert_eq!(list(&own["trait_scores"]).len(), 5);
    }

    let manifest: Value = serde_json::from_str(&repository("weights/demo/manifest.json")?)?;
    let weights = &found[0]["weights"];
    assert_eq!(weights["name"], manifest["name"]);
    assert_eq!(weights["status"], manifest["status"]);
    let hashes: BTreeMap<&str, &Value> =
        list(&weights["files"]).iter().map(|one| (text(&one["name"]), &one["sha256"])).collect();
    let listed = manifest["files"].as_object().context("files")?;
    assert_eq!(hashes, listed.iter().map(|(name, one)| (name.as_str(), &one["sha256"])).collect());
    if manifest["status"] != "trained" {
        assert!(list(&found[0]["notes"]).iter().any(|note| text(note).contains("mean nothing")));
    }
    Ok(())
}

/// A clip of the test split of the corpora that the demo weights were trained on.
#[test]
fn the_demo_weights_know_a_drawn_person_they_never_saw() -> Result<()> {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/drawn_sadness.mp4");
    let mut run = meptr(["predict", "--weights", "demo", "--format", "json"]);
    run.0.arg(&clip);
    let report = run.ends_with(0)?.json()?;
    let video = &report["videos"][0];
    assert_eq!(video["predictions"][0]["shown"], serde_json::json!(["sadness"]));
    let notes = list(&video["notes"]);
    assert!(notes.iter().any(|note| text(note).contains("mean nothing")), "{notes:?}");
    Ok(())
}

#[test]
fn the_same_video_gives_the_same_numbers_in_every_format() -> Result<()> {
    let folder = Folder::new()?;
    folder.clip("a.mp4", &film(2))?;
    let run = |arguments: &[&str]| {
        let run = meptr([&["predict", "a.mp4"], arguments].concat()).within(folder.path());
        run.ends_with(0)
    };
    let json = run(&["--format", "json"])?.json()?["videos"][0]["predictions"][0].clone();
    let lines = run(&["--format", "jsonl", "--threads", "1"])?.json_lines()?;
    assert_eq!(lines[0]["predictions"][0], json);
    let rows = run(&["--format", "csv", "--device", "cpu"])?.csv()?;
    assert_eq!(rows.len(), 1);
    for one in list(&json["emotions"]) {
        let name =
            keys(&rows[0]).into_iter().find(|key| key.eq_ignore_ascii_case(text(&one["emotion"])));
        let column: f64 = text(&rows[0][name.context("a column")?]).parse()?;
        assert!((column - number(&one["probability"])).abs() < 1e-9, "{rows:?}");
    }
    assert_eq!(text(&rows[0]["missing_modalities"]), "text");
    let table = run(&[])?.out;
    for line in ["a.mp4", "emotions (shown:", "Happiness", "Openness", "weights: "] {
        assert!(table.contains(line), "{line} is not in\n{table}");
    }
    assert!(!table.contains('\x1b'), "no colours outside a terminal");

    // The ending of --output stands for a format; --format goes before it.
    for (output, format, first) in [
        ("o.json", None, "{\"schema\""),
        ("o.jsonl", None, "{\"schema\":\"meptr-prediction/2\""),
        ("o.csv", None, "video,scope,"),
        ("o.txt", None, "a.mp4"),
        ("o.json", Some("csv"), "video,scope,"),
    ] {
        let format = format.map(|format| ["--format", format]).unwrap_or(["--device", "cpu"]);
        let done = run(&[&["--output", output], &format[..]].concat())?;
        assert_eq!(done.out, "");
        let written = std::fs::read_to_string(folder.at(output))?;
        assert!(written.starts_with(first), "{output}: {written}");
        if output == "o.json" && first.starts_with('{') {
            serde_json::from_str::<Value>(&written)?;
        }
    }
    Ok(())
}

#[test]
fn words_come_from_the_first_place_that_has_them() -> Result<()> {
    let folder = Folder::new()?;
    let inside = Clip { subtitles: vec![(0.0, 0.05, "inside")], ..film(2) };
    let srt = "1\n00:00:00,000 --> 00:00:00,300\nsubrip\n";
    for name in ["txt", "srt", "vtt", "inside"] {
        folder.clip(&format!("{name}.mkv"), &inside)?;
    }
    folder.clip("none.mkv", &film(2))?;
    folder.file("txt.txt", "plain words")?;
    folder.file("srt.srt", srt)?;
    folder.file("vtt.vtt", "WEBVTT\n\n00:00.000 --> 00:00.300\nweb words\n")?;
    folder.file("given.srt", srt.replace("subrip", "from a file"))?;
    let videos = ["txt.mkv", "srt.mkv", "vtt.mkv", "inside.mkv", "none.mkv"];
    let run = |options: &[&str]| -> Result<Vec<(String, String)>> {
        let arguments = [&["predict", "--format", "jsonl"], options, &videos].concat();
        let found = meptr(arguments).within(folder.path()).ends_with(0)?.json_lines()?;
        let told = |video: &Value| {
            let part = &video["predictions"][0]["modalities"]["text"];
            let words = &video["transcript"];
            assert_eq!(part["available"], !words.is_null(), "{part}");
            match words {
                Value::Null => ("none".to_owned(), text(&part["reason"]).to_owned()),
                words => (text(&words["source"]).to_owned(), text(&words["text"]).to_owned()),
            }
        };
        Ok(found.iter().map(told).collect())
    };
    let pair = |source: &str, text: &str| (source.to_owned(), text.to_owned());
    let found = run(&[])?;
    assert_eq!(found[0], pair("sidecar", "plain words"));
    assert_eq!(found[1], pair("sidecar", "subrip"));
    assert_eq!(found[2], pair("sidecar", "web words"));
    assert_eq!(found[3], pair("subtitles", "inside"));
    assert_eq!(found[4].0, "none");
    assert!(found[4].1.contains("no words were given"), "{:?}", found[4]);
    assert_eq!(run(&["--transcript", "as said"])?, vec![pair("argument", "as said"); 5]);
    assert_eq!(run(&["--transcript-file", "given.srt"])?, vec![pair("file", "from a file"); 5]);

    let gone = meptr(["predict", "--transcript-file", "gone.srt", "none.mkv"]);
    let gone = gone.within(folder.path()).ends_with(2)?;
    assert!(gone.err.contains("gone.srt"), "{}", gone.err);
    let film = meptr(["predict", "--transcript-file", "txt.mkv", "none.mkv"]);
    let film = film.within(folder.path()).ends_with(2)?;
    assert!(film.err.contains("no text"), "{}", film.err);
    let skipped = "1\n00:00:09,000 --> 00:00:01,000\nbackwards\n\n".to_owned() + srt;
    folder.file("given.srt", skipped)?;
    let run = meptr(["predict", "--format", "json", "--transcript-file", "given.srt", "none.mkv"]);
    let run = run.within(folder.path()).ends_with(0)?;
    let notes = &run.json()?["videos"][0]["notes"];
    assert!(list(notes).iter().any(|note| text(note).contains("left out: 1")), "{notes}");
    assert!(run.err.contains("left out: 1"), "{}", run.err);
    Ok(())
}

#[test]
fn windows_are_rows_and_their_mean_is_the_summary() -> Result<()> {
    let folder = Folder::new()?;
    let video = Video { rate: 5, ..Video::mpeg4(64, 48, 10) };
    let clip = Clip { video: Some(video), audio: Some(Audio::aac(16_000, 1, 2.0)), ..film(0) };
    folder.clip("a.mkv", &clip)?;
    let windows = ["predict", "a.mkv", "--window", "1", "--hop", "0.5", "--format"];
    let run =
        |format| meptr(windows.into_iter().chain([format])).within(folder.path()).ends_with(0);
    let found = run("json")?.json()?;
    let rows = list(&found["videos"][0]["predictions"]);
    rows.iter().for_each(check_scores);
    let scopes: Vec<&str> = rows.iter().map(|row| text(&row["scope"])).collect();
    assert_eq!(scopes[0], "summary");
    let absent = text(&rows[0]["modalities"]["text"]["reason"]);
    assert!(absent.contains("no words"), "{absent}");
    assert!(scopes[1..].iter().all(|scope| *scope == "window") && scopes.len() >= 5, "{scopes:?}");
    let end = number(&found["videos"][0]["media"]["duration_seconds"]);
    for (position, row) in rows[1..].iter().enumerate() {
        let start = position as f64 * 0.5;
        assert_eq!(number(&row["t_start"]), start);
        assert!((number(&row["t_end"]) - (start + 1.0).min(end)).abs() < 1e-9, "{row}");
        for frame in list(&row["frames"]) {
            let time = number(&frame["time"]);
            assert!((start..start + 1.0).contains(&time), "{time} in the window from {start}");
        }
    }
    let length = |row: &Value| number(&row["t_end"]) - number(&row["t_start"]);
    let total: f64 = rows[1..].iter().map(length).sum();
    for class in 0..7 {
        let of = |row: &Value| number(&row["emotions"][class]["probability"]);
        let mean: f64 = rows[1..].iter().map(|row| of(row) * length(row)).sum::<f64>() / total;
        assert!((of(&rows[0]) - mean).abs() < 1e-6);
    }
    let lines = run("csv")?.csv()?;
    let scopes_of_csv: Vec<&str> = lines.iter().map(|row| text(&row["scope"])).collect();
    assert_eq!(scopes_of_csv, scopes);
    run("table")?;
    Ok(())
}

/// Width and height of a PNG file.
fn png_size(path: &Path) -> Result<(u32, u32)> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    anyhow::ensure!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "{} is no PNG", path.display());
    let side = |at: usize| -> Result<u32> { Ok(u32::from_be_bytes(bytes[at..at + 4].try_into()?)) };
    Ok((side(16)?, side(20)?))
}

#[test]
fn a_dump_holds_what_the_models_saw_and_heard() -> Result<()> {
    let folder = Folder::new()?;
    let audio = Audio { start_seconds: 0.1, ..Audio::pcm(44_100, 2, 1.0) };
    let clip = Clip { audio: Some(audio), ..film(40) };
    folder.clip("a.mkv", &clip)?;
    folder.clip("b.mkv", &film(2))?;
    folder.clip("c.mkv", &film(3))?;
    let run = meptr(["predict", "--format", "json", "--dump", "seen", "a.mkv"]);
    let found = run.within(folder.path()).ends_with(0)?.json()?["videos"][0].clone();
    let frames = list(&found["predictions"][0]["frames"]);
    for frame in frames {
        let name = format!("seen/frames/{:08}.png", frame["index"].as_u64().context("an index")?);
        assert_eq!(png_size(&folder.at(&name))?, (64, 48));
    }
    assert_eq!(std::fs::read_dir(folder.at("seen/frames"))?.count(), 30);
    for part in ["face", "body"] {
        let crops = found["predictions"][0]["modalities"][part]["inputs"].as_u64();
        let files = std::fs::read_dir(folder.at("seen").join(part))?.count();
        assert_eq!(crops, Some(files as u64), "{part}");
    }
    let wav = hound::WavReader::open(folder.at("seen/audio.wav"))?;
    let spec = wav.spec();
    assert_eq!((spec.sample_rate, spec.channels), (16_000, 1));
    let seconds = number(&found["media"]["audio_seconds"]);
    assert_eq!(wav.duration(), (seconds * 16_000.0).round() as u32);
    assert!((seconds - 1.1).abs() < 0.01, "{seconds}");

    // A second run does not mix with the first.
    let again = meptr(["predict", "--dump", "seen", "b.mkv"]).within(folder.path()).ends_with(2)?;
    assert!(again.err.contains("`seen`") && again.err.contains("empty folder"), "{}", again.err);

    // Several videos do not mix.
    let run = meptr(["predict", "--format", "json", "--dump", "both", "b.mkv", "c.mkv"]);
    run.within(folder.path()).ends_with(0)?;
    for (name, count) in [("0001-b", 2), ("0002-c", 3)] {
        assert_eq!(std::fs::read_dir(folder.at("both").join(name).join("frames"))?.count(), count);
    }
    Ok(())
}

#[test]
fn what_cannot_start_says_why() -> Result<()> {
    let folder = Folder::new()?;
    folder.clip("a.mp4", &film(2))?;
    let cases: [(&[&str], &str); 14] = [
        (&["predict"], "PATH"),
        (&["predict", "a.mp4", ""], "PATH"),
        (&["predict", "a.mp4", "--device", "cuda:9"], "cuda:9"),
        (&["predict", "a.mp4", "--device", "gpu"], "cuda:N"),
        (&["predict", "a.mp4", "--format", "xml"], "jsonl"),
        (&["predict", "a.mp4", "--weights", "gone"], "gone"),
        (&["predict", "a.mp4", "--window", "0"], "seconds"),
        (&["predict", "a.mp4", "--hop", "1"], "--window"),
        (&["predict", "a.mp4", "--max-seconds", "nan"], "above 0"),
        (
            &["predict", "a.mp4", "--transcript", "a", "--transcript-file", "b"],
            "cannot be used with",
        ),
        (&["predict", "a.mp4", "--threads", "0"], "threads"),
        (&["predict", "a.mp4", "--threads", "65535"], "threads"),
        (&["weights", "show", "gone"], "gone"),
        (&["weights", "init", "--preset", "huge", "x"], "demo"),
    ];
    for (arguments, reason) in cases {
        let done = meptr(arguments).within(folder.path()).ends_with(2)?;
        assert!(done.err.contains(reason), "{arguments:?}: {}", done.err);
        assert_eq!(done.out, "", "{arguments:?}");
    }
    for arguments in [["--help", ""], ["predict", "--help"], ["--version", ""]] {
        let arguments = arguments.into_iter().filter(|one| !one.is_empty());
        assert!(!meptr(arguments).ends_with(0)?.out.is_empty());
    }
    Ok(())
}

#[test]
fn a_limit_is_told_with_its_value() -> Result<()> {
    let folder = Folder::new()?;
    folder.clip("a.mp4", &film(50))?;
    for (option, value) in [("--max-pixels", "100"), ("--max-seconds", "1")] {
        let run = meptr(["predict", "--format", "json", option, value, "a.mp4"]);
        let found = run.within(folder.path()).ends_with(1)?.json()?;
        let error = text(&found["failures"][0]["error"]);
        assert!(error.contains(option) && error.contains(value), "{error}");
    }
    Ok(())
}
