//! Requests for files and answers of the API: redirects, the token, refusals.

use std::time::{Duration, SystemTime};

use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LOCATION, RANGE,
    RETRY_AFTER,
};
use ureq::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use ureq::{Body, BodyReader};
use url::Url;

use super::cache::{RepositoryId, is_tag};
use super::client::Client;
use super::environment::Environment;
use super::retry::{Failure, RetryPolicy};
use super::{Error, Result};

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

/// Entity tag and length of a file, as the Hub states them before it sends the file.
#[derive(Debug, Clone)]
pub(super) struct FileHead {
    pub(super) tag: String,
    pub(super) size: u64,
}

/// The bytes of a file from `start` on.
pub(super) struct FileBody {
    pub(super) bytes: BodyReader<'static>,
    pub(super) start: u64,
}

/// A request, followed through redirects.
struct Question<'a> {
    method: Method,
    url: Url,
    /// First byte wanted.
    offset: u64,
    /// Whether redirects may lead to another host, which then gets no token.
    may_leave: bool,
    repository: &'a RepositoryId,
    /// The file or revision, for messages.
    what: String,
    /// The request, for messages of a broken connection.
    doing: String,
}

/// Connection to the Hub, and to the hosts that it redirects to.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    endpoint: Url,
    token: Option<HeaderValue>,
}

impl Http {
    pub(super) fn new(environment: &Environment, retry: &RetryPolicy) -> Result<Self> {
        let token = environment.token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.secret()))
                .expect("a token holds visible ASCII only");
            value.set_sensitive(true);
            value
        });
        let client = Client::new(retry)?;
        Ok(Self { client, endpoint: environment.endpoint.clone(), token })
    }

    /// Asks the API, whose redirects are followed as long as they stay at the endpoint.
    pub(super) fn ask(
        &self,
        url: Url,
        repository: &RepositoryId,
        what: &str,
    ) -> Result<Response<Body>, Failure> {
        let doing = format!("asking for {what}");
        let what = what.to_owned();
        let method = Method::GET;
        let question =
            Question { method, url, offset: 0, may_leave: false, repository, what, doing };
        Ok(self.follow(question)?.0)
    }

    /// Asks for the entity tag and the length of a file.
    ///
    /// Large files live on another host; the redirect to it carries the Hub's own statement
    /// (`X-Linked-Etag`, `X-Linked-Size`), which counts, and not what that host says.
    pub(super) fn head(&self, remote: Remote<'_>) -> Result<FileHead, Failure> {
        let (response, _) = self.follow(self.file_question(Method::HEAD, remote, 0))?;
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
    pub(super) fn open(
        &self,
        remote: Remote<'_>,
        offset: u64,
        size: u64,
    ) -> Result<FileBody, Failure> {
        let (response, url) = self.follow(self.file_question(Method::GET, remote, offset))?;
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
            _ => Ok(FileBody { bytes: response.into_body().into_reader(), start }),
        }
    }

    fn file_question<'a>(&self, method: Method, remote: Remote<'a>, offset: u64) -> Question<'a> {
        let mut url = self.endpoint.clone();
        let Remote { repository, commit, path } = remote;
        url.path_segments_mut()
            .expect("an http address has a path")
            .pop_if_empty()
            .extend([repository.owner(), repository.name(), "resolve"])
            .push(commit)
            .extend(path.split('/'));
        let what = format!("`{path}` in {repository} at {commit}");
        let doing = format!("fetching {remote}");
        Question { method, url, offset, may_leave: true, repository, what, doing }
    }

    /// Answer to a question and the address that gave it, after all redirects.
    fn follow(&self, mut question: Question<'_>) -> Result<(Response<Body>, Url), Failure> {
        for _ in 0..=MOST_REDIRECTS {
            let response = self.send(&question)?;
            let states_tag = response.headers().contains_key("x-linked-etag");
            let status = response.status();
            if status.is_success()
                || (question.method == Method::HEAD && states_tag && status.is_redirection())
            {
                return Ok((response, question.url));
            }
            if !status.is_redirection() {
                return Err(self.refused(&response, &question));
            }
            let target = redirect_target(&question.url, &response)?;
            if !question.may_leave && !same_origin(&target, &self.endpoint) {
                return Err(self.refused(&response, &question));
            }
            question.url = target;
        }
        let problem = format!("more than {MOST_REDIRECTS} redirects");
        Err(Error::BadAddress { address: shown(&question.url), problem }.into())
    }

    fn send(&self, question: &Question<'_>) -> Result<Response<Body>, Failure> {
        let Question { method, url, offset, doing, .. } = question;
        let mut headers = HeaderMap::new();
        // Compressed on the way, lengths and ranges would mean something else.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(token) = self.token.as_ref().filter(|_| same_origin(url, &self.endpoint)) {
            headers.insert(AUTHORIZATION, token.clone());
        }
        if *offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"));
            headers.insert(RANGE, range.expect("digits can stand in a header"));
        }
        let answer = self.client.send(method.clone(), url, headers);
        answer.map_err(|source| broken(&format!("{doing} from {}", host(url)), source))
    }

    fn refused(&self, response: &Response<Body>, question: &Question<'_>) -> Failure {
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let wait = header(RETRY_AFTER.as_str())
            .and_then(|text| retry_after(text, SystemTime::now()))
            .or_else(|| header("ratelimit").and_then(seconds_to_reset).map(Duration::from_secs));
        let refusal = HttpStatusError {
            status: response.status().as_u16(),
            code: header("x-error-code"),
            retry_after: wait,
            repository: question.repository,
            what: &question.what,
            doing: &question.doing,
        };
        refusal.into_failure(&question.url, &self.endpoint, self.token.is_some())
    }
}

