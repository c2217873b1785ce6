//! `meptr weights pull` on bad networks, bad disks, and with others at work at the same time.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::hub_support::fake_hub::{Access, Fault, Host, commit};
use super::hub_support::{Fixture, MODEL, WEIGHTS, write_sound};
use super::weights_support::{PROGRAM, REFUSED, Run, command};

const PULL: &str = "pull model --accept-licenses";

/// Runs `meptr weights pull` with variables set.
fn pull_with(fixture: &Fixture, variables: &[(&str, &str)]) -> Run {
    let mut command = fixture.command_at(&fixture.hub.endpoint(), PULL);
    command.envs(variables.iter().copied()).output().unwrap().into()
}

/// The token of the variable or of the file goes to the Hub, and to neither the CDN nor the host
/// that the CDN redirects to.
#[test]
fn the_token_stays_with_the_hub() {
    for in_file in [false, true] {
        let fixture = Fixture::new();
        fixture.hub.change(MODEL, commit(1), Access::Token("hf_right".to_owned()));
        let elsewhere = format!("{}/{MODEL}/{WEIGHTS}", fixture.hub.stranger());
        fixture.hub.order(Host::Cdn, WEIGHTS, Fault::Redirect(elsewhere), 1);
        let run = if in_file {
            std::fs::write(fixture.folder.path().join("token"), "hf_right\n").unwrap();
            pull_with(&fixture, &[])
        } else {
            pull_with(&fixture, &[("HF_TOKEN", "hf_right")])
        };
        let run = run.assert_code(0);
        assert!(!format!("{run:?}").contains("hf_right"), "{run:#?}");
        for seen in fixture.hub.seen() {
            let expected = (seen.host == Host::Hub).then_some("Bearer hf_right");
            assert_eq!(seen.authorization.as_deref(), expected, "{seen:?}");
        }
        assert!(fixture.hub.count(Host::Stranger, "GET", WEIGHTS) > 0, "it was redirected");
        fixture.assert_here();
    }
}

#[test]
fn refusals_say_what_to_do_and_are_not_tried_again() {
    let fixture = Fixture::new();
    fixture.hub.change(MODEL, commit(1), Access::Token("hf_right".to_owned()));
    let run = pull_with(&fixture, &[]).assert_code(2);
    assert!(run.stderr.contains("without a token") && run.stderr.contains("set HF_TOKEN"));
    let run = pull_with(&fixture, &[("HF_TOKEN", "hf_wrong")]).assert_code(2);
    assert!(run.stderr.contains("with the token in use"), "{run:#?}");
    assert!(!run.stderr.contains("hf_wrong") && !run.stderr.contains("trying again"), "{run:#?}");
    let run = fixture.run("pull ann/absent --accept-licenses").assert_code(2);
    assert!(run.stderr.contains("the Hub has no repository ann/absent"), "{run:#?}");
}

#[test]
fn a_server_that_asks_to_wait_is_obeyed() {
    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::Status(429, "Retry-After: 1\r\n"), 1);
    let start = Instant::now();
    let run = fixture.run(PULL).assert_code(0);
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(run.stderr.contains("limits the rate of requests, try again in 1 s"), "{run:#?}");

    let fixture = Fixture::new();
    let past = "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::Status(429, past), 1);
    fixture.run(PULL).assert_code(0);
    fixture.assert_here();

    let fixture = Fixture::new();
    let far = "Retry-After: Fri, 31 Dec 2100 12:00:00 GMT\r\n";
    fixture.hub.order(Host::Hub, "/resolve/", Fault::Status(429, far), 1);
    let run = fixture.run(PULL).assert_code(2);
    assert!(run.stderr.contains("limits the rate") && run.stderr.contains("HF_TOKEN"), "{run:#?}");
}

