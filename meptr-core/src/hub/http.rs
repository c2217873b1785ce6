//! Requests for files: where redirects lead, who gets the token, what a refusal means.

use std::time::{Duration, SystemTime};

use reqwest::blocking::{Client, Response};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderValue, LOCATION,
    RANGE, RETRY_AFTER,
};
use reqwest::{Method, StatusCode, Url, redirect};

use super::cache::{RepositoryId, is_tag};
use super::environment::Environment;
use super::http_date::retry_after;
use super::retry::{Failure, Patience};
use super::{Error, Result};

pub(super) const USER_AGENT: &str = concat!("meptr/", env!("CARGO_PKG_VERSION"));

const MOST_REDIRECTS: usize = 10;

/// A file of a repository at a commit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remote<'a> {
    pub(super) repository: &'a RepositoryId,
    pub(super) commit: &'a str,
    pub(super) path: &'a str,
}

impl std::fmt::Display for Remote<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.repository, self.path)
    }
}

/// What the Hub says about a file before it sends it.
#[derive(Debug, Clone)]
pub(super) struct FileHead {
    pub(super) tag: String,
    pub(super) size: u64,
}

/// The bytes of a file from `start` on.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) response: Response,
    pub(super) start: u64,
}

#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    endpoint: Url,
    token: Option<HeaderValue>,
}

impl Http {
    pub(super) fn new(environment: &Environment, patience: &Patience) -> Result<Self> {
        let mut client = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(redirect::Policy::none())
            .connect_timeout(patience.connect)
            .timeout(patience.idle); // of one read, in this blocking client
        if is_this_machine(&environment.endpoint) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|source| Error::Network {
            doing: "setting up the connection to the Hub".to_owned(),
            source: source.into(),
        })?;
        let token = environment.token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.secret()))
                .expect("a token holds visible ASCII only");
            value.set_sensitive(true);
            value
        });
        Ok(Self { client, endpoint: environment.endpoint.clone(), token })
    }

    /// Asks for the entity tag and the length of a file.
    ///
    /// Large files live on another host; the redirect to it carries the Hub's own statement
    /// (`X-Linked-Etag`, `X-Linked-Size`), which counts, and not what that host says.
    pub(super) fn head(&self, remote: Remote<'_>) -> Result<FileHead, Failure> {
        let url = self.address(remote);
        let (response, _) = self.follow(Method::HEAD, url, None, remote)?;
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let tag = header("x-linked-etag").or_else(|| header(ETAG.as_str())).map(bare_tag);
        let size = header("x-linked-size").or_else(|| header(CONTENT_LENGTH.as_str()));
        let size = size.and_then(|size| size.parse().ok());
        match (tag.filter(|tag| is_tag(tag)), size) {
            (Some(tag), Some(size)) => Ok(FileHead { tag: tag.to_owned(), size }),
            _ => {
                let problem = format!("it states no entity tag or no size for {remote}");
                Err(Error::Protocol { host: host(&self.endpoint), problem }.into())
            }
        }
    }

    /// Opens a file, at `offset` if the server can do that and at its start otherwise.
    pub(super) fn open(&self, remote: Remote<'_>, offset: u64, size: u64) -> Result<Body, Failure> {
        let url = self.address(remote);
        let (response, url) = self.follow(Method::GET, url, Some(offset), remote)?;
        let (start, total) = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE);
                range.and_then(|range| content_range(range.to_str().ok()?)).unwrap_or((0, None))
            }
            _ => {
                let length = response.headers().get(CONTENT_LENGTH);
                (0, length.and_then(|length| length.to_str().ok()?.parse().ok()))
            }
        };
        if response.status() == StatusCode::PARTIAL_CONTENT && start != offset {
            let problem = format!("it sends another part of {remote} than the one asked for");
            return Err(Error::Protocol { host: host(&url), problem }.into());
        }
        match total {
            Some(total) if total != size => {
                let (file, promised_by) = (remote.to_string(), "the Hub");
                Err(Error::WrongSize { file, promised_by, expected: size, found: total }.into())
            }
            _ => Ok(Body { response, start }),
        }
    }

    fn address(&self, remote: Remote<'_>) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .expect("an http address has a path")
            .pop_if_empty()
            .extend([remote.repository.owner(), remote.repository.name(), "resolve"])
            .push(remote.commit)
            .extend(remote.path.split('/'));
        url
    }

    fn follow(
        &self,
        method: Method,
        mut url: Url,
        offset: Option<u64>,
        remote: Remote<'_>,
    ) -> Result<(Response, Url), Failure> {
        for _ in 0..=MOST_REDIRECTS {
            let response = self.send(&method, &url, offset, remote)?;
            let states_tag = response.headers().contains_key("x-linked-etag");
            let status = response.status();
            if status.is_success()
                || (method == Method::HEAD && states_tag && status.is_redirection())
            {
                return Ok((response, url));
            }
            if !status.is_redirection() {
                return Err(self.refused(&response, &url, remote));
            }
            url = redirect_target(&url, &response)?;
        }
        let problem = format!("more than {MOST_REDIRECTS} redirects");
        Err(Error::BadAddress { address: shown(&url), problem }.into())
    }

    fn send(
        &self,
        method: &Method,
        url: &Url,
        offset: Option<u64>,
        remote: Remote<'_>,
    ) -> Result<Response, Failure> {
        // Compressed on the way, lengths and ranges would mean something else.
        let mut request = self.client.request(method.clone(), url.clone());
        request = request.header(ACCEPT_ENCODING, "identity");
        if let Some(token) = self.token.as_ref().filter(|_| same_origin(url, &self.endpoint)) {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(offset) = offset.filter(|offset| *offset > 0) {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        request.send().map_err(|source| {
            let doing = format!("fetching {remote} from {}", host(url));
            Failure::temporary(Error::Network { doing, source: source.without_url().into() })
        })
    }

    fn refused(&self, response: &Response, url: &Url, remote: Remote<'_>) -> Failure {
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let wait = header(RETRY_AFTER.as_str())
            .and_then(|text| retry_after(text, SystemTime::now()))
            .or_else(|| header("ratelimit").and_then(seconds_to_reset).map(Duration::from_secs));
        let Remote { repository, commit, path } = remote;
        let refusal = Refusal {
            status: response.status().as_u16(),
            code: header("x-error-code"),
            retry_after: wait,
            repository,
            what: &format!("`{path}` in {repository} at {commit}"),
        };
        refusal.into_failure(url, &self.endpoint, self.token.is_some())
    }
}

/// An answer that is neither the file nor a redirect.
pub(super) struct Refusal<'a> {
    pub(super) status: u16,
    /// The Hub's `X-Error-Code`.
    pub(super) code: Option<&'a str>,
    pub(super) retry_after: Option<Duration>,
    pub(super) repository: &'a RepositoryId,
    /// What was asked for.
    pub(super) what: &'a str,
}

