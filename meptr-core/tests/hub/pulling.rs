//! Results of a pull, receivers of the token, and messages of refusals.

use meptr_core::hub::{Error, Silent, plan};

use super::fake_hub::{Access, Fault, Host, Storage, commit, git_id, noise, sha256};
use super::fixture::{Fixture, MODEL, WEIGHTS, all_files};

#[test]
fn a_pull_gives_the_layout_of_the_python_library() {
    let fixture = Fixture::new();
    let files = fixture.pull().unwrap();
    fixture.assert_all_here(&files);
    let (weights, config) = (sha256(&fixture.weights), git_id(&fixture.config));
    let words = git_id(b"one two");
    let first = commit(1);
    let mut expected = vec![
        format!("blobs/{weights}"),
        format!("blobs/{config}"),
        format!("blobs/{words}"),
        "meptr-pins.json".to_owned(),
        "refs/main".to_owned(),
        format!("snapshots/{first}/config.json"),
        format!("snapshots/{first}/deep/er/words.txt"),
        format!("snapshots/{first}/{WEIGHTS}"),
    ];
    expected.sort();
    assert_eq!(all_files(&fixture.repository()), expected);
    let main = std::fs::read_to_string(fixture.repository().join("refs/main")).unwrap();
    assert_eq!(main, first, "without a line end, as the Python library writes it");
    let link = std::fs::read_link(&files[2].local).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("../../blobs/{weights}"));
    let link = std::fs::read_link(&files[1].local).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("../../../../blobs/{words}"));
    let locks = all_files(&fixture.cache().join(".locks"));
    assert!(locks.contains(&format!("models--ann--model/{weights}.lock")));
    assert_eq!(files[0].sha256, Some(sha256(&fixture.config)), "also of small files");
}

#[test]
fn what_is_here_is_never_asked_for_again() {
    let fixture = Fixture::new();
    fixture.pull().unwrap();
    let before = fixture.hub.seen().len();
    fixture.assert_all_here(&fixture.pull().unwrap());
    assert_eq!(fixture.hub.seen().len(), before);
}

#[test]
fn a_branch_keeps_its_commit_until_a_refresh() {
    let mut fixture = Fixture::new();
    fixture.pull().unwrap();
    fixture.hub.add(MODEL, "config.json", Storage::Small, b"{}".to_vec());
    fixture.hub.change(MODEL, commit(2), Access::Open);
    let files = fixture.pull().unwrap();
    assert_eq!(files[0].commit, Some(commit(1)));
    fixture.assert_all_here(&files);

    fixture.options.refresh = true;
    let files = fixture.pull().unwrap();
    assert_eq!(files[0].commit, Some(commit(2)));
    assert_eq!(std::fs::read(&files[0].local).unwrap(), b"{}");
    assert_eq!(fixture.hub.count(Host::Cdn, "GET", WEIGHTS), 1, "the same bytes, fetched once");
    fixture.options.refresh = false;
    assert_eq!(fixture.pull().unwrap()[0].commit, Some(commit(2)));
}

#[test]
fn a_plan_says_how_much_is_missing_and_fetches_nothing() {
    let fixture = Fixture::new();
    let bytes = (fixture.weights.len() + fixture.config.len() + 7) as u64;
    let planned = plan(&fixture.catalog(), "model", &fixture.options, &Silent).unwrap();
    assert_eq!(planned.missing(), (3, bytes));
    assert_eq!(planned.parts()[0].part.licence, "MIT");
    assert_eq!(fixture.hub.count(Host::Cdn, "GET", ""), 0);
    assert_eq!(all_files(&fixture.cache()), [""; 0]);
    let files = planned.fetch(&fixture.options, &Silent).unwrap();
    fixture.assert_all_here(&files);
}

#[test]
fn progress_counts_up_to_the_total() {
    let fixture = Fixture::new();
    fixture.pull().unwrap();
    let all = fixture.weights.len() + fixture.config.len() + 7;
    assert_eq!((fixture.heard("Started"), fixture.heard("Finished")), (1, 3));
    let events = fixture.events.lock().unwrap();
    let last = events.iter().rfind(|event| event.starts_with("Bytes")).unwrap();
    assert!(last.contains(&format!("all_done: {all}, all: {all}")), "{last}");
}

#[test]
fn a_repository_is_pulled_by_its_own_name() {
    let fixture = Fixture::new();
    fixture.hub.add(MODEL, "pytorch_model.bin", Storage::Large, noise(10, 3));
    for name in ["ann/model", "ann/model@refs/pr/15", &format!("ann/model@{}", commit(1))] {
        fixture.assert_all_here(&fixture.pull_named(name).unwrap());
        let before = fixture.hub.seen().len();
        fixture.assert_all_here(&fixture.pull_named(name).unwrap());
        assert_eq!(fixture.hub.seen().len(), before, "{name} is known to be complete");
    }
}

#[test]
fn a_folder_is_taken_as_it_is() {
    let fixture = Fixture::new();
    let heads = fixture.folder.path().join("heads");
    std::fs::create_dir_all(heads.join("inner")).unwrap();
    std::fs::write(heads.join("inner/a.json"), "{}").unwrap();
    let files = fixture.pull_named(heads.to_str().unwrap()).unwrap();
    assert_eq!(files.len(), 1);
    assert_eq!((files[0].path.as_str(), files[0].size), ("inner/a.json", 2));
    assert!(fixture.hub.seen().is_empty());
}

