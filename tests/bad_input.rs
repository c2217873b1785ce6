//! Files as people have them, and files that are broken: a result or a reason, for each alone.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use ffmpeg_next::format::Pixel;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::clips::{Audio, Clip, Video};
use crate::support::{Folder, film, list, meptr, number, text};

/// Names of the modalities of a result that are there.
fn available(result: &Value) -> Vec<&str> {
    let modalities = result["predictions"][0]["modalities"].as_object().expect("modalities");
    let there = modalities.iter().filter(|(_, one)| one["available"] == true);
    let mut names: Vec<&str> = there.map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    // Whoever is missing says why.
    let missing = modalities.iter().filter(|(_, one)| one["available"] == false);
    missing.for_each(|(name, one)| assert!(!text(&one["reason"]).is_empty(), "{name}"));
    for part in ["body", "face"].map(|name| &modalities[name]) {
        let found = list(&part["sources"]).iter().any(|one| one["source"] == "detected");
        let in_some = part["reason"].as_str().is_some_and(|why| why.contains("in some frames"));
        assert!(found || !in_some, "{part}");
    }
    names
}

const PICTURES: [&str; 3] = ["body", "face", "scene"];
const BOTH: [&str; 4] = ["audio", "body", "face", "scene"];
const SOUND: [&str; 1] = ["audio"];

#[test]
fn odd_clips_give_a_result() -> Result<()> {
    let folder = Folder::new()?;
    let ffv1 = |pixel, width, height| Clip::of_video(Video::ffv1(pixel, width, height, 3));
    let irregular = vec![0, 40, 45, 500, 700, 1900];
    let irregular = Video { times_ms: Some(irregular), ..Video::mpeg4(64, 48, 6) };
    let silent = Audio { is_silent: true, ..Audio::pcm(16_000, 1, 0.2) };
    let surround = Clip { audio: Some(Audio::aac(48_000, 6, 0.4)), ..film(2) };
    // Name, clip, frames, modalities.
    let cases: [(&str, Clip, usize, &[&str]); 14] = [
        ("plain.mp4", film(3), 3, &BOTH),
        ("no sound.mp4", Clip::of_video(Video::mpeg4(64, 48, 3)), 3, &PICTURES),
        ("no pictures.m4a", Clip::of_audio(Audio::aac(44_100, 2, 0.5)), 0, &SOUND),
        ("one frame.mp4", Clip::of_video(Video::mpeg4(64, 48, 1)), 1, &PICTURES),
        ("10 frames.mkv", film(10), 10, &BOTH),
        ("odd size.mkv", ffv1(Pixel::YUV420P, 63, 47), 3, &PICTURES),
        ("tiny.mkv", ffv1(Pixel::YUV444P, 1, 1), 3, &PICTURES),
        ("narrow.mkv", ffv1(Pixel::YUV444P, 3, 400), 3, &PICTURES),
        ("10 bit.mkv", ffv1(Pixel::YUV420P10LE, 64, 48), 3, &PICTURES),
        ("irregular.mkv", Clip::of_video(irregular), 6, &PICTURES),
        ("telephone.wav", Clip::of_audio(Audio::pcm(8000, 1, 0.5)), 0, &SOUND),
        ("surround.mp4", surround, 2, &BOTH),
        ("silent.mkv", Clip { audio: Some(silent), ..film(2) }, 2, &PICTURES),
        ("sizes.avi", Clip::of_video(Video::mjpeg(&[(64, 48, 2), (96, 64, 2)])), 4, &PICTURES),
    ];
    for (name, clip, ..) in &cases {
        folder.clip(name, clip)?;
    }
    let names = cases.iter().map(|(name, ..)| *name);
    let run = meptr(["predict", "--format", "jsonl"].into_iter().chain(names));
    let found = run.within(folder.path()).ends_with(0)?.json_lines()?;
    assert_eq!(found.len(), cases.len());
    for ((name, _, frames, modalities), found) in cases.iter().zip(&found) {
        assert_eq!(found["video"], *name);
        assert_eq!(found["media"]["frames"], *frames, "{name}");
        assert_eq!(available(found), *modalities, "{name}");
        let chosen = list(&found["predictions"][0]["frames"]);
        let chosen: Vec<usize> =
            chosen.iter().map(|one| one["index"].as_u64().expect("an index") as usize).collect();
        assert_eq!(chosen, (0..*frames).collect::<Vec<_>>(), "{name}");
    }
    let of = |name: &str| &found[cases.iter().position(|case| case.0 == name).expect("a case")];
    assert!(of("no sound.mp4")["media"]["audio_seconds"].is_null());
    assert!(of("telephone.wav")["media"]["frame_size"].is_null());
    assert_eq!(of("odd size.mkv")["media"]["frame_size"], serde_json::json!([63, 47]));
    let silent = &of("silent.mkv")["predictions"][0]["modalities"]["audio"];
    assert!(text(&silent["reason"]).contains("silent"), "{silent}");
    Ok(())
}

