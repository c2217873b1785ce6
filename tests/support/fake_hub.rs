//! A Hub on loopback that speaks as much of the real protocol as a download uses.
//!
//! Two servers, so that two hosts are involved as with the real one: the Hub answers
//! `/api/models/ID/revision/REVISION` and `/ID/resolve/COMMIT/PATH`; large files it redirects to
//! the CDN, with `X-Repo-Commit`, `X-Linked-Etag` and `X-Linked-Size` on the redirect. Small files
//! it sends itself, or by way of a relative redirect (`/api/resolve-cache/...`). A third server
//! stands for a host that has nothing to do with either. Tests order faults in advance and read
//! afterwards what was asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    Hub,
    Cdn,
    Stranger,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) host: Host,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

/// Fault to answer with.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// A status with headers, and no body.
    Status(u16, &'static str),
    /// Half of the bytes asked for, then the end of the connection.
    CutAtHalf,
    /// The proper bytes, in pieces with pauses.
    Slow { piece: usize, pause: Duration },
    /// Headers and a first piece, then nothing for a while.
    Stall,
    /// Fewer or more bytes than the Hub said, and a `Content-Length` that fits them.
    OtherLength(i64),
    /// As many bytes as the Hub said, without `Content-Length`, some of them others.
    OtherBytes,
    /// All bytes, whatever part was asked for.
    IgnoreRange,
    /// A redirect to another address.
    Redirect(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    Large,
    Small,
    SmallRedirected,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    Open,
    Token(String),
    Gated,
}

struct Repository {
    commit: String,
    access: Access,
    files: BTreeMap<String, (Storage, Vec<u8>)>,
}

struct Order {
    host: Host,
    part_of_path: String,
    fault: Fault,
    times: usize,
}

#[derive(Default)]
struct State {
    repositories: Mutex<BTreeMap<String, Repository>>,
    orders: Mutex<Vec<Order>>,
    seen: Mutex<Vec<Seen>>,
    ports: Mutex<BTreeMap<&'static str, u16>>,
}

pub(crate) struct FakeHub {
    state: Arc<State>,
}

impl FakeHub {
    pub(crate) fn start() -> Self {
        let state = Arc::new(State::default());
        for (name, host) in [("hub", Host::Hub), ("cdn", Host::Cdn), ("other", Host::Stranger)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            state.ports.lock().unwrap().insert(name, port);
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for connection in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    std::thread::spawn(move || {
                        let _ = state.serve(host, connection); // the client may hang up
                    });
                }
            });
        }
        Self { state }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.state.address("hub")
    }

    pub(crate) fn stranger(&self) -> String {
        self.state.address("other")
    }

    pub(crate) fn add(&self, id: &str, path: &str, storage: Storage, bytes: Vec<u8>) {
        let mut repositories = self.state.repositories.lock().unwrap();
        let repository = repositories.entry(id.to_owned()).or_insert_with(|| Repository {
            commit: commit(1),
            access: Access::Open,
            files: BTreeMap::new(),
        });
        repository.files.insert(path.to_owned(), (storage, bytes));
    }

    pub(crate) fn change(&self, id: &str, commit: String, access: Access) {
        let mut repositories = self.state.repositories.lock().unwrap();
        let repository = repositories.get_mut(id).unwrap();
        repository.commit = commit;
        repository.access = access;
    }

    /// The next `times` requests to `host` for a path that holds `part_of_path` fail.
    pub(crate) fn order(&self, host: Host, part_of_path: &str, fault: Fault, times: usize) {
        let part_of_path = part_of_path.to_owned();
        self.state.orders.lock().unwrap().push(Order { host, part_of_path, fault, times });
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, host: Host, method: &str, part_of_path: &str) -> usize {
        let is_meant = |seen: &&Seen| {
            seen.host == host && seen.method == method && seen.path.contains(part_of_path)
        };
        self.seen().iter().filter(is_meant).count()
    }
}