impl Refusal<'_> {
    pub(super) fn into_failure(self, url: &Url, endpoint: &Url, has_token: bool) -> Failure {
        let is_hub = same_origin(url, endpoint);
        let repository = self.repository.to_string();
        let server = Error::Server {
            host: host(url),
            status: self.status,
            doing: format!("fetching {}", self.what),
        };
        let passing = |error| {
            let error = Box::new(error);
            Failure::Temporary { error, retry_after: self.retry_after, bytes: 0 }
        };
        match self.status {
            401 | 403 if is_hub && self.code == Some("GatedRepo") => {
                let page = format!("{}/{repository}", endpoint.as_str().trim_end_matches('/'));
                Error::Gated { repository, page }.into()
            }
            401 | 403 if is_hub => Error::Unauthorised { repository, has_token }.into(),
            401 | 403 => passing(server), // a signed address that ran out: the next try gets a new one
            404 if self.code == Some("RepoNotFound") => {
                Error::NotFound { what: format!("repository {repository}") }.into()
            }
            404 => Error::NotFound { what: self.what.to_owned() }.into(),
            429 => {
                let (host, retry_after) = (host(url), self.retry_after);
                passing(Error::RateLimited { host, retry_after })
            }
            408 | 416 | 500.. => passing(server),
            _ => server.into(),
        }
    }
}

/// Whether two addresses have scheme, host and port in common.
pub(super) fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

/// Whether an address never leaves this machine; proxies are for the others.
pub(super) fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn redirect_target(from: &Url, response: &Response) -> Result<Url> {
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let target = location.and_then(|location| from.join(location).ok());
    let bad = |address: String, problem: &str| Error::BadAddress {
        address,
        problem: format!("{} redirects to it, {problem}", host(from)),
    };
    let target = target.ok_or_else(|| bad(shown(from), "but does not say where to"))?;
    match (from.scheme(), target.scheme()) {
        ("https", "https") | ("http", "http" | "https") => Ok(target),
        ("https", "http") => Err(bad(shown(&target), "away from https")),
        _ => Err(bad(shown(&target), "which is no web address")),
    }
}

/// An address without what may be secret in it.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None); // fails where there cannot be one
    url.into()
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

/// `W/"abc"` to `abc`.
fn bare_tag(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"')
}

/// `"resolvers";r=0;t=42`, which the Hub sends with status 429, to 42.
fn seconds_to_reset(text: &str) -> Option<u64> {
    text.split(';').find_map(|field| field.trim().strip_prefix("t=")?.parse().ok())
}

/// `bytes 5-9/10` to 5 and 10.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_servers_write_them() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 0-9/*"), Some((0, None)));
        assert_eq!(content_range("lines 0-9/10"), None);
        assert_eq!(seconds_to_reset("\"resolvers\";r=0;t=42"), Some(42));
        assert_eq!(bare_tag("W/\"abc\""), "abc");
        assert_eq!(bare_tag("abc"), "abc");
    }

    #[test]
    fn addresses_are_shown_without_secrets_and_compared_with_their_port() {
        let url = |text: &str| Url::parse(text).unwrap();
        let signed = url("https://ann:pass@cdn.example/x?Signature=secret#part");
        assert_eq!(shown(&signed), "https://ann@cdn.example/x");
        assert!(same_origin(&url("https://a.example/x"), &url("https://a.example:443/y")));
        for other in ["http://a.example", "https://a.example:444", "https://b.a.example"] {
            assert!(!same_origin(&url("https://a.example"), &url(other)), "{other}");
        }
        for here in ["http://127.0.0.1:1", "http://localhost/x", "http://[::1]:1"] {
            assert!(is_this_machine(&url(here)), "{here}");
        }
        assert!(!is_this_machine(&url("http://localhost.example")));
    }
}
