//! Runs that end early, runs beside each other, and runs in a terminal.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::{Done, Folder, Run, film, meptr, text};

/// Copies of a short clip.
fn many(folder: &Folder, count: usize) -> Result<Vec<PathBuf>> {
    let clip = std::fs::read(folder.clip("clip.mp4", &film(1))?)?;
    (0..count).map(|number| folder.file(&format!("{number:03}.mp4"), &clip)).collect()
}

fn predict(format: &str, videos: &[PathBuf]) -> Run {
    let mut run = meptr(["predict", "--format", format]);
    run.0.args(videos).stdout(Stdio::piped()).stderr(Stdio::piped());
    run
}

#[test]
fn a_reader_that_has_enough_is_no_failure() -> Result<()> {
    let folder = Folder::new()?;
    let videos = many(&folder, 12)?;
    let with_failure = [&[folder.at("gone.mp4")], &videos[..]].concat();
    for format in ["table", "json", "jsonl", "csv"] {
        let mut child = predict(format, &with_failure).0.spawn()?;
        let mut out = BufReader::new(child.stdout.take().context("its output")?);
        out.read_line(&mut String::new())?;
        drop(out);
        let done = Done::of(child.wait_with_output()?)?;
        assert_eq!(done.code, Some(0), "{format}: {}", done.err);
        let errors = done.err.lines().filter(|line| line.contains("ERROR"));
        assert!(errors.clone().all(|line| line.contains("gone.mp4")), "{format}: {}", done.err);
    }
    let mut child = meptr(["weights", "show"]);
    child.0.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/demo"));
    let mut child = child.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    drop(child.stdout.take());
    let done = Done::of(child.wait_with_output()?)?;
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_stopped_run_keeps_what_it_has_finished() -> Result<()> {
    use std::os::unix::process::ExitStatusExt;
    let folder = Folder::new()?;
    let videos = many(&folder, 200)?;
    for (signal, number) in [("TERM", 15), ("INT", 2)] {
        for format in ["jsonl", "csv"] {
            let output = folder.at(&format!("{signal}.{format}"));
            let mut run = predict(format, &videos);
            let mut child = run.0.arg("--output").arg(&output).spawn()?;
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while !std::fs::read_to_string(&output).is_ok_and(|text| text.lines().count() > 3) {
                ensure!(std::time::Instant::now() < deadline, "no result in a minute");
                ensure!(child.try_wait()?.is_none(), "it ended before it was stopped");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            let id = child.id().to_string();
            let kill = format!("kill -s {signal} {id}"); // not every system has the program `kill`
            ensure!(Command::new("sh").args(["-c", &kill]).status()?.success());
            assert_eq!(child.wait()?.signal(), Some(number));
            let written = std::fs::read_to_string(&output)?;
            assert!(written.ends_with('\n'));
            let out = written.clone();
            let done = Done { code: None, out, err: String::new() };
            let rows = if format == "csv" { done.csv()? } else { done.json_lines()? };
            assert!((3..videos.len()).contains(&rows.len()), "{} rows", rows.len());
            for (row, video) in rows.iter().zip(&videos) {
                assert_eq!(text(&row["video"]), video.display().to_string());
            }
        }
    }
    Ok(())
}

#[test]
fn a_killed_run_leaves_no_half_of_a_json_document() -> Result<()> {
    let folder = Folder::new()?;
    let videos = many(&folder, 200)?;
    let output = folder.file("r.json", "{}")?;
    let mut run = predict("json", &videos);
    let mut child = run.0.arg("--output").arg(&output).spawn()?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !std::fs::metadata(folder.at("r.json.part")).is_ok_and(|part| part.len() > 0) {
        ensure!(std::time::Instant::now() < deadline, "no result in a minute");
        ensure!(child.try_wait()?.is_none(), "it ended before it was stopped");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    assert_eq!(std::fs::read_to_string(&output)?, "{}");

    let mut run = predict("json", &videos[..1]);
    run.0.arg("--output").arg(&output);
    run.ends_with(0)?;
    let found: Value = serde_json::from_str(&std::fs::read_to_string(&output)?)?;
    assert_eq!(found["videos"].as_array().map(Vec::len), Some(1));
    assert!(!folder.at("r.json.part").exists());
    Ok(())
}

#[test]
fn runs_that_unpack_the_demo_weights_at_once_do_not_disturb_each_other() -> Result<()> {
    let folder = Folder::new()?;
    let videos = many(&folder, 1)?;
    let run = || -> Result<_> {
        let mut run = predict("json", &videos).with("XDG_CACHE_HOME", folder.path());
        Ok(run.0.spawn()?)
    };
    let together = |count: usize| -> Result<()> {
        let children: Result<Vec<_>> = (0..count).map(|_| run()).collect();
        for child in children? {
            let done = Done::of(child.wait_with_output()?)?;
            assert_eq!(done.code, Some(0), "{}", done.err);
        }
        Ok(())
    };
    together(4)?;
    let unpacked = || -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(folder.at("meptr"))?;
        Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
    };
    let [bundle] = &unpacked()?[..] else { panic!("{:?} in the cache", unpacked()?) };

    // Whatever was altered there is written anew, even when it fits together.
    for name in ["fusion.safetensors", "manifest.json"] {
        let good = std::fs::read(bundle.join(name))?;
        let mut bad = good.clone();
        *bad.last_mut().context("bytes")? ^= 1;
        std::fs::write(bundle.join(name), bad)?;
        together(1)?;
        assert!(std::fs::read(bundle.join(name))? == good, "{name}");
    }
    assert_eq!(unpacked()?.len(), 1);
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written_is_gone_round() -> Result<()> {
    let folder = Folder::new()?;
    let videos = many(&folder, 1)?;
    let run = |temporary: &std::path::Path| {
        predict("json", &videos).with("XDG_CACHE_HOME", "/dev/null").with("TMPDIR", temporary)
    };
    run(folder.path()).ends_with(0)?;
    let done = run("/dev/null".as_ref()).ends_with(2)?;
    assert!(done.err.contains("/dev/null") && done.err.contains("--weights"), "{}", done.err);
    Ok(())
}

/// Output of the program on a terminal, if `script` is there to make one.
#[cfg(target_os = "linux")]
fn in_terminal(arguments: &str, no_colour: bool) -> Result<Option<String>> {
    let program = meptr(["-"]);
    let line = format!("{} {arguments}", program.0.get_program().to_string_lossy());
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).env_remove("NO_COLOR");
    script.envs(program.0.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if no_colour {
        script.env("NO_COLOR", "1");
    }
    match script.output() {
        Ok(output) => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_gets_colours_unless_they_are_unwanted() -> Result<()> {
    let folder = Folder::new()?;
    let clip = folder.clip("a.mp4", &film(2))?;
    let arguments = format!("-q predict '{}' '{}'", clip.display(), folder.at("gone").display());
    let (Some(with), Some(without)) =
        (in_terminal(&arguments, false)?, in_terminal(&arguments, true)?)
    else {
        return Ok(());
    };
    assert!(with.contains("\x1b[") && with.contains("Happiness"), "{with:?}");
    assert!(!without.contains('\x1b') && without.contains("Happiness"), "{without:?}");
    // Results for programs have no colours in any terminal.
    let json = in_terminal(&arguments.replace("predict", "predict --format jsonl"), false)?;
    let json = json.unwrap_or_default();
    let first = json.lines().find(|line| line.starts_with('{')).context("a result")?;
    serde_json::from_str::<Value>(first)?;
    Ok(())
}
