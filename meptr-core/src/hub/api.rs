//! Questions to the Hub's API: the commit and the files of a revision.
//!
//! The one place that uses the `hf-hub` crate: it knows the address of the question and the form of
//! the answer. The request goes through [`Http`], for `hf-hub` 0.5 sets no time limit, reads no
//! `Retry-After` and follows redirects to other hosts. Its downloads are not used: of 0.5.0, they
//! check neither hash nor length, and wait five seconds for the lock of another process.

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api as HubApi, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use url::Url;

use super::cache::{RepositoryId, is_commit};
use super::environment::Environment;
use super::http::{Http, broken};
use super::retry::Failure;
use super::{Error, Result};
use crate::paths::stays_inside;

/// Client of the Hub's API.
pub(super) struct Api {
    hub: HubApi,
    endpoint: Url,
}

/// Commit and files of a revision.
pub(super) struct Revision {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

impl Api {
    pub(super) fn new(environment: &Environment) -> Result<Self> {
        // The token stays here: `Http` sends it.
        let builder = ApiBuilder::from_cache(Cache::new(environment.cache.clone()))
            .with_token(None)
            .with_endpoint(environment.endpoint.as_str().trim_end_matches('/').to_owned());
        let hub = builder.build().map_err(|source| Error::Network {
            doing: "setting up the connection to the Hub".to_owned(),
            source: source.into(),
        })?;
        Ok(Self { hub, endpoint: environment.endpoint.clone() })
    }

    /// Asks which commit a branch, tag or pull request is, and for the paths of its files.
    pub(super) fn revision(
        &self,
        http: &Http,
        repository: &RepositoryId,
        revision: &str,
    ) -> Result<Revision, Failure> {
        let what = format!("revision `{revision}` of {repository}");
        let repo =
            Repo::with_revision(repository.to_string(), RepoType::Model, revision.to_owned());
        let request = self.hub.repo(repo).info_request();
        let address = request.uri_ref().and_then(|uri| Url::parse(&uri.to_string()).ok());
        let address = address.ok_or_else(|| Error::BadAddress {
            address: self.endpoint.to_string(),
            problem: format!("it does not make an address for {what}"),
        })?;
        let mut answer = http.ask(address, repository, &what)?;
        let info: RepoInfo = answer.body_mut().read_json().map_err(|source| match source {
            ureq::Error::Json(_) => self.odd(format!("it sends no JSON of the Hub's, for {what}")),
            source => broken(&format!("asking {} for {what}", self.host()), source),
        })?;
        if !is_commit(&info.sha) {
            return Err(self.odd(format!("it names no commit, for {what}")));
        }
        let files: Vec<_> = info.siblings.into_iter().map(|file| file.rfilename).collect();
        if !files.iter().all(|file| stays_inside(file)) {
            return Err(self.odd(format!("it lists a file outside the repository, for {what}")));
        }
        Ok(Revision { commit: info.sha, files })
    }

    fn odd(&self, problem: String) -> Failure {
        Error::Protocol { host: self.host(), problem }.into()
    }

    fn host(&self) -> String {
        self.endpoint.host_str().unwrap_or_default().to_owned()
    }
}