#[test]
fn a_cut_off_video_gives_what_is_left() -> Result<()> {
    let folder = Folder::new()?;
    let whole = std::fs::read(folder.clip("whole.mkv", &film(20))?)?;
    let cut = folder.file("cut.mkv", &whole[..whole.len() * 6 / 10])?;
    let mut run = meptr(["predict", "--format=json"]);
    run.0.arg(cut);
    let found = run.ends_with(0)?.json()?;
    let frames = found["videos"][0]["media"]["frames"].as_u64().expect("a count");
    assert!((5..20).contains(&frames), "{frames}");
    Ok(())
}

/// A file whose header states a length of 31 years.
fn endless(folder: &Folder) -> Result<PathBuf> {
    let path = folder.clip("endless.mkv", &film(20))?;
    let mut data = std::fs::read(&path)?;
    let header = [0x44, 0x89, 0x88]; // Duration, 8 bytes long
    let at = data.windows(3).position(|word| word == header).expect("a duration") + 3;
    data[at..at + 8].copy_from_slice(&1e12f64.to_be_bytes()); // in milliseconds
    folder.file("endless.mkv", data)
}

#[test]
fn a_length_that_is_a_lie_is_told_and_costs_nothing() -> Result<()> {
    let folder = Folder::new()?;
    let path = endless(&folder)?;
    for windows in [&[][..], &["--window", "0.4", "--hop", "0.1"]] {
        let mut run = meptr(["predict", "--format=json"]);
        run.0.args(windows).arg(&path);
        let done = run.ends_with(0)?;
        assert!(done.err.contains("states a length"), "{}", done.err);
        let found = &done.json()?["videos"][0];
        assert!(number(&found["media"]["duration_seconds"]) < 1.0, "{}", found["media"]);
        let rows = list(&found["predictions"]);
        assert!(rows.iter().all(|row| number(&row["t_end"]) < 1.0));
        assert!(rows.len() < 15, "{} rows", rows.len());
        let notes = list(&found["notes"]);
        assert!(notes.iter().any(|note| text(note).contains("cut off")), "{notes:?}");
    }
    Ok(())
}

/// The demo bundle with a fusion model that knows no number.
fn without_numbers(folder: &Folder) -> Result<PathBuf> {
    let bundle = folder.at("bundle");
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/demo");
    let manifest: Value = serde_json::from_slice(&std::fs::read(format!("{demo}/manifest.json"))?)?;
    let names = manifest["files"].as_object().expect("files").keys();
    for name in names.map(String::as_str).chain(["manifest.json"]) {
        let path = bundle.join(name);
        std::fs::create_dir_all(path.parent().expect("the bundle"))?;
        std::fs::copy(format!("{demo}/{name}"), path)?;
    }
    let path = bundle.join("fusion.safetensors");
    let mut data = std::fs::read(&path)?;
    let header = 8 + u64::from_le_bytes(data[..8].try_into()?) as usize;
    data[header..].chunks_exact_mut(4).for_each(|one| one.copy_from_slice(&f32::NAN.to_le_bytes()));
    std::fs::write(&path, &data)?;
    let hash = Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut manifest = manifest;
    manifest["files"]["fusion.safetensors"]["sha256"] = hash.into();
    std::fs::write(bundle.join("manifest.json"), manifest.to_string())?;
    Ok(bundle)
}

