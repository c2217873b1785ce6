//! Bad networks and bad files: success after all, or a clear error and nothing half done.

use std::time::{Duration, Instant};

use meptr_core::hub::{Environment, Error};

use super::fake_hub::{Fault, Host, Storage, sha256};
use super::fixture::{Fixture, MODEL, WEIGHTS, all_files};

/// Ranges requested of the CDN for the large file, in order.
fn ranges(fixture: &Fixture) -> Vec<Option<String>> {
    let of_cdn = fixture.hub.seen().into_iter().filter(|seen| seen.host == Host::Cdn);
    of_cdn.map(|seen| seen.range).collect()
}

#[test]
fn a_connection_cut_at_half_goes_on_where_it_stopped() {
    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::CutAtHalf, 2);
    fixture.assert_all_here(&fixture.pull().unwrap());
    let from = |offset: usize| Some(format!("bytes={offset}-"));
    assert_eq!(ranges(&fixture), [None, from(100_000), from(150_000)]);
    assert_eq!(fixture.heard("Retrying"), 2);
}

#[test]
fn a_pull_that_failed_leaves_what_the_next_one_goes_on_with() {
    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::CutAtHalf, 1);
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::Status(502, ""), 3);
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::Server { status: 502, .. }), "{error}");
    assert_eq!(std::fs::read(fixture.incomplete()).unwrap(), fixture.weights[..100_000]);
    fixture.assert_no_weights();
    fixture.assert_all_here(&fixture.pull().unwrap());
    assert_eq!(ranges(&fixture).last().unwrap().as_deref(), Some("bytes=100000-"));
    assert!(!fixture.incomplete().exists());
}

#[test]
fn a_server_that_ignores_ranges_is_no_trouble() {
    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::CutAtHalf, 1);
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::IgnoreRange, 1);
    fixture.assert_all_here(&fixture.pull().unwrap());
}

#[test]
fn wrong_bytes_left_by_others_are_thrown_away() {
    for left in [vec![0; 50_000], vec![0; 200_000], vec![0; 300_000]] {
        let fixture = Fixture::new();
        std::fs::create_dir_all(fixture.incomplete().parent().unwrap()).unwrap();
        std::fs::write(fixture.incomplete(), left).unwrap();
        fixture.assert_all_here(&fixture.pull().unwrap());
    }
}

#[test]
fn bursts_of_server_errors_pass() {
    let fixture = Fixture::new();
    for (host, part) in [(Host::Hub, "/api/"), (Host::Hub, "/resolve/"), (Host::Cdn, WEIGHTS)] {
        fixture.hub.order(host, part, Fault::Status(503, ""), 2);
        fixture.hub.order(host, part, Fault::Status(408, ""), 1);
    }
    fixture.assert_all_here(&fixture.pull().unwrap());
    assert_eq!(fixture.heard("Retrying"), 9);
}

#[test]
fn tries_are_bounded() {
    for part in ["/api/", "/resolve/"] {
        let fixture = Fixture::new();
        fixture.hub.order(Host::Hub, part, Fault::Status(500, ""), 99);
        let error = fixture.pull().unwrap_err();
        assert!(matches!(error, Error::Server { status: 500, .. }), "{error}");
        let asked = fixture.hub.seen().iter().filter(|seen| seen.path.contains(part)).count();
        assert_eq!(asked, 4, "as `RetryPolicy::max_attempts` says");
    }
}

#[test]
fn retry_after_is_obeyed_within_bounds() {
    let (after, reset) = ("Retry-After: 1\r\n", "RateLimit: \"resolvers\";r=0;t=1\r\n");
    let past = "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::Status(429, past), 1);
    fixture.assert_all_here(&fixture.pull().unwrap());
    let fixture = Fixture::new();
    let far = "Retry-After: Fri, 31 Dec 2100 12:00:00 GMT\r\n";
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::Status(429, far), 1);
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::RateLimited { retry_after: Some(_), .. }), "{error}");
    for (host, part, headers) in [
        (Host::Hub, "/api/", after),
        (Host::Hub, "/resolve/", after),
        (Host::Hub, "/resolve/", reset),
        (Host::Cdn, WEIGHTS, after),
    ] {
        let fixture = Fixture::new();
        fixture.hub.order(host, part, Fault::Status(429, headers), 1);
        let start = Instant::now();
        fixture.assert_all_here(&fixture.pull().unwrap());
        assert!(start.elapsed() >= Duration::from_secs(1), "{part}");
    }
    let fixture = Fixture::new();
    fixture.hub.order(Host::Hub, "/api/", Fault::Status(429, "Retry-After: 3600\r\n"), 1);
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::RateLimited { .. }), "{error}");
    assert!(error.to_string().contains("3600 s"), "{error}");
    assert_eq!(fixture.hub.seen().len(), 1);
}

