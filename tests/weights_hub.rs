//! `meptr weights pull` and what follows it, against a Hub on loopback.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::hub_support::fake_hub::{Access, Fault, Host, commit};
use super::hub_support::{Fixture, MODEL, WEIGHTS, write_sound};
use super::weights_support::{PROGRAM, REFUSED, Run, command};

#[test]
fn a_pull_shows_licences_and_later_ones_need_no_network() {
    let fixture = Fixture::new();
    let run = fixture.run("pull all --accept-licenses").assert_code(0);
    assert!(run.stderr.contains("CC-BY-NC-4.0 (NON-COMMERCIAL USE ONLY)"), "{run:#?}");
    assert!(run.stderr.contains("fetching 2 files, 200.00 kB"), "{run:#?}");
    assert!(run.stderr.contains("ann/model/model.safetensors: 200.00 kB"), "{run:#?}");
    assert!(run.stdout.starts_with("model "), "{run:#?}");
    fixture.assert_here();
    let asked = fixture.hub.seen().len();
    assert!(run.stdout.contains("what is still missing: the heads"), "no bundle that predicts");
    for line in ["pull", "pull all", "pull all --offline"] {
        let again = fixture.run_at(REFUSED, line).assert_code(0);
        assert_eq!((again.stdout, again.stderr), (run.stdout.clone(), String::new()));
    }
    assert_eq!(fixture.hub.seen().len(), asked);
}

#[test]
fn without_a_terminal_the_refusal_names_the_command_that_works() {
    let fixture = Fixture::new();
    let run = fixture.run("pull model --cache-dir /nowhere/else").assert_code(2);
    assert!(run.stderr.contains("NON-COMMERCIAL"), "{run:#?}");
    assert!(run.stderr.contains("--cache-dir /nowhere/else"), "{run:#?}");
    let run = fixture.run("pull model").assert_code(2);
    assert_eq!(fixture.downloads(), 0);
    let line = run.stderr.split('`').find(|text| text.starts_with("meptr ")).unwrap();
    let mut shell = command("/bin/sh", fixture.folder.path(), &fixture.hub.endpoint());
    let folder = Path::new(PROGRAM).parent().unwrap();
    let run = Run::from(shell.args(["-c", line]).env("PATH", folder).output().unwrap());
    run.assert_code(0);
    fixture.assert_here();
}

#[test]
fn offline_what_is_missing_is_listed_with_the_command_that_gets_it() {
    let fixture = Fixture::new();
    let list = fixture.list();
    for line in ["pull model --offline --accept-licenses", "path model"] {
        let run = fixture.run(line).assert_code(2);
        let expected = format!("`meptr weights pull --manifest {} model`", list.display());
        assert!(run.stderr.contains(&expected), "{run:#?}");
    }
    let run = fixture.run("pull model --offline").assert_code(2);
    for file in ["ann/model/config.json", "ann/model/model.safetensors"] {
        assert!(run.stderr.contains(file), "{run:#?}");
    }
    assert!(fixture.hub.seen().is_empty(), "offline means no connection");
}

#[test]
fn wrong_bytes_are_refused_and_nothing_stays_under_the_final_name() {
    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::OtherBytes, 9);
    let run = fixture.run("pull model --accept-licenses").assert_code(2);
    assert!(run.stderr.contains("is damaged or was replaced"), "{run:#?}");
    assert!(!fixture.blob().exists());
    fixture.run("path model").assert_code(2);
}

#[test]
fn a_gated_repository_says_where_its_terms_are() {
    let fixture = Fixture::new();
    fixture.hub.change(MODEL, commit(1), Access::Gated);
    let run = fixture.run("pull ann/model --accept-licenses").assert_code(2);
    assert!(run.stderr.contains("accept its terms") && run.stderr.contains(MODEL), "{run:#?}");
}

#[test]
fn retries_are_told() {
    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::Status(503, ""), 1);
    let run = fixture.run("pull model --accept-licenses").assert_code(0);
    assert!(run.stderr.contains("status 503") && run.stderr.contains("trying again"), "{run:#?}");
    fixture.assert_here();
}