#[test]
fn results_that_are_no_numbers_are_a_failure() -> Result<()> {
    let folder = Folder::new()?;
    let clip = folder.clip("a.mp4", &film(2))?;
    let mut run = meptr(["predict", "--format=json", "--weights"]);
    run.0.arg(without_numbers(&folder)?).arg(&clip);
    let done = run.ends_with(1)?;
    let error = text(&done.json()?["failures"][0]["error"]).to_owned();
    assert!(error.contains("fusion model"), "{error}");
    assert!(done.err.contains("a.mp4"), "{}", done.err);
    Ok(())
}

/// Broken inputs below `folder`, each with what the reason must contain.
fn broken(folder: &Folder) -> Result<Vec<(PathBuf, &'static str)>> {
    let film = std::fs::read(folder.clip("film.mp4", &film(25))?)?;
    let silent = Audio { is_silent: true, ..Audio::pcm(16_000, 1, 0.5) };
    std::fs::create_dir(folder.at("nothing in it"))?;
    let long = "x".repeat(300) + ".mp4";
    let mut broken = vec![
        (folder.at("gone.mp4"), "No such file"),
        (folder.file("empty.mp4", "")?, "empty"),
        (folder.file("text.mp4", "This is no video.\n".repeat(50))?, "no known audio or video"),
        (folder.file("cut.mp4", &film[..film.len() / 2])?, "cannot be decoded"),
        (folder.file("headers.mp4", &film[..40])?, "cannot be decoded"),
        (folder.file("zeros.mp4", [0; 9000])?, "no known audio or video"),
        (folder.clip("silent.wav", &Clip::of_audio(silent))?, "nothing to predict from"),
        (folder.at("nothing in it"), "no video was found"),
        (folder.at(&long), "name too long"),
    ];
    #[cfg(unix)]
    {
        let fifo = folder.at("fifo.mp4");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status()?.success());
        broken.push((fifo, "not a regular file"));
        std::os::unix::fs::symlink("gone.mp4", folder.at("dangling.mp4"))?;
        broken.push((folder.at("dangling.mp4"), "No such file"));
        std::os::unix::fs::symlink("circle.mp4", folder.at("circle.mp4"))?;
        broken.push((folder.at("circle.mp4"), "symbolic links"));
        broken.extend(unreadable(folder, &film)?);
    }
    Ok(broken)
}

/// A file that we may not read; none for the superuser, who may read all.
#[cfg(unix)]
fn unreadable(folder: &Folder, film: &[u8]) -> Result<Option<(PathBuf, &'static str)>> {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.file("unreadable.mp4", film)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000))?;
    Ok(std::fs::File::open(&path).is_err().then_some((path, "ermission denied")))
}

#[test]
fn broken_inputs_are_named_with_a_reason_and_the_others_come_out() -> Result<()> {
    let folder = Folder::new()?;
    let broken = broken(&folder)?;
    let first = folder.clip("first.mp4", &film(1))?;
    let last = folder.clip("last.mp4", &film(1))?;
    let run = |format: &str| {
        let mut run = meptr(["predict", "--format", format]);
        run.0.arg(&first).args(broken.iter().map(|(path, _)| path)).arg(&last);
        run.ends_with(1)
    };
    let check = |failures: &[(String, String)], results: &[String]| {
        assert_eq!(results, [first.display().to_string(), last.display().to_string()]);
        assert_eq!(failures.len(), broken.len());
        for (path, reason) in &broken {
            let name = path.display().to_string();
            let (_, error) = failures.iter().find(|(video, _)| *video == name).expect(&name);
            assert!(error.contains(&name) && error.contains(reason), "{name}: {error}");
        }
    };
    let owned = |value: &Value, name: &str| text(&value[name]).to_owned();
    let failure = |value: &Value| (owned(value, "video"), owned(value, "error"));

    let json = run("json")?;
    let found = json.json()?;
    let failures: Vec<_> = list(&found["failures"]).iter().map(failure).collect();
    let results: Vec<_> = list(&found["videos"]).iter().map(|one| owned(one, "video")).collect();
    check(&failures, &results);
    for (_, error) in &failures {
        assert!(json.err.contains(error.as_str()), "{error} is not in {}", json.err);
    }

    let found = run("jsonl")?.json_lines()?;
    let (failed, good): (Vec<&Value>, Vec<_>) =
        found.iter().partition(|one| one.get("error").is_some());
    let results: Vec<_> = good.into_iter().map(|one| owned(one, "video")).collect();
    check(&failed.into_iter().map(failure).collect::<Vec<_>>(), &results);

    let found = run("csv")?.csv()?;
    let (failed, good): (Vec<&Value>, Vec<_>) = found.iter().partition(|row| row["error"] != "");
    let results: Vec<_> = good.into_iter().map(|one| owned(one, "video")).collect();
    check(&failed.into_iter().map(failure).collect::<Vec<_>>(), &results);

    let table = run("table")?.out;
    assert_eq!(table.matches("  failed: ").count(), broken.len());
    assert_eq!(table.matches("  weights: ").count(), 2);
    Ok(())
}