#[test]
fn cut_connections_and_wrong_lengths() {
    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::CutAtHalf, 1);
    fixture.run(PULL).assert_code(0);
    fixture.assert_here();
    let last = fixture.hub.seen().into_iter().rfind(|seen| seen.host == Host::Cdn).unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=100000-"));

    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::OtherLength(-1000), 9);
    let run = fixture.run(PULL).assert_code(2);
    assert!(run.stderr.contains("has 199000 bytes, the Hub says 200000"), "{run:#?}");
    assert!(!fixture.blob().exists());
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_said_to_be_one_and_leaves_no_half_file() {
    let fixture = Fixture::new();
    let incomplete = fixture.blob().with_extension("incomplete");
    std::fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &incomplete).unwrap();
    let run = fixture.run(PULL).assert_code(2);
    assert!(run.stderr.contains("no room to write") && run.stderr.contains("--cache-dir"));
    assert!(!fixture.blob().exists());
    std::fs::remove_file(&incomplete).unwrap();
    fixture.run(PULL).assert_code(0);
    fixture.assert_here();
}

/// The superuser may write anywhere, so that for him a file stands where the folder should be.
#[test]
#[cfg(unix)]
fn a_cache_that_cannot_be_written_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    let cache = fixture.folder.path().join("hub");
    std::fs::write(&cache, "no folder").unwrap();
    let run = fixture.run(PULL).assert_code(2);
    assert!(run.stderr.contains(cache.to_str().unwrap()), "{run:#?}");
    std::fs::remove_file(&cache).unwrap();

    std::fs::create_dir(&cache).unwrap();
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(cache.join("probe"), "").is_err() {
        let run = fixture.run(PULL).assert_code(2);
        assert!(run.stderr.contains("the cache is read-only"), "{run:#?}");
    }
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o755)).unwrap();
    fixture.run(PULL).assert_code(0);
    fixture.assert_here();
}

#[test]
fn of_two_processes_one_fetches_and_the_other_says_that_it_waits() {
    let fixture = Fixture::new();
    let slow = Fault::Slow { piece: 8_000, pause: Duration::from_millis(30) };
    fixture.hub.order(Host::Cdn, WEIGHTS, slow, 2);
    let start = || {
        let mut command = fixture.command_at(&fixture.hub.endpoint(), PULL);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs = [start(), start()].map(|child| Run::from(child.wait_with_output().unwrap()));
    let runs = runs.map(|run| run.assert_code(0));
    let waited = runs.iter().filter(|run| run.stderr.contains("another process fetches")).count();
    assert_eq!((waited, fixture.downloads()), (1, 1), "{runs:#?}");
    fixture.assert_here();
}

/// With everything here, offline or not, nothing is asked: the Hub refuses all connections, and a
/// proxy that would be used for it hears nothing.
#[test]
fn with_everything_here_not_one_connection_is_made() {
    let fixture = Fixture::new();
    fixture.upload("ann/heads", &root().join("weights/demo"));
    fixture.run(PULL).assert_code(0);
    fixture.run("pull ann/heads --accept-licenses").assert_code(0);
    let asked = fixture.hub.seen().len();
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let sound = fixture.folder.path().join("sound.wav");
    write_sound(&sound);
    let folder = fixture.folder.path();
    for (offline, endpoint) in
        [("0", REFUSED), ("0", "http://hub.invalid"), ("1", "https://hub.invalid")]
    {
        let with_proxy = |mut command: std::process::Command| -> Run {
            for name in ["http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
                command.env(name, &address);
            }
            command.env_remove("no_proxy").env_remove("NO_PROXY");
            command.env("HF_HUB_OFFLINE", offline).output().unwrap().into()
        };
        for line in ["pull model", "path model", "verify model", "list"] {
            with_proxy(fixture.command_at(endpoint, line)).assert_code(0);
        }
        for weights in [&["--weights", "ann/heads"][..], &[]] {
            let mut predict = command(PROGRAM, folder, endpoint);
            predict.args(["predict", "--format", "json"]).args(weights).arg(&sound);
            let run = with_proxy(predict).assert_code(0);
            assert!(run.stdout.contains("demo-synthetic"), "{run:#?}");
        }
    }
    assert_eq!(fixture.hub.seen().len(), asked);
    let heard = proxy.accept().unwrap_err();
    assert_eq!(heard.kind(), std::io::ErrorKind::WouldBlock, "the proxy was used");
}

fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
