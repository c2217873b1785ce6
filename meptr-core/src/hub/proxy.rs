//! Proxies named by the environment, chosen for each address as curl does.
//!
//! `https_proxy` serves `https` addresses, `http_proxy` serves `http` ones, `all_proxy` both; names
//! in small or capital letters, small ones first. `HTTP_PROXY` in capitals does not count where
//! `REQUEST_METHOD` is set: a CGI program gets it from a header of the request. `no_proxy` lists
//! hosts, which stand for their subdomains too, IP addresses, networks (`10.0.0.0/8`), or `*`.

use std::net::IpAddr;

use ureq::Proxy;
use url::Url;

use super::{Error, Result};

/// Proxy of each kind of address, and the hosts that are reached without one.
#[derive(Debug, Clone, Default)]
pub(super) struct Proxies {
    pub(super) http: Option<Proxy>,
    pub(super) https: Option<Proxy>,
    exempt: Vec<Exempt>,
}

/// An entry of `no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exempt {
    All,
    Network { address: IpAddr, prefix: u8 },
    Domain(String),
}

impl Proxies {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// [`Error::BadVariable`] when a variable holds no address of a proxy.
    pub(super) fn from_process() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let is_cgi = get("REQUEST_METHOD").is_some();
        let first = |names: &[&'static str]| -> Result<Option<Proxy>> {
            let named = names.iter().filter(|name| !(is_cgi && **name == "HTTP_PROXY"));
            let found = named.copied().find_map(|name| Some((name, get(name)?)));
            let Some((name, value)) = found else { return Ok(None) };
            let problem = "does not hold the address of a proxy, such as http://host:8080";
            let proxy = Proxy::new(value.trim());
            proxy.map(Some).map_err(|_| Error::BadVariable { name, problem })
        };
        let exempt = get("no_proxy").or_else(|| get("NO_PROXY")).unwrap_or_default();
        Ok(Self {
            http: first(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])?,
            https: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?,
            exempt: exempt.split(',').filter_map(Exempt::parse).collect(),
        })
    }

    /// Whether an address is reached without a proxy: it is on this machine, or `no_proxy` names it.
    pub(super) fn are_bypassed(&self, url: &Url) -> bool {
        let host = bare_host(url);
        is_this_machine(url) || self.exempt.iter().any(|exempt| exempt.covers(host))
    }
}

impl Exempt {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text == "*" {
            return Some(Self::All);
        }
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().ok()?)),
            None => (text, None),
        };
        if let Ok(address) = address.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Some(Self::Network { address, prefix: prefix.unwrap_or(128) });
        }
        let domain = text.trim_start_matches('*').trim_start_matches('.');
        (!domain.is_empty()).then(|| Self::Domain(domain.to_ascii_lowercase()))
    }

    /// Whether a host, in small letters as [`Url`] has it, is meant.
    fn covers(&self, host: &str) -> bool {
        match self {
            Self::All => true,
            Self::Domain(domain) => host
                .strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
            Self::Network { address, prefix } => {
                let Ok(host) = host.parse::<IpAddr>() else { return false };
                let (one, other, width) = match (address, host) {
                    (IpAddr::V4(one), IpAddr::V4(other)) => {
                        (u128::from(one.to_bits()), u128::from(other.to_bits()), 32)
                    }
                    (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), 128),
                    _ => return false,
                };
                let rest = width - u32::from(*prefix).min(width);
                one.checked_shr(rest) == other.checked_shr(rest)
            }
        }
    }
}

/// Whether an address never leaves this machine.
pub(super) fn is_this_machine(url: &Url) -> bool {
    let host = bare_host(url);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Host without the brackets of an IPv6 address.
fn bare_host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_matches(['[', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies> {
        Proxies::from_variables(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let host = |proxy: &Option<Proxy>| proxy.as_ref().map(|proxy| proxy.host().to_owned());
        let read = |variables: &[_]| {
            let found = proxies(variables).unwrap();
            (host(&found.http), host(&found.https))
        };
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(read(&[]), (None, None));
        assert_eq!(read(&[("http_proxy", "http://a:1")]), (named("a"), None));
        assert_eq!(read(&[("HTTPS_PROXY", "b:2")]), (None, named("b")));
        let all = ("ALL_PROXY", "socks5h://c:3");
        assert_eq!(read(&[all, ("https_proxy", "d:4")]), (named("c"), named("d")));
        assert_eq!(read(&[("HTTP_PROXY", "e"), ("REQUEST_METHOD", "GET")]), (None, None));
        assert_eq!(read(&[("https_proxy", " ")]), (None, None));
        let error = proxies(&[("https_proxy", "gopher://x")]).unwrap_err();
        assert!(matches!(error, Error::BadVariable { name: "https_proxy", .. }), "{error}");
    }

    #[test]
    fn some_hosts_are_reached_without_a_proxy() {
        let list = "example.com, .other.org,10.0.0.0/8,[2001:db8::1], 192.0.2.7";
        let proxies = proxies(&[("no_proxy", list)]).unwrap();
        for direct in [
            "https://example.com/x",
            "https://EXAMPLE.com",
            "http://a.b.example.com",
            "http://a.other.org",
            "http://10.9.8.7:80",
            "http://[2001:db8::1]",
            "http://192.0.2.7",
            "http://localhost:1",
            "http://[::1]:1",
            "http://127.0.0.9",
        ] {
            assert!(proxies.are_bypassed(&url(direct)), "{direct}");
        }
        for proxied in [
            "https://notexample.com",
            "https://example.com.net",
            "http://11.0.0.1",
            "http://192.0.2.8",
            "http://[2001:db8::2]",
            "http://localhost.example",
        ] {
            assert!(!proxies.are_bypassed(&url(proxied)), "{proxied}");
        }
        let all = self::proxies(&[("NO_PROXY", "*")]).unwrap();
        assert!(all.are_bypassed(&url("https://huggingface.co")));
    }
}