impl State {
    fn address(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}", self.ports.lock().unwrap()[name])
    }

    fn serve(&self, host: Host, mut connection: TcpStream) -> std::io::Result<()> {
        let Some(seen) = read_request(host, &connection)? else { return Ok(()) };
        self.seen.lock().unwrap().push(seen.clone());
        let fault = self.fault(&seen);
        if let Some(Fault::Status(status, headers)) = fault {
            return reply(&mut connection, status, headers, b"");
        }
        if let Some(Fault::Redirect(target)) = fault {
            return reply(&mut connection, 302, &format!("Location: {target}\r\n"), b"");
        }
        match host {
            Host::Hub => self.serve_hub(&seen, fault, &mut connection),
            Host::Cdn | Host::Stranger => self.serve_blob(&seen, fault, &mut connection),
        }
    }

    fn fault(&self, seen: &Seen) -> Option<Fault> {
        let mut orders = self.orders.lock().unwrap();
        let order = orders.iter_mut().find(|order| {
            order.times > 0 && order.host == seen.host && seen.path.contains(&order.part_of_path)
        })?;
        order.times -= 1;
        Some(order.fault.clone())
    }

    fn serve_hub(
        &self,
        seen: &Seen,
        fault: Option<Fault>,
        connection: &mut TcpStream,
    ) -> std::io::Result<()> {
        let repositories = self.repositories.lock().unwrap();
        let path = seen.path.trim_start_matches("/api/resolve-cache");
        let api = path.strip_prefix("/api/models/").and_then(|path| path.split_once("/revision/"));
        let file = path.trim_start_matches('/').split_once("/resolve/");
        let (id, rest) = api.or(file).unwrap_or_default();
        let Some(repository) = repositories.get(id) else {
            return reply(connection, 404, "X-Error-Code: RepoNotFound\r\n", b"");
        };
        match &repository.access {
            Access::Open => {}
            Access::Gated if api.is_some() => {}
            Access::Gated => return reply(connection, 403, "X-Error-Code: GatedRepo\r\n", b""),
            Access::Token(token)
                if seen.authorization.as_ref() == Some(&format!("Bearer {token}")) => {}
            Access::Token(_) => {
                return reply(connection, 401, "X-Error-Code: RepoNotFound\r\n", b"");
            }
        }
        if api.is_some() {
            return reply_about(repository, id, rest, connection);
        }
        let (asked, path) = rest.split_once('/').unwrap_or_default();
        let Some((storage, bytes)) = repository.files.get(path) else {
            return reply(connection, 404, "X-Error-Code: EntryNotFound\r\n", b"");
        };
        let (storage, bytes) = (*storage, bytes.clone());
        drop(repositories);
        let about = format!("X-Repo-Commit: {asked}\r\n");
        match storage {
            Storage::Large => {
                let (tag, cdn) = (sha256(&bytes), self.address("cdn"));
                let headers = format!(
                    "{about}X-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {}\r\nETag: \"redirect\"\r\n\
                     Location: {cdn}/{id}/{path}?Signature=secret\r\n",
                    bytes.len()
                );
                reply(connection, 302, &headers, b"")
            }
            Storage::SmallRedirected if !seen.path.contains("resolve-cache") => {
                let headers = format!("{about}Location: /api/resolve-cache{}\r\n", seen.path);
                reply(connection, 307, &headers, b"")
            }
            Storage::Small | Storage::SmallRedirected => {
                let headers = format!("{about}ETag: W/\"{}\"\r\n", git_id(&bytes));
                send(connection, seen, &bytes, &headers, fault)
            }
        }
    }

    fn serve_blob(
        &self,
        seen: &Seen,
        fault: Option<Fault>,
        connection: &mut TcpStream,
    ) -> std::io::Result<()> {
        let repositories = self.repositories.lock().unwrap();
        let path = seen.path.split('?').next().unwrap_or_default().trim_start_matches('/');
        let found = repositories.iter().find_map(|(id, repository)| {
            repository.files.get(path.strip_prefix(id)?.trim_start_matches('/'))
        });
        let bytes = found.map(|(_, bytes)| bytes.clone());
        drop(repositories);
        match bytes {
            Some(bytes) => send(connection, seen, &bytes, "ETag: \"of the CDN\"\r\n", fault),
            None => reply(connection, 404, "", b""),
        }
    }
}

