//! Offline, adopting what other programs fetched, listing, checking, removing.

use std::fs;

use meptr_core::hub::{
    Catalog, Error, Finding, Presence, Silent, Verdict, list_local, remove, resolve, verify,
};

use super::fake_hub::{Access, Host, Storage, commit, git_id, sha256};
use super::fixture::{Fixture, MODEL, WEIGHTS, all_files};

/// The tree that `huggingface_hub.snapshot_download("ann/model")` leaves.
fn as_python_leaves_it(fixture: &Fixture) {
    let words = b"one two".to_vec();
    let snapshot = fixture.repository().join("snapshots").join(commit(1));
    let files = [
        ("config.json", &fixture.config, git_id(&fixture.config), "../.."),
        ("deep/er/words.txt", &words, git_id(&words), "../../../.."),
        (WEIGHTS, &fixture.weights, sha256(&fixture.weights), "../.."),
    ];
    fs::create_dir_all(fixture.repository().join("blobs")).unwrap();
    for (path, bytes, tag, up) in files {
        fs::write(fixture.repository().join("blobs").join(&tag), bytes).unwrap();
        let pointer = snapshot.join(path);
        fs::create_dir_all(pointer.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(format!("{up}/blobs/{tag}"), pointer).unwrap();
    }
    for (path, text) in [("refs/main", commit(1)), (".no_exist/x/absent.json", String::new())] {
        let path = fixture.repository().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::write(fixture.cache().join("version.txt"), "1").unwrap();
}

#[test]
fn what_the_python_library_fetched_is_used() {
    let mut fixture = Fixture::new();
    as_python_leaves_it(&fixture);
    fixture.assert_all_here(&fixture.pull().unwrap());
    assert!(fixture.hub.seen().is_empty());
    fixture.options.environment.offline = true;
    let files = fixture.pull().unwrap();
    fixture.assert_all_here(&files);
    assert_eq!(files[2].sha256, Some(sha256(&fixture.weights)), "off the name of its blob");
    fixture.assert_all_here(&fixture.pull_named("ann/model").unwrap());
    assert!(!fixture.repository().join("meptr-pins.json").exists(), "reading writes nothing");
}

#[test]
fn a_list_with_another_hash_does_not_take_what_is_here() {
    let fixture = Fixture::new();
    as_python_leaves_it(&fixture);
    fixture.write_list(&format!(", \"sha256\": \"{}\"", "ab".repeat(32)));
    assert!(matches!(fixture.pull(), Err(Error::WrongHash { .. })));
}

#[test]
fn offline_needs_no_connection_when_all_is_here() {
    let mut fixture = Fixture::new();
    fixture.pull().unwrap();
    let before = fixture.hub.seen().len();
    fixture.options.environment.offline = true;
    fixture.options.refresh = true;
    fixture.assert_all_here(&fixture.pull().unwrap());
    assert_eq!(fixture.hub.seen().len(), before);
}

#[test]
fn offline_lists_what_is_missing_and_how_to_get_it() {
    let mut fixture = Fixture::new();
    fixture.options.environment.offline = true;
    let Err(Error::OfflineMissing { missing, command }) = fixture.pull() else {
        panic!("it went on")
    };
    let expected = ["config.json", "deep/er/words.txt", WEIGHTS];
    assert_eq!(missing, expected.map(|path| format!("{MODEL}/{path}")));
    let list = fixture.list();
    assert_eq!(command, format!("meptr weights pull --manifest '{}' model", list.display()));
    assert!(fixture.hub.seen().is_empty());

    as_python_leaves_it(&fixture);
    fs::remove_file(fixture.repository().join("blobs").join(sha256(&fixture.weights))).unwrap();
    let error = fixture.pull().unwrap_err().to_string();
    assert!(error.contains(WEIGHTS) && !error.contains("config.json"), "{error}");

    let Err(Error::OfflineMissing { missing, command }) = fixture.pull_named("bob/heads") else {
        panic!("it went on")
    };
    assert_eq!(missing, ["everything of bob/heads"]);
    assert!(command.ends_with(" bob/heads"));
    let built_in = resolve(&Catalog::built_in(), "clip", &fixture.options, &Silent);
    let error = built_in.unwrap_err().to_string();
    assert!(error.contains("run `meptr weights pull clip`"), "{error}");
}

#[test]
fn what_is_partly_here_is_completed_at_the_same_commit() {
    let fixture = Fixture::new();
    as_python_leaves_it(&fixture);
    let snapshot = fixture.repository().join("snapshots").join(commit(1));
    fs::remove_file(snapshot.join("config.json")).unwrap();
    fixture.hub.change(MODEL, commit(2), Access::Open);
    let files = fixture.pull().unwrap();
    fixture.assert_all_here(&files);
    assert_eq!(files[0].commit, Some(commit(1)));
    assert_eq!(fixture.hub.count(Host::Cdn, "GET", ""), 0);
}

#[test]
fn a_file_cut_short_by_a_power_failure_is_fetched_again() {
    let fixture = Fixture::new();
    fixture.pull().unwrap();
    let blob = fixture.repository().join("blobs").join(sha256(&fixture.weights));
    fs::write(&blob, &fixture.weights[..500]).unwrap();
    fixture.assert_all_here(&fixture.pull().unwrap());
}

fn verdicts(fixture: &Fixture) -> Vec<Verdict> {
    let findings = verify(&fixture.catalog(), "model", &fixture.options, &Silent).unwrap();
    findings.into_iter().map(|Finding { verdict, .. }| verdict).collect()
}

#[test]
fn verify_finds_damage_and_absence() {
    let fixture = Fixture::new();
    use Verdict::{Intact, Missing};
    assert_eq!(verdicts(&fixture), [Missing, Missing, Missing]);
    for fetch in [as_python_leaves_it, |fixture: &Fixture| drop(fixture.pull().unwrap())] {
        fetch(&fixture);
        assert_eq!(verdicts(&fixture), [Intact, Intact, Intact]);
        let mut damaged = fixture.weights.clone();
        damaged[100] ^= 1;
        let blob = fixture.repository().join("blobs").join(sha256(&fixture.weights));
        fs::write(&blob, &damaged).unwrap();
        fs::write(fixture.repository().join("blobs").join(git_id(b"one two")), "two one").unwrap();
        let found = verdicts(&fixture);
        assert_eq!(found[0], Intact);
        assert!(matches!(found[1], Verdict::Damaged { .. }));
        let (expected, found_hash) = (sha256(&fixture.weights), sha256(&damaged));
        assert_eq!(found[2], Verdict::Damaged { expected, found: found_hash });
        fs::remove_dir_all(fixture.cache()).unwrap();
    }
}

#[test]
fn what_is_listed_is_what_is_here() {
    let fixture = Fixture::new();
    let listed = || list_local(&fixture.catalog(), &fixture.options).unwrap();
    let presence = || listed().iter().map(|part| part.presence).collect::<Vec<_>>();
    assert_eq!(presence(), [Presence::Absent]);
    fixture.pull().unwrap();
    assert_eq!(presence(), [Presence::Complete]);
    assert_eq!(listed()[0].files.len(), 3);

    fixture.hub.add("bob/heads", "heads.safetensors", Storage::Large, vec![1, 2, 3]);
    fixture.pull_named("bob/heads").unwrap();
    assert_eq!(presence(), [Presence::Complete, Presence::Complete]);
    assert_eq!(listed()[1].part.name, "bob/heads@main");

    let snapshot = fixture.repository().join("snapshots").join(commit(1));
    fs::remove_file(snapshot.join("config.json")).unwrap();
    assert_eq!(presence(), [Presence::Partial, Presence::Complete]);
}

#[test]
fn remove_takes_what_nobody_else_needs() {
    let mut fixture = Fixture::new();
    fixture.pull().unwrap();
    fixture.hub.add(MODEL, "config.json", Storage::Small, b"{}".to_vec());
    fixture.hub.change(MODEL, commit(2), Access::Open);
    fixture.options.refresh = true;
    fixture.pull().unwrap();
    fixture.options.refresh = false;

    let removed = remove(&fixture.catalog(), "model", &fixture.options).unwrap();
    assert_eq!((removed.files, removed.bytes), (3, 2), "the first commit keeps its large file");
    let by_commit = format!("{MODEL}@{}", commit(1));
    let removed = remove(&fixture.catalog(), &by_commit, &fixture.options).unwrap();
    assert_eq!(removed.files, 3);
    assert_eq!(removed.bytes, (fixture.weights.len() + fixture.config.len() + 7) as u64);
    assert_eq!(all_files(&fixture.cache()), [""; 0], "not even locks stay");
    let removed = remove(&fixture.catalog(), "model", &fixture.options).unwrap();
    assert_eq!(removed.files, 0);
    let files = fixture.pull().unwrap();
    assert_eq!(files[0].commit, Some(commit(2)), "a new pull starts afresh");
}
