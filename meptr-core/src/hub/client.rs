//! The HTTP client: one request at a time, with time limits, by way of the proxies of the
//! environment, without following redirects.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::config::Config;
use ureq::http::header::{HOST, PROXY_AUTHORIZATION};
use ureq::http::{HeaderMap, Method, Request, Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};
use ureq::{Agent, Body, Proxy, ProxyProtocol};
use url::Url;

use super::proxy::Proxies;
use super::retry::RetryPolicy;
use super::{Error, Result};

/// Name of this program for servers.
pub(super) const USER_AGENT: &str = concat!("meptr/", env!("CARGO_PKG_VERSION"));

/// Certificate authorities of the system: Debian, Fedora, macOS and the BSDs.
const SYSTEM_CERTIFICATES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Sends requests.
#[derive(Debug)]
pub(super) struct Client {
    proxies: Proxies,
    direct: Agent,
    http: Route,
    https: Route,
}

/// The way to servers of one scheme.
#[derive(Debug)]
enum Route {
    /// To the server, through a tunnel where the agent has a proxy.
    Agent(Agent),
    /// A proxy is asked for whole addresses, as RFC 9112 (section 3.2.2) has it for plain `http`.
    Forward { agent: Agent, proxy: Proxy },
}

impl Client {
    /// Makes a client for the environment of this process.
    ///
    /// # Errors
    /// [`Error::BadVariable`] when `SSL_CERT_FILE` or a proxy variable cannot be used.
    pub(super) fn new(retry: &RetryPolicy) -> Result<Self> {
        let proxies = Proxies::from_process()?;
        let tls = TlsConfig::builder().root_certs(root_certificates()?).build();
        let direct: Agent = config(&tls, None, retry).into();
        let http = match &proxies.http {
            Some(proxy)
                if matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) =>
            {
                let connector = DefaultConnector::new().chain(AbsoluteForm);
                let config = config(&tls, None, retry);
                let agent = Agent::with_parts(config, connector, DefaultResolver::default());
                Route::Forward { agent, proxy: proxy.clone() }
            }
            proxy => Route::Agent(config(&tls, proxy.as_ref(), retry).into()),
        };
        let https = Route::Agent(config(&tls, proxies.https.as_ref(), retry).into());
        Ok(Self { proxies, direct, http, https })
    }

    /// Sends one request without a body, and gives the answer whatever its status.
    ///
    /// Time limits: [`RetryPolicy::connect_timeout`] for the connection,
    /// [`RetryPolicy::idle_timeout`] for the head of the answer and for each read of its body.
    ///
    /// # Errors
    /// When no answer comes.
    pub(super) fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Response<Body>, ureq::Error> {
        let mut request = Request::builder().method(method).uri(url.as_str()).body(())?;
        *request.headers_mut() = headers;
        let route = match url.scheme() {
            _ if self.proxies.are_bypassed(url) => return self.direct.run(request),
            "http" => &self.http,
            _ => &self.https,
        };
        match route {
            Route::Agent(agent) => agent.run(request),
            Route::Forward { agent, proxy } => agent.run(forwarded(request, url, proxy)?),
        }
    }
}

fn config(tls: &TlsConfig, proxy: Option<&Proxy>, retry: &RetryPolicy) -> Config {
    Agent::config_builder()
        .tls_config(tls.clone())
        .proxy(proxy.cloned())
        .user_agent(USER_AGENT)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_resolve(Some(retry.connect_timeout))
        .timeout_connect(Some(retry.connect_timeout))
        .timeout_recv_response(Some(retry.idle_timeout))
        .timeout_per_read(Some(retry.idle_timeout))
        .timeout_per_write(Some(retry.idle_timeout))
        .max_idle_age(Duration::from_secs(10))
        .build()
}