#[test]
fn when_all_inputs_fail_the_report_is_still_whole() -> Result<()> {
    let found = meptr(["predict", "--format", "json", "gone.mp4"]).ends_with(1)?.json()?;
    assert_eq!(found["videos"], serde_json::json!([]));
    assert_eq!(list(&found["failures"]).len(), 1);
    assert_eq!(meptr(["predict", "--format", "csv", "gone.mp4"]).ends_with(1)?.csv()?.len(), 1);
    let quiet = meptr(["-q", "predict", "gone.mp4"]).ends_with(1)?;
    assert!(quiet.err.contains("gone.mp4"), "errors are never quiet: {}", quiet.err);
    Ok(())
}

/// Names that some program somewhere trips over.
fn names() -> Vec<OsString> {
    let long = "x".repeat(251) + ".mp4";
    let mut names: Vec<OsString> =
        ["two words.mp4", "-dash.mp4", "--format.mp4", "ünïcödé 你好.mp4"]
            .into_iter()
            .map(OsString::from)
            .chain([long.into()])
            .collect();
    #[cfg(unix)]
    {
        let more = [
            "it's \"quoted\".mp4",
            "line\nbreak.mp4",
            "\x1b[31mred.mp4",
            "concat:a.mp4",
            "%03d.mp4",
        ];
        names.extend(more.map(OsString::from));
    }
    #[cfg(target_os = "linux")]
    names.push(std::os::unix::ffi::OsStringExt::from_vec(b"not utf8 \xff\xfe.mp4".to_vec()));
    names
}

#[test]
fn names_of_any_kind_are_read_and_told() -> Result<()> {
    let folder = Folder::new()?;
    let plain = folder.clip("plain.mp4", &film(1))?;
    let names = names();
    for name in &names {
        std::fs::copy(&plain, folder.path().join(name))?;
    }
    let told: Vec<String> = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    let run = |format: &str, code| {
        let mut run = meptr(["predict", "--format", format, "--"]);
        run.0.args(&names);
        run.within(folder.path()).ends_with(code)
    };
    let videos = |found: &[Value]| -> Vec<String> {
        found.iter().map(|one| text(&one["video"]).to_owned()).collect()
    };
    assert_eq!(videos(&run("jsonl", 0)?.json_lines()?), told);
    assert_eq!(videos(list(&run("json", 0)?.json()?["videos"])), told);
    assert_eq!(videos(&run("csv", 0)?.csv()?), told);
    assert!(!run("table", 0)?.out.contains('\x1b'));

    // The same names when they are told as failures.
    for name in &names {
        std::fs::write(folder.path().join(name), "")?;
    }
    assert_eq!(videos(list(&run("json", 1)?.json()?["failures"])), told);
    assert_eq!(videos(&run("csv", 1)?.csv()?), told);
    assert!(!run("table", 1)?.out.contains('\x1b'));
    Ok(())
}

