//! Offline, adopting what other programs fetched, listing, checking, removing.

use std::fs;

use meptr_core::hub::{
    Catalog, Error, Finding, Presence, Silent, Verdict, list_local, remove, resolve, verify,
};

use super::fake_hub::{Access, Host, Storage, commit, git_id, sha256};
use super::setting::{MODEL, Setting, WEIGHTS, all_files};

/// The tree that `huggingface_hub.snapshot_download("ann/model")` leaves.
fn as_python_leaves_it(setting: &Setting) {
    let words = b"one two".to_vec();
    let snapshot = setting.repository().join("snapshots").join(commit(1));
    let files = [
        ("config.json", &setting.config, git_id(&setting.config), "../.."),
        ("deep/er/words.txt", &words, git_id(&words), "../../../.."),
        (WEIGHTS, &setting.weights, sha256(&setting.weights), "../.."),
    ];
    fs::create_dir_all(setting.repository().join("blobs")).unwrap();
    for (path, bytes, tag, up) in files {
        fs::write(setting.repository().join("blobs").join(&tag), bytes).unwrap();
        let pointer = snapshot.join(path);
        fs::create_dir_all(pointer.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(format!("{up}/blobs/{tag}"), pointer).unwrap();
    }
    for (path, text) in [("refs/main", commit(1)), (".no_exist/x/absent.json", String::new())] {
        let path = setting.repository().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::write(setting.cache().join("version.txt"), "1").unwrap();
}

#[test]
fn what_the_python_library_fetched_is_used() {
    let mut setting = Setting::new();
    as_python_leaves_it(&setting);
    setting.assert_all_here(&setting.pull().unwrap());
    assert!(setting.hub.seen().is_empty());
    setting.options.environment.offline = true;
    let files = setting.pull().unwrap();
    setting.assert_all_here(&files);
    assert_eq!(files[2].sha256, Some(sha256(&setting.weights)), "off the name of its blob");
    setting.assert_all_here(&setting.pull_named("ann/model").unwrap());
    assert!(!setting.repository().join("meptr-pins.json").exists(), "reading writes nothing");
}

#[test]
fn a_list_with_another_hash_does_not_take_what_is_here() {
    let setting = Setting::new();
    as_python_leaves_it(&setting);
    setting.write_list(&format!(", \"sha256\": \"{}\"", "ab".repeat(32)));
    assert!(matches!(setting.pull(), Err(Error::WrongHash { .. })));
}

#[test]
fn offline_needs_no_connection_when_all_is_here() {
    let mut setting = Setting::new();
    setting.pull().unwrap();
    let before = setting.hub.seen().len();
    setting.options.environment.offline = true;
    setting.options.refresh = true;
    setting.assert_all_here(&setting.pull().unwrap());
    assert_eq!(setting.hub.seen().len(), before);
}

#[test]
fn offline_lists_what_is_missing_and_how_to_get_it() {
    let mut setting = Setting::new();
    setting.options.environment.offline = true;
    let Err(Error::OfflineMissing { missing, command }) = setting.pull() else {
        panic!("it went on")
    };
    let expected = ["config.json", "deep/er/words.txt", WEIGHTS];
    assert_eq!(missing, expected.map(|path| format!("{MODEL}/{path}")));
    let list = setting.list();
    assert_eq!(command, format!("meptr weights pull --manifest '{}' model", list.display()));
    assert!(setting.hub.seen().is_empty());

    as_python_leaves_it(&setting);
    fs::remove_file(setting.repository().join("blobs").join(sha256(&setting.weights))).unwrap();
    let error = setting.pull().unwrap_err().to_string();
    assert!(error.contains(WEIGHTS) && !error.contains("config.json"), "{error}");

    let Err(Error::OfflineMissing { missing, command }) = setting.pull_named("bob/heads") else {
        panic!("it went on")
    };
    assert_eq!(missing, ["everything of bob/heads"]);
    assert!(command.ends_with(" bob/heads"));
    let built_in = resolve(&Catalog::built_in(), "clip", &setting.options, &Silent);
    let error = built_in.unwrap_err().to_string();
    assert!(error.contains("run `meptr weights pull clip`"), "{error}");
}

#[test]
fn what_is_partly_here_is_completed_at_the_same_commit() {
    let setting = Setting::new();
    as_python_leaves_it(&setting);
    let snapshot = setting.repository().join("snapshots").join(commit(1));
    fs::remove_file(snapshot.join("config.json")).unwrap();
    setting.hub.change(MODEL, commit(2), Access::Open);
    let files = setting.pull().unwrap();
    setting.assert_all_here(&files);
    assert_eq!(files[0].commit, Some(commit(1)));
    assert_eq!(setting.hub.count(Host::Cdn, "GET", ""), 0);
}

#[test]
fn a_file_cut_short_by_a_power_failure_is_fetched_again() {
    let setting = Setting::new();
    setting.pull().unwrap();
    let blob = setting.repository().join("blobs").join(sha256(&setting.weights));
    fs::write(&blob, &setting.weights[..500]).unwrap();
    setting.assert_all_here(&setting.pull().unwrap());
}

fn verdicts(setting: &Setting) -> Vec<Verdict> {
    let findings = verify(&setting.catalog(), "model", &setting.options, &Silent).unwrap();
    findings.into_iter().map(|Finding { verdict, .. }| verdict).collect()
}

#[test]
fn verify_finds_damage_and_absence() {
    let setting = Setting::new();
    use Verdict::{Intact, Missing};
    assert_eq!(verdicts(&setting), [Missing, Missing, Missing]);
    for fetch in [as_python_leaves_it, |setting: &Setting| drop(setting.pull().unwrap())] {
        fetch(&setting);
        assert_eq!(verdicts(&setting), [Intact, Intact, Intact]);
        let mut damaged = setting.weights.clone();
        damaged[100] ^= 1;
        let blob = setting.repository().join("blobs").join(sha256(&setting.weights));
        fs::write(&blob, &damaged).unwrap();
        fs::write(setting.repository().join("blobs").join(git_id(b"one two")), "two one").unwrap();
        let found = verdicts(&setting);
        assert_eq!(found[0], Intact);
        assert!(matches!(found[1], Verdict::Damaged { .. }));
        let (expected, found_hash) = (sha256(&setting.weights), sha256(&damaged));
        assert_eq!(found[2], Verdict::Damaged { expected, found: found_hash });
        fs::remove_dir_all(setting.cache()).unwrap();
    }
}

#[test]
fn what_is_listed_is_what_is_here() {
    let setting = Setting::new();
    let listed = || list_local(&setting.catalog(), &setting.options).unwrap();
    let presence = || listed().iter().map(|part| part.presence).collect::<Vec<_>>();
    assert_eq!(presence(), [Presence::Absent]);
    setting.pull().unwrap();
    assert_eq!(presence(), [Presence::Complete]);
    assert_eq!(listed()[0].files.len(), 3);

    setting.hub.add("bob/heads", "heads.safetensors", Storage::Large, vec![1, 2, 3]);
    setting.pull_named("bob/heads").unwrap();
    assert_eq!(presence(), [Presence::Complete, Presence::Complete]);
    assert_eq!(listed()[1].part.name, "bob/heads@main");

    let snapshot = setting.repository().join("snapshots").join(commit(1));
    fs::remove_file(snapshot.join("config.json")).unwrap();
    assert_eq!(presence(), [Presence::Partial, Presence::Complete]);
}

#[test]
fn remove_takes_what_nobody_else_needs() {
    let mut setting = Setting::new();
    setting.pull().unwrap();
    setting.hub.add(MODEL, "config.json", Storage::Small, b"{}".to_vec());
    setting.hub.change(MODEL, commit(2), Access::Open);
    setting.options.refresh = true;
    setting.pull().unwrap();
    setting.options.refresh = false;

    let removed = remove(&setting.catalog(), "model", &setting.options).unwrap();
    assert_eq!((removed.files, removed.bytes), (3, 2), "the first commit keeps its large file");
    let by_commit = format!("{MODEL}@{}", commit(1));
    let removed = remove(&setting.catalog(), &by_commit, &setting.options).unwrap();
    assert_eq!(removed.files, 3);
    assert_eq!(removed.bytes, (setting.weights.len() + setting.config.len() + 7) as u64);
    assert_eq!(all_files(&setting.cache()), [""; 0], "not even locks stay");
    let removed = remove(&setting.catalog(), "model", &setting.options).unwrap();
    assert_eq!(removed.files, 0);
    let files = setting.pull().unwrap();
    assert_eq!(files[0].commit, Some(commit(2)), "a new pull starts afresh");
}