fn read_request(host: Host, connection: &TcpStream) -> std::io::Result<Option<Seen>> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(connection).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut seen = Seen { host, method, path, range: None, authorization: None };
    for line in lines {
        let line = line?;
        match line.split_once(": ") {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("range") => {
                seen.range = Some(value.to_owned());
            }
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                seen.authorization = Some(value.to_owned());
            }
            Some(_) => {}
        }
    }
    Ok(Some(seen))
}

fn reply_about(
    repository: &Repository,
    id: &str,
    revision: &str,
    connection: &mut TcpStream,
) -> std::io::Result<()> {
    let revision = revision.replace("%2F", "/");
    if !["main", "refs/pr/15", &repository.commit].contains(&revision.as_str()) {
        return reply(connection, 404, "X-Error-Code: RevisionNotFound\r\n", b"");
    }
    let siblings: Vec<_> =
        repository.files.keys().map(|path| serde_json::json!({ "rfilename": path })).collect();
    let about = serde_json::json!({
        "_id": "621ffdc036468d709f174338", "id": id, "modelId": id, "sha": repository.commit,
        "private": false, "gated": false, "disabled": false, "siblings": siblings,
    });
    let headers = "Content-Type: application/json\r\n";
    reply(connection, 200, headers, about.to_string().as_bytes())
}

fn reply(
    connection: &mut TcpStream,
    status: u16,
    headers: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    connection.write_all(body)
}

fn send(
    connection: &mut TcpStream,
    seen: &Seen,
    bytes: &[u8],
    headers: &str,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    let start = seen
        .range
        .as_deref()
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let start = start.filter(|_| !matches!(fault, Some(Fault::IgnoreRange)));
    if start.is_some_and(|start| start >= bytes.len()) {
        return reply(connection, 416, "", b"");
    }
    let mut body = bytes[start.unwrap_or(0)..].to_vec();
    let mut head = String::new();
    match start {
        Some(start) => {
            let (last, all) = (bytes.len() - 1, bytes.len());
            write!(head, "HTTP/1.1 206 X\r\nContent-Range: bytes {start}-{last}/{all}\r\n")
                .unwrap();
        }
        None => head.push_str("HTTP/1.1 200 X\r\n"),
    }
    match fault {
        Some(Fault::OtherLength(more)) => {
            body.resize(body.len().saturating_add_signed(isize::try_from(more).unwrap()), 7);
        }
        Some(Fault::OtherBytes) => body.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1),
        _ => {}
    }
    if !matches!(fault, Some(Fault::OtherBytes)) {
        write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    write!(connection, "{head}{headers}Connection: close\r\n\r\n")?;
    if seen.method == "HEAD" {
        return Ok(());
    }
    match fault {
        Some(Fault::CutAtHalf) => connection.write_all(&body[..body.len() / 2]),
        Some(Fault::Slow { piece, pause }) => body.chunks(piece).try_for_each(|piece| {
            std::thread::sleep(pause);
            connection.write_all(piece)
        }),
        Some(Fault::Stall) => {
            connection.write_all(&body[..body.len() / 4])?;
            std::thread::sleep(Duration::from_secs(3));
            Ok(())
        }
        _ => connection.write_all(&body),
    }
}

/// A made-up commit hash.
pub(crate) fn commit(number: u8) -> String {
    format!("{number:02x}").repeat(20)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Hash that `git hash-object` prints.
pub(crate) fn git_id(bytes: &[u8]) -> String {
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that no two places of a file share.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}
