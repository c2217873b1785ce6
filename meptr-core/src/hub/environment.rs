//! The environment variables of the Hugging Face Hub, read once and then passed on explicitly.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

use super::{Error, Result};

/// Address of the Hub, its cache, the token, and whether the network may be used.
///
/// | Variable | Meaning | Without it |
/// |---|---|---|
/// | `HF_HOME` | folder of all Hugging Face data | `$XDG_CACHE_HOME/huggingface`, `~/.cache/huggingface` |
/// | `HF_HUB_CACHE` (`HUGGINGFACE_HUB_CACHE`) | the cache of downloads | `$HF_HOME/hub` |
/// | `HF_ENDPOINT` | address of the Hub or of a mirror | `https://huggingface.co` |
/// | `HF_TOKEN` (`HUGGING_FACE_HUB_TOKEN`) | the user's token | the token file |
/// | `HF_TOKEN_PATH` | the token file | `$HF_HOME/token` |
/// | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | true: send no token | the token is sent |
/// | `HF_HUB_OFFLINE` | true: no connections | the network may be used |
///
/// True is `1`, `true`, `yes` or `on` in any case; a variable set to nothing counts as not set;
/// `~` at the start of a path is the home folder. All as in the Python library. The proxy variables
/// (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`) are read by the HTTP client; they do not
/// apply to addresses on this machine. Certificate authorities are those of the system, or of the file
/// that `SSL_CERT_FILE` names.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The Hub, without a trailing slash; `http` or `https`.
    pub endpoint: Url,
    /// The cache of downloads.
    pub cache: PathBuf,
    /// Sent to the endpoint and to nobody else.
    pub token: Option<Token>,
    /// Use what is in the cache and make no connection.
    pub offline: bool,
}

impl Environment {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// As [`Environment::from_variables`].
    pub fn from_process() -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// Reads the environment from any source of variables.
    ///
    /// # Errors
    /// [`Error::BadVariable`] when there is no home folder to fall back to, or the token cannot be
    /// a token; [`Error::BadAddress`] for an endpoint that is no web address.
    pub fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let home = get("HOME").or_else(|| get("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| get(name).map(|value| expand(Path::new(&value), home.as_deref()));
        let is_true = |name: &str| get(name).is_some_and(|value| is_true(&value.to_string_lossy()));

        let base = || {
            let user_cache = path("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
            user_cache.map(|cache| cache.join("huggingface"))
        };
        let hf_home = path("HF_HOME").or_else(base);
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(hf_home.as_ref()?.join("hub")))
            .ok_or(Error::BadVariable { name: "HF_HOME", problem: "is needed, HOME is not set" })?;

        let endpoint = get("HF_ENDPOINT");
        let endpoint = endpoint.as_deref().map(|value| value.to_string_lossy());
        let endpoint = parse_endpoint(endpoint.as_deref().unwrap_or("https://huggingface.co"))?;

        let token = if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else if let Some(value) = get("HF_TOKEN").or_else(|| get("HUGGING_FACE_HUB_TOKEN")) {
            Token::parse(&value.to_string_lossy())?
        } else {
            let file = path("HF_TOKEN_PATH").or_else(|| Some(hf_home.as_ref()?.join("token")));
            let text = file.and_then(|file| std::fs::read_to_string(file).ok());
            text.map(|text| Token::parse(&text)).transpose()?.flatten()
        };
        Ok(Self { endpoint, cache, token, offline: is_true("HF_HUB_OFFLINE") })
    }
}

/// An access token, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token as a user or an editor may have written it, with blanks around it.
    ///
    /// Returns nothing for blanks only.
    ///
    /// # Errors
    /// [`Error::BadVariable`] when a character cannot stand in an HTTP header.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if !text.chars().all(|character| character.is_ascii_graphic()) {
            let problem = "or the token file does not hold a token: only visible ASCII is possible";
            return Err(Error::BadVariable { name: "HF_TOKEN", problem });
        }
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }

    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(hidden)")
    }
}

