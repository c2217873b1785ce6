//! Several processes, a killed one, users with other rights, and the environment of a process.
//!
//! The processes are this test binary again, told to run [`child`] alone.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use meptr_core::hub::{Catalog, Environment, Event, Options, resolve};

use super::fake_hub::{Access, Fault, Host, commit};
use super::fixture::{Fixture, WEIGHTS, short_retry_policy};

#[test]
#[ignore = "the other tests run it as a process of its own"]
fn child() {
    let Some(list) = std::env::var_os("HUB_TEST_LIST") else { return };
    let catalog = Catalog::read(Path::new(&list)).unwrap();
    let mut options = Options::new(Environment::from_process().unwrap());
    options.retry = short_retry_policy();
    let name = std::env::var("HUB_TEST_NAME").unwrap();
    let result = resolve(&catalog, &name, &options, &|event: &Event| {
        if let Event::Waiting { file, .. } = event {
            say(&format!("waiting for {file}"));
        }
    });
    match result {
        Ok(files) => say(&format!("all {} here", files.len())),
        Err(error) => say(&format!("error {error:?}")),
    }
}

fn say(text: &str) {
    eprintln!("child: {text}");
}

fn command(fixture: &Fixture, binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command
        .args(["--exact", "hub::processes::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env("HUB_TEST_LIST", fixture.list())
        .env("HUB_TEST_NAME", "model")
        .env("HF_HOME", fixture.folder.path())
        .env("HF_ENDPOINT", fixture.hub.endpoint())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command
}

fn this_binary() -> std::path::PathBuf {
    std::env::current_exe().unwrap()
}

fn lines(child: Child) -> Vec<String> {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    text.lines().filter_map(|line| Some(line.strip_prefix("child: ")?.to_owned())).collect()
}

fn slowly() -> Fault {
    Fault::Slow { piece: 4_000, pause: Duration::from_millis(40) }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_processes_that_start_cold_fetch_once() {
    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, slowly(), 2);
    let start = || command(&fixture, &this_binary()).spawn().unwrap();
    let (one, other) = (start(), start());
    let said = [lines(one), lines(other)].concat();
    assert_eq!(said.iter().filter(|line| *line == "all 3 here").count(), 2, "{said:?}");
    assert_eq!(said.iter().filter(|line| line.ends_with(WEIGHTS)).count(), 1, "{said:?}");
    assert_eq!(fixture.hub.count(Host::Cdn, "GET", WEIGHTS), 1);
    fixture.assert_all_here(&fixture.pull().unwrap());
}

#[test]
fn after_kill_9_the_next_pull_goes_on() {
    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, slowly(), 1);
    let mut killed = command(&fixture, &this_binary()).spawn().unwrap();
    let length = || std::fs::metadata(fixture.incomplete()).map_or(0, |found| found.len());
    wait_until("a part is here", || length() > 20_000);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(length() < 200_000);
    fixture.assert_no_weights();

    fixture.assert_all_here(&fixture.pull().unwrap());
    let last = fixture.hub.seen().into_iter().rfind(|seen| seen.host == Host::Cdn).unwrap();
    assert!(last.range.is_some(), "it did not start anew");
    assert!(!fixture.incomplete().exists());
}

#[test]
fn a_holder_of_the_lock_that_does_nothing_is_not_waited_for_without_end() {
    let mut fixture = Fixture::new();
    fixture.options.retry.lock_timeout = Duration::from_millis(200);
    let tag = super::fake_hub::sha256(&fixture.weights);
    let lock = fixture.cache().join(".locks/models--ann--model").join(format!("{tag}.lock"));
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let held = std::fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, meptr_core::hub::Error::Locked { .. }), "{error}");
    assert_eq!(fixture.heard("Waiting"), 1);
    drop(held);
    fixture.assert_all_here(&fixture.pull().unwrap());
}