/// A connection that could not be made or broke; the next attempt may succeed.
pub(super) fn broken(doing: &str, source: ureq::Error) -> Failure {
    Failure::temporary(Error::Network { doing: doing.to_owned(), source: source.into() })
}

/// An answer that is neither the file nor a redirect.
pub(super) struct HttpStatusError<'a> {
    pub(super) status: u16,
    /// The Hub's `X-Error-Code`.
    pub(super) code: Option<&'a str>,
    pub(super) retry_after: Option<Duration>,
    pub(super) repository: &'a RepositoryId,
    /// The file or revision that was asked for.
    pub(super) what: &'a str,
    /// The request.
    pub(super) doing: &'a str,
}

impl HttpStatusError<'_> {
    pub(super) fn into_failure(self, url: &Url, endpoint: &Url, has_token: bool) -> Failure {
        let is_hub = same_origin(url, endpoint);
        let repository = self.repository.to_string();
        let server =
            Error::Server { host: host(url), status: self.status, doing: self.doing.to_owned() };
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

fn redirect_target(from: &Url, response: &Response<Body>) -> Result<Url> {
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

/// Time that a server asks to wait in `Retry-After`: seconds or a date (RFC 9110, section 10.2.3).
///
/// Nothing when it is neither, and no time at all when the date is past.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = httpdate::parse_http_date(text).ok()?;
    Some(then.duration_since(now).unwrap_or_default())
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
    }

    /// Reference: `date -u -d '1994-11-06 08:49:37' +%s` and the like.
    #[test]
    fn dates_are_read_in_all_three_forms() {
        let seconds = |text: &str| Some(retry_after(text, SystemTime::UNIX_EPOCH)?.as_secs());
        for (text, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
            ("Sun Nov  6 08:49:37 1994", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Fri, 31 Dec 2100 12:00:00 GMT", 4_133_937_600),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for bad in ["", "soon", "Sun, 06 Xyz 1994 08:49:37 GMT", "Sun, 06 Nov 1994 99:49:37 GMT"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        for year in ["18446744073709551615", "50539024859478223", "99999999999999"] {
            assert_eq!(seconds(&format!("Sun, 06 Nov {year} 08:49:37 GMT")), None, "{year}");
        }
    }

    #[test]
    fn what_is_past_means_no_wait() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let wait = |text| retry_after(text, now);
        assert_eq!(wait(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("-1"), None);
    }
}