#[test]
fn after_a_kill_the_next_pull_goes_on() {
    let fixture = Fixture::new();
    let slow = Fault::Slow { piece: 4_000, pause: Duration::from_millis(40) };
    fixture.hub.order(Host::Cdn, WEIGHTS, slow, 1);
    let mut first = command(PROGRAM, fixture.folder.path(), &fixture.hub.endpoint());
    first.args(["weights", "pull", "model", "--accept-licenses", "--manifest"]).arg(fixture.list());
    let mut first = first.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let incomplete = fixture.blob().with_extension("incomplete");
    let start = Instant::now();
    while incomplete.metadata().map_or(0, |found| found.len()) < 20_000 {
        assert!(start.elapsed() < Duration::from_secs(20), "no part came");
        std::thread::sleep(Duration::from_millis(5));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    fixture.run("path model").assert_code(2);
    fixture.run("pull model --accept-licenses").assert_code(0);
    fixture.assert_here();
    let last = fixture.hub.seen().into_iter().rfind(|seen| seen.host == Host::Cdn).unwrap();
    assert!(last.range.is_some(), "it did not start anew");
}

#[test]
fn damage_is_found_removed_and_mended() {
    let fixture = Fixture::new();
    fixture.run("pull model --accept-licenses").assert_code(0);
    assert!(fixture.run("list").stdout.contains("model  yes"));
    let run = fixture.run("verify").assert_code(0);
    assert_eq!(run.stdout.matches("intact").count(), 2, "{run:#?}");
    let mut bytes = fixture.weights.clone();
    bytes[1000] ^= 1;
    std::fs::write(fixture.blob(), bytes).unwrap();
    let run = fixture.run("verify model").assert_code(1);
    assert!(run.stdout.contains("damaged  ann/model/model.safetensors"), "{run:#?}");

    let run = fixture.run("remove model").assert_code(2);
    assert!(run.stderr.contains(" model --yes`"), "{run:#?}");
    assert!(fixture.blob().exists(), "nobody agreed");
    let run = fixture.run("remove model --yes").assert_code(0);
    assert!(run.stdout.contains("deleted 2 files of model, 200.00 kB"), "{run:#?}");
    assert!(fixture.run("list").stdout.contains("model  no"));
    fixture.run("verify model").assert_code(1);
    fixture.run("pull model --accept-licenses").assert_code(0);
    fixture.assert_here();
}

/// On a terminal, which `script` of util-linux makes.
#[test]
#[cfg(target_os = "linux")]
fn on_a_terminal_pull_asks_and_shows_bars() {
    let fixture = Fixture::new();
    let slow = Fault::Slow { piece: 10_000, pause: Duration::from_millis(40) };
    fixture.hub.order(Host::Cdn, WEIGHTS, slow, 1);
    let line = format!("{PROGRAM} weights pull model --manifest {}", fixture.list().display());
    let on_terminal = |answer: &str| -> Run {
        let mut script = command("script", fixture.folder.path(), &fixture.hub.endpoint());
        script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env("COLUMNS", "120");
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = script.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, answer.as_bytes()).unwrap();
        let output = script.wait_with_output().unwrap();
        drop(input);
        output.into()
    };
    let run = on_terminal("n\n").assert_code(2);
    assert!(run.stdout.contains("under these licences? [y/N]"), "{run:#?}");
    assert_eq!(fixture.downloads(), 0);
    let run = on_terminal("y\n").assert_code(0);
    for expected in ["in all ", "of 200.00 kB", "kB/s", " left"] {
        assert!(run.stdout.contains(expected), "no {expected:?} in {}", run.stdout);
    }
    fixture.assert_here();
}

/// From a bundle on one machine, over the Hub, to predictions on another without a network.
#[test]
fn a_published_bundle_is_pulled_and_predicts_offline() {
    let fixture = Fixture::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = fixture.folder.path().join("upload");
    let mut publish = command(PROGRAM, fixture.folder.path(), REFUSED);
    publish.args(["weights", "publish", "--repository", "ann/heads"]);
    publish.arg("--out").arg(&out).arg(root.join("weights/demo"));
    Run::from(publish.output().unwrap()).assert_code(0);
    fixture.upload("ann/heads", &out);
    let sound = fixture.folder.path().join("sound.wav");
    write_sound(&sound);
    let predict = |weights: &str| -> Run {
        let mut predict = command(PROGRAM, fixture.folder.path(), REFUSED);
        predict.args(["predict", "--format", "json", "--weights", weights]).arg(&sound);
        predict.output().unwrap().into()
    };
    let run = predict("ann/heads").assert_code(2);
    assert!(run.stderr.contains("`meptr weights pull ann/heads`"), "{run:#?}");
    let run = fixture.run("pull ann/heads").assert_code(2);
    assert!(run.stderr.contains("MIT OR Apache-2.0  CLIP, random"), "{run:#?}");
    let run = fixture.run("pull ann/heads --accept-licenses").assert_code(0);
    assert!(run.stdout.contains("meptr predict --weights ann/heads"), "{run:#?}");
    fixture.run_at(REFUSED, "verify ann/heads").assert_code(0);
    let shown = fixture.run_at(REFUSED, "show ann/heads").assert_code(0);
    assert!(shown.stdout.contains("demo-synthetic (demonstration"), "{shown:#?}");
    let run = predict("ann/heads").assert_code(0);
    assert!(run.stdout.contains("demo-synthetic"), "{run:#?}");
}