/// The superuser may write anywhere, so that the child runs as nobody, if we are the superuser.
fn as_a_user_without_rights(fixture: &Fixture, name: &str) -> Vec<String> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let folder = fixture.folder.path();
    let binary = folder.join("test-binary");
    if !binary.exists() {
        std::fs::copy(this_binary(), &binary).unwrap(); // where it was built, nobody may not look
    }
    let all_may_read = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, all_may_read).unwrap();
    let mut command = command(fixture, &binary);
    command.env("HUB_TEST_NAME", name);
    if folder.metadata().unwrap().uid() == 0 {
        command.uid(65534).gid(65534);
    }
    loop {
        match command.spawn() {
            // A process that another test starts just now has the copy open for a moment.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            spawned => return lines(spawned.unwrap()),
        }
    }
}

#[test]
fn a_read_only_cache_can_be_read_but_not_filled() {
    use std::os::unix::fs::PermissionsExt;
    let set_mode = |fixture: &Fixture, mode: u32| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(fixture.cache(), mode).unwrap();
    };
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.cache()).unwrap();
    set_mode(&fixture, 0o555);
    let said = as_a_user_without_rights(&fixture, "model");
    assert!(said.len() == 1 && said[0].starts_with("error ReadOnlyCache"), "{said:?}");
    set_mode(&fixture, 0o755);

    fixture.pull().unwrap();
    set_mode(&fixture, 0o555);
    let before = fixture.hub.seen().len();
    assert_eq!(as_a_user_without_rights(&fixture, "model"), ["all 3 here"]);
    assert_eq!(fixture.hub.seen().len(), before);
    let said = as_a_user_without_rights(&fixture, "ann/model");
    assert_eq!(said, ["all 3 here"], "the Hub was asked, and nothing had to be written");
    set_mode(&fixture, 0o755);
}

#[test]
fn the_environment_of_the_process_counts() {
    let fixture = Fixture::new();
    fixture.hub.change("ann/model", commit(1), Access::Token("hf_right".to_owned()));
    let run = |name: &str, value: &str| {
        lines(command(&fixture, &this_binary()).env(name, value).spawn().unwrap())
    };
    let said = run("HF_HUB_OFFLINE", "1");
    assert!(said[0].starts_with("error OfflineMissing"), "{said:?}");
    assert!(fixture.hub.seen().is_empty());
    let said = run("HF_TOKEN", "hf_wrong");
    assert!(said[0].starts_with("error Unauthorised"), "{said:?}");
    assert_eq!(run("HF_TOKEN", "hf_right"), ["all 3 here"]);
}

#[test]
fn a_token_that_must_not_be_used_is_not_sent() {
    let fixture = Fixture::new();
    std::fs::write(fixture.folder.path().join("token"), "hf_stored").unwrap();
    let mut command = command(&fixture, &this_binary());
    command.env("HF_TOKEN", "hf_secret").env("HF_HUB_DISABLE_IMPLICIT_TOKEN", "true");
    assert_eq!(lines(command.spawn().unwrap()), ["all 3 here"]);
    assert!(fixture.hub.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[test]
fn proxies_of_the_environment_are_used_for_other_machines_only() {
    let fixture = Fixture::new();
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (mut connection, _) = proxy.accept().unwrap();
        let mut first = String::new();
        BufReader::new(Read::by_ref(&mut connection)).read_line(&mut first).unwrap();
        let answer = "HTTP/1.1 404 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        connection.write_all(answer.as_bytes()).unwrap();
        first
    });
    let with_proxy = |endpoint: &str| {
        let mut command = command(&fixture, &this_binary());
        for name in ["NO_PROXY", "no_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command.env("http_proxy", &address).env("HF_ENDPOINT", endpoint);
        lines(command.spawn().unwrap())
    };
    let said = with_proxy("http://hub.invalid/");
    assert!(said[0].starts_with("error NotFound"), "{said:?}");
    let first = asked.join().unwrap();
    assert!(first.starts_with("GET http://hub.invalid/api/models/ann/model/"), "{first}");
    assert_eq!(with_proxy(&fixture.hub.endpoint()), ["all 3 here"]);
}