#[test]
fn a_signed_address_that_ran_out_is_replaced() {
    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::Status(403, ""), 1);
    fixture.assert_all_here(&fixture.pull().unwrap());
    assert_eq!(fixture.hub.count(Host::Hub, "GET", WEIGHTS), 2, "a new address was asked for");
}

#[test]
fn slow_is_not_broken_but_silent_is() {
    let fixture = Fixture::new();
    let pause = Duration::from_millis(150); // 10 of them are longer than `RetryPolicy::idle_timeout`
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::Slow { piece: 20_000, pause }, 1);
    fixture.assert_all_here(&fixture.pull().unwrap());
    assert_eq!(fixture.heard("Retrying"), 0);

    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::Stall, 1);
    fixture.assert_all_here(&fixture.pull().unwrap());
    assert_eq!(fixture.heard("Retrying"), 1);
    assert_eq!(ranges(&fixture)[1].as_deref(), Some("bytes=50000-"));
}

#[test]
fn another_length_than_promised_is_an_error() {
    for more in [-1000, 1000] {
        let fixture = Fixture::new();
        fixture.hub.order(Host::Cdn, WEIGHTS, Fault::OtherLength(more), 9);
        let error = fixture.pull().unwrap_err();
        assert!(matches!(error, Error::WrongSize { expected: 200_000, .. }), "{error}");
        assert!(!fixture.incomplete().exists());
        fixture.assert_no_weights();
    }
}

#[test]
fn other_bytes_than_promised_are_an_error() {
    let fixture = Fixture::new();
    fixture.hub.order(Host::Cdn, WEIGHTS, Fault::OtherBytes, 9);
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::WrongHash { kind: "sha256", .. }), "{error}");
    assert!(!fixture.incomplete().exists());
    fixture.assert_no_weights();

    let fixture = Fixture::new();
    fixture.hub.order(Host::Hub, "/api/resolve-cache", Fault::IgnoreRange, 1); // the HEAD
    fixture.hub.order(Host::Hub, "/api/resolve-cache", Fault::OtherBytes, 1);
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::WrongHash { kind: "git object id", .. }), "{error}");
    assert!(!fixture.repository().join("snapshots/deep").exists());
}

#[test]
fn the_list_of_weights_has_the_last_word() {
    let fixture = Fixture::new();
    fixture.write_list(&format!(", \"sha256\": \"{}\"", "ab".repeat(32)));
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::WrongHash { promised_by: "the list of weights", .. }));
    fixture.write_list(", \"size\": 7");
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::WrongSize { expected: 7, .. }), "{error}");
    assert_eq!(fixture.hub.count(Host::Cdn, "GET", ""), 0, "nothing was fetched in vain");
    let size = fixture.weights.len();
    fixture
        .write_list(&format!(", \"size\": {size}, \"sha256\": \"{}\"", sha256(&fixture.weights)));
    fixture.assert_all_here(&fixture.pull().unwrap());
}

#[test]
fn the_list_has_the_last_word_on_files_whose_hash_the_hub_does_not_state() {
    let fixture = Fixture::new();
    fixture.hub.add(MODEL, WEIGHTS, Storage::Small, fixture.weights.clone());
    fixture.write_list(&format!(", \"sha256\": \"{}\"", "ab".repeat(32)));
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::WrongHash { promised_by: "the list of weights", .. }));
    fixture.assert_no_weights();
}

#[test]
fn redirects_lead_to_web_addresses_and_end() {
    let targets = [
        (Some("file:///etc/passwd"), "no web address"),
        (Some("ftp://127.0.0.1/x"), "no web address"),
        (None, "more than 10 redirects"),
    ];
    for (target, words) in targets {
        let fixture = Fixture::new();
        let around = format!("{}/ann/model/{WEIGHTS}", fixture.hub.stranger());
        let target = target.map_or(around.clone(), str::to_owned);
        fixture.hub.order(Host::Cdn, WEIGHTS, Fault::Redirect(target), 99);
        fixture.hub.order(Host::Stranger, WEIGHTS, Fault::Redirect(around), 99);
        let error = fixture.pull().unwrap_err();
        assert!(matches!(error, Error::BadAddress { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        fixture.assert_no_weights();
    }
}

#[test]
fn no_server_at_all_is_a_network_error() {
    let mut fixture = Fixture::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let environment = Environment::from_variables(|name| match name {
        "HF_HOME" => Some(fixture.folder.path().into()),
        "HF_ENDPOINT" => Some((&endpoint).into()),
        _ => None,
    });
    fixture.options.environment = environment.unwrap();
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::Network { .. }), "{error}");
    assert_eq!(fixture.heard("Retrying"), 3);
    assert_eq!(all_files(&fixture.cache()), [""; 0]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_said_to_be_one() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.incomplete().parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", fixture.incomplete()).unwrap();
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
    assert!(error.to_string().contains("--cache-dir"), "{error}");
    std::fs::remove_file(fixture.incomplete()).unwrap();
    fixture.assert_no_weights();
    fixture.assert_all_here(&fixture.pull().unwrap());
}