#[test]
fn a_folder_of_the_list_must_hold_what_the_list_says() {
    let fixture = Fixture::new();
    let heads = fixture.folder.path().join("heads");
    std::fs::create_dir_all(&heads).unwrap();
    std::fs::write(heads.join("a.json"), "{}").unwrap();
    let with = |more: &str| {
        let text = format!(
            r#"{{ "schema": 1, "parts": [ {{ "name": "heads", "title": "", "folder": "heads",
                "licence": "MIT", "non_commercial": false,
                "files": [ {{ "path": "a.json" {more} }} ] }} ] }}"#
        );
        std::fs::write(fixture.list(), text).unwrap();
        fixture.pull_named("heads")
    };
    let right = format!(r#", "size": 2, "sha256": "{}""#, sha256(b"{}"));
    assert_eq!(with(&right).unwrap()[0].sha256, Some(sha256(b"{}")));
    assert!(matches!(with(r#", "size": 3"#), Err(Error::WrongSize { found: 2, .. })));
    let wrong = format!(r#", "sha256": "{}""#, sha256(b"[]"));
    assert!(matches!(with(&wrong), Err(Error::WrongHash { .. })));
    std::fs::remove_file(heads.join("a.json")).unwrap();
    assert!(matches!(with(""), Err(Error::NotFound { .. })));
}

#[test]
fn only_the_hub_gets_the_token() {
    let fixture = Fixture::new().with_token("hf_secret");
    fixture.hub.change(MODEL, commit(1), Access::Token("hf_secret".to_owned()));
    let elsewhere = format!("{}/{MODEL}/{WEIGHTS}", fixture.hub.stranger());
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::Redirect(elsewhere), 1);
    fixture.assert_all_here(&fixture.pull().unwrap());
    let seen = fixture.hub.seen();
    for host in [Host::Hub, Host::Cdn, Host::Stranger] {
        let mut of_host = seen.iter().filter(|seen| seen.host == host).peekable();
        assert!(of_host.peek().is_some(), "{host:?} was asked");
        let expected = (host == Host::Hub).then_some("Bearer hf_secret");
        assert!(of_host.all(|seen| seen.authorization.as_deref() == expected), "{host:?}");
    }
}

#[test]
fn the_api_does_not_take_the_token_elsewhere_either() {
    let fixture = Fixture::new().with_token("hf_secret");
    let target = fixture.hub.stranger();
    fixture.hub.order(Host::Hub, "/api/models", Fault::Redirect(target), 1);
    assert!(fixture.pull().is_err());
    let to_others = |seen: &super::fake_hub::Seen| seen.host != Host::Hub;
    assert!(!fixture.hub.seen().iter().any(to_others));
}

#[test]
fn errors_do_not_show_the_token_nor_signed_addresses() {
    let fixture = Fixture::new().with_token("hf_secret");
    fixture.hub.order(Host::Cdn, "", Fault::Status(500, ""), 9);
    let error = fixture.pull().unwrap_err();
    let text = format!("{error} {error:?} {:?}", fixture.events.lock().unwrap());
    assert!(!text.contains("hf_secret") && !text.contains("Signature"), "{text}");
}

#[test]
fn refusals_say_what_to_do() {
    let fixture = Fixture::new();
    fixture.hub.change(MODEL, commit(1), Access::Token("hf_other".to_owned()));
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::Unauthorised { has_token: false, .. }), "{error}");
    assert!(error.to_string().contains("set HF_TOKEN"), "{error}");

    fixture.hub.change(MODEL, commit(1), Access::Gated);
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::Gated { .. }), "{error}");
    let page = format!("{}/{MODEL}", fixture.hub.endpoint());
    assert!(error.to_string().contains(&page), "{error}");

    let fixture = fixture.with_token("hf_wrong");
    fixture.hub.change(MODEL, commit(1), Access::Token("hf_other".to_owned()));
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::Unauthorised { has_token: true, .. }), "{error}");
    assert_eq!(all_files(&fixture.cache()), [""; 0], "nothing is left behind");
}

#[test]
fn what_does_not_exist_is_named() {
    let fixture = Fixture::new();
    let not_found = |name: &str, what: &str| {
        let error = fixture.pull_named(name).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{name}: {error}");
        assert!(error.to_string().contains(what), "{name}: {error}");
    };
    not_found("ann/other", "repository ann/other");
    not_found("ann/model@v9", "revision `v9` of ann/model");
    let text = std::fs::read_to_string(fixture.list()).unwrap();
    std::fs::write(fixture.list(), text.replace("config.json", "absent.json")).unwrap();
    not_found("model", "`absent.json` in ann/model");
    assert!(matches!(fixture.pull_named("nonsense"), Err(Error::UnknownName { .. })));
}

#[test]
fn a_file_outside_the_repository_is_refused() {
    let fixture = Fixture::new();
    fixture.hub.add("ann/evil", "../../../../escaped.json", Storage::Small, b"{}".to_vec());
    assert!(matches!(fixture.pull_named("ann/evil"), Err(Error::Protocol { .. })));
    assert_eq!(all_files(&fixture.cache()), [""; 0]);
}