/// Checks the address of a Hub.
///
/// # Errors
/// [`Error::BadAddress`] when it is not an `http` or `https` address.
pub fn parse_endpoint(text: &str) -> Result<Url> {
    let bad = |problem: String| Error::BadAddress { address: text.to_owned(), problem };
    let url = Url::parse(text.trim().trim_end_matches('/')).map_err(|why| bad(why.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(bad("the Hub needs an http or https address".to_owned())),
    }
}

fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

fn expand(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment> {
        Environment::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    fn cache(variables: &[(&str, &str)]) -> PathBuf {
        read(variables).unwrap().cache
    }

    #[test]
    fn the_cache_is_where_the_python_library_has_it() {
        let home = ("HOME", "/home/ann");
        assert_eq!(cache(&[home]), Path::new("/home/ann/.cache/huggingface/hub"));
        let xdg = ("XDG_CACHE_HOME", "/var/cache");
        assert_eq!(cache(&[home, xdg]), Path::new("/var/cache/huggingface/hub"));
        let hf_home = ("HF_HOME", "~/models");
        assert_eq!(cache(&[home, xdg, hf_home]), Path::new("/home/ann/models/hub"));
        let older = ("HUGGINGFACE_HUB_CACHE", "/older");
        assert_eq!(cache(&[home, hf_home, older]), Path::new("/older"));
        let hub = ("HF_HUB_CACHE", "/hub");
        assert_eq!(cache(&[home, hf_home, older, hub]), Path::new("/hub"));
        assert_eq!(cache(&[home, ("HF_HOME", "")]), Path::new("/home/ann/.cache/huggingface/hub"));
        assert!(matches!(read(&[]), Err(Error::BadVariable { name: "HF_HOME", .. })));
    }

    #[test]
    fn the_token_comes_from_the_variable_then_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), " hf_stored\n").unwrap();
        std::fs::write(folder.path().join("other"), "hf_other").unwrap();
        let other = folder.path().join("other");
        let home = ("HF_HOME", folder.path().to_str().unwrap());
        let token = |variables: &[_]| read(variables).unwrap().token.map(|token| token.0);

        assert_eq!(token(&[home]).as_deref(), Some("hf_stored"));
        let path = ("HF_TOKEN_PATH", other.to_str().unwrap());
        assert_eq!(token(&[home, path]).as_deref(), Some("hf_other"));
        let variable = ("HF_TOKEN", "hf_variable\r\n");
        assert_eq!(token(&[home, path, variable]).as_deref(), Some("hf_variable"));
        let none = ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
        assert_eq!(token(&[home, path, variable, none]), None);
        let missing = ("HF_TOKEN_PATH", "/does/not/exist");
        assert_eq!(token(&[home, missing]), None);
    }

    #[test]
    fn a_token_is_never_printed_and_never_breaks_a_header() {
        let environment = read(&[("HOME", "/"), ("HF_TOKEN", "hf_secret")]).unwrap();
        assert!(!format!("{environment:?}").contains("secret"));
        let error = read(&[("HOME", "/"), ("HF_TOKEN", "a\nhost: b")]).unwrap_err();
        assert!(!error.to_string().contains("host: b"), "{error}");
    }

    #[test]
    fn switches_and_endpoint_are_read_as_in_python() {
        for (value, expected) in
            [("1", true), ("ON", true), ("yes", true), ("True", true), ("0", false), ("no", false)]
        {
            let read = read(&[("HOME", "/"), ("HF_HUB_OFFLINE", value)]).unwrap();
            assert_eq!(read.offline, expected, "{value}");
        }
        let endpoint = |value| read(&[("HOME", "/"), ("HF_ENDPOINT", value)]).map(|e| e.endpoint);
        assert_eq!(endpoint("https://mirror.example/hub/").unwrap().path(), "/hub");
        assert_eq!(endpoint("").unwrap().as_str(), "https://huggingface.co/");
        for bad in ["ftp://mirror.example", "mirror.example", "file:///etc/passwd", "http://"] {
            assert!(matches!(endpoint(bad), Err(Error::BadAddress { .. })), "{bad}");
        }
    }
}