/// The request as a proxy takes it: sent to the proxy, with `/` and the whole address for a path;
/// [`AbsoluteForm`] takes the `/` away, which `ureq` needs.
fn forwarded(
    mut request: Request<()>,
    url: &Url,
    proxy: &Proxy,
) -> Result<Request<()>, ureq::Error> {
    let scheme = match proxy.protocol() {
        ProxyProtocol::Https => "https",
        _ => "http",
    };
    let target = request.uri().authority().map(|authority| authority.as_str().to_owned());
    *request.uri_mut() = Uri::builder()
        .scheme(scheme)
        .authority(format!("{}:{}", proxy.host(), proxy.port()))
        .path_and_query(format!("/{url}"))
        .build()?;
    let headers = request.headers_mut();
    headers.insert(HOST, header_value(&target.unwrap_or_default())?);
    if let Some(user) = proxy.username() {
        let credentials = format!("{user}:{}", proxy.password().unwrap_or_default());
        let value = header_value(&format!("Basic {}", STANDARD.encode(credentials)))?;
        headers.insert(PROXY_AUTHORIZATION, value);
    }
    Ok(request)
}

/// Writes requests whose path is `/` and a whole address with the address alone.
#[derive(Debug)]
struct AbsoluteForm;

impl<In: Transport> Connector<In> for AbsoluteForm {
    type Out = AbsoluteFormTransport<In>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(AbsoluteFormTransport))
    }
}

#[derive(Debug)]
struct AbsoluteFormTransport<T>(T);

impl<T: Transport> Transport for AbsoluteFormTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let output = &mut self.0.buffers().output()[..amount];
        let amount = in_absolute_form(output);
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

/// Takes the `/` off the address in a request line, and gives the length that is left.
fn in_absolute_form(output: &mut [u8]) -> usize {
    let length = output.len();
    for method in [&b"GET "[..], b"HEAD "] {
        let address = output.strip_prefix(method).and_then(|rest| rest.strip_prefix(b"/"));
        if address.is_some_and(|address| address.starts_with(b"http://")) {
            output.copy_within(method.len() + 1.., method.len());
            return length - 1;
        }
    }
    length
}

fn header_value(text: &str) -> Result<ureq::http::HeaderValue, ureq::Error> {
    text.parse().map_err(|source| ureq::Error::Http(ureq::http::Error::from(source)))
}

/// Certificate authorities: those of `SSL_CERT_FILE`, else the system's, else the list of Mozilla's
/// that the program brings, so that no package of the system is needed.
fn root_certificates() -> Result<RootCerts> {
    if let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) {
        let problem = "does not name a readable file of certificates (PEM)";
        let read = certificates_of(Path::new(&path));
        return read.ok_or(Error::BadVariable { name: "SSL_CERT_FILE", problem });
    }
    let system = SYSTEM_CERTIFICATES.iter().find_map(|path| certificates_of(Path::new(path)));
    Ok(system.unwrap_or(RootCerts::WebPki))
}

/// Certificates of a PEM file; nothing when it has none or cannot be read.
fn certificates_of(path: &Path) -> Option<RootCerts> {
    let pem = std::fs::read(path).ok()?;
    let items = parse_pem(&pem).filter_map(Result::ok);
    let certificates: Vec<Certificate<'static>> = items
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    (!certificates.is_empty()).then(|| RootCerts::Specific(Arc::new(certificates)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_asked_for_the_whole_address() {
        let url = Url::parse("http://hub.example:81/api/models/a?b=%2F").unwrap();
        let request = Request::builder().uri(url.as_str()).body(()).unwrap();
        let proxy = Proxy::new("http://ann:secret@proxy.example:8080").unwrap();
        let request = forwarded(request, &url, &proxy).unwrap();
        assert_eq!(request.uri().authority().unwrap().as_str(), "proxy.example:8080");
        let path = request.uri().path_and_query().unwrap();
        let mut line = format!("HEAD {path} HTTP/1.1\r\n").into_bytes();
        let length = in_absolute_form(&mut line);
        assert_eq!(line[..length], *format!("HEAD {url} HTTP/1.1\r\n").as_bytes());
        let mut other = b"GET /api HTTP/1.1\r\n".to_vec();
        assert_eq!(in_absolute_form(&mut other), other.len());
        assert_eq!(request.headers()[HOST], "hub.example:81");
        assert_eq!(request.headers()[PROXY_AUTHORIZATION], "Basic YW5uOnNlY3JldA==");
    }

    #[test]
    fn authorities_come_from_a_pem_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        assert!(certificates_of(&path).is_none());
        std::fs::write(&path, "no certificate").unwrap();
        assert!(certificates_of(&path).is_none());
    }
}