#[test]
fn a_folder_means_the_videos_below_it() -> Result<()> {
    let folder = Folder::new()?;
    std::fs::create_dir_all(folder.at("below/deeper"))?;
    folder.clip("b.mp4", &film(2))?;
    folder.clip("below/deeper/a.mkv", &film(2))?;
    folder.file("notes.txt", "no video")?;
    let mut expected = vec!["./b.mp4", "./below/deeper/a.mkv"];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("b.mp4", folder.at("link.mp4"))?;
        std::os::unix::fs::symlink("..", folder.at("below/up"))?;
        expected.push("./link.mp4");
    }
    let run = meptr(["predict", "--format", "jsonl", "."]).within(folder.path());
    let found = run.ends_with(0)?.json_lines()?;
    let found: Vec<&str> = found.iter().map(|one| text(&one["video"])).collect();
    assert_eq!(found, expected);
    Ok(())
}

#[test]
fn an_output_that_cannot_be_written_is_named() -> Result<()> {
    let folder = Folder::new()?;
    folder.clip("a.mp4", &film(2))?;
    let refused = |output: &str, reason: &str| -> Result<()> {
        for format in ["table", "json", "jsonl", "csv"] {
            let run = meptr(["predict", "a.mp4", "--format", format, "--output", output]);
            let done = run.within(folder.path()).ends_with(2)?;
            assert!(done.err.contains(output) && done.err.contains(reason), "{}", done.err);
            assert_eq!(done.out, "");
        }
        Ok(())
    };
    refused("gone/out.csv", "No such file")?;
    refused(".", "directory")?;
    #[cfg(target_os = "linux")]
    {
        refused("/dev/full", "No space left")?;
        let mut run = meptr(["predict", "--format", "csv", "a.mp4"]).within(folder.path());
        run.0.stdout(std::fs::File::create("/dev/full")?);
        let done = run.ends_with(2)?;
        assert!(done.err.contains("standard output") && done.err.contains("No space"), "{done:?}");
    }
    let dump = ["predict", "--format", "json", "--dump", "a.mp4/frames", "a.mp4"];
    let done = meptr(dump).within(folder.path()).ends_with(1)?;
    assert!(text(&done.json()?["failures"][0]["error"]).contains("a.mp4/frames"), "{done:?}");
    Ok(())
}

/// Both have no end.
#[test]
#[cfg(target_os = "linux")]
fn devices_are_no_configurations() -> Result<()> {
    let folder = Folder::new()?;
    for line in ["weights list --manifest /dev/zero", "extract /dev/zero --store s"] {
        let done = meptr(line.split(' ')).within(folder.path()).ends_with(2)?;
        let reason = "it is a device or a pipe, not a file";
        assert!(done.err.contains("`/dev/zero`") && done.err.contains(reason), "{}", done.err);
    }
    Ok(())
}

#[test]
fn an_output_never_overwrites_an_input() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.clip("a.mp4", &film(2))?;
    let before = std::fs::read(&path)?;
    for output in ["a.mp4", "./a.mp4"] {
        let run = meptr(["predict", "a.mp4", "--output", output]).within(folder.path());
        let done = run.ends_with(2)?;
        assert!(done.err.contains("a.mp4") && done.err.contains("input"), "{}", done.err);
    }
    #[cfg(unix)]
    {
        std::fs::hard_link(&path, folder.at("same.csv"))?;
        let run = meptr(["predict", "a.mp4", "-o", "same.csv"]).within(folder.path());
        assert!(run.ends_with(2)?.err.contains("a.mp4"));
    }
    assert_eq!(std::fs::read(&path)?, before);

    // Nor words that a video has, nor what the next run would take for words.
    folder.file("a.txt", "Good day")?;
    folder.file("words", "Good day")?;
    for output in ["a.txt", "./a.srt", "words"] {
        let run = meptr(["predict", "a.mp4", "--transcript-file", "words", "-o", output]);
        let done = run.within(folder.path()).ends_with(2)?;
        assert!(done.err.contains(output), "{}", done.err);
    }
    let words = std::fs::read_to_string(folder.at("a.txt"))?;
    assert_eq!((words.as_str(), folder.at("a.srt").exists()), ("Good day", false));
    #[cfg(unix)]
    {
        let mut run = meptr(["predict", "a.mp4"]).within(folder.path());
        run.0.stdout(std::fs::File::create(folder.at("a.vtt"))?);
        assert!(run.ends_with(2)?.err.contains("a.vtt"));
    }
    Ok(())
}
