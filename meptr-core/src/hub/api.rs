//! Questions to the Hub's API: what a revision is and which files it holds.
//!
//! This is the one place that uses the `hf-hub` crate. Of version 1.0.0, the answer to "which
//! commit is this revision" can be relied on; of the rest, as its source has it, not what we need:
//! it does not resume, checks neither hash nor length, follows redirects before it reads a file's
//! metadata (and so loses them for every large file), drops the SHA-256 of the tree listing, sends
//! the token to wherever a listing's next page is said to be, gives up on a lock after 10 s and
//! waits a time of its own where the Hub says `Retry-After`. All that is in [`super::http`] and
//! [`super::download`].

use std::time::Duration;

use hf_hub::{HFClient, HFClientSync, HFError};
use reqwest::{Url, redirect};

use super::cache::{RepositoryId, is_commit};
use super::environment::Environment;
use super::http::{Refusal, USER_AGENT, same_origin};
use super::retry::{Failure, Patience};
use super::{Error, Result};
use crate::paths::stays_inside;

/// A token that cannot stand in a header: `hf-hub` then sends none. With no token at all it would
/// look for one in the environment by itself.
const NO_TOKEN: &str = "\n";

pub(super) struct Api {
    client: HFClientSync,
    endpoint: Url,
    has_token: bool,
}

/// What a revision is right now.
pub(super) struct Revision {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

impl Api {
    pub(super) fn new(environment: &Environment, patience: &Patience) -> Result<Self> {
        let endpoint = environment.endpoint.clone();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Network {
            doing: "setting up the connection to the Hub".to_owned(),
            source,
        };
        let hub = endpoint.clone();
        let same_host_only = redirect::Policy::custom(move |attempt| {
            let stays = same_origin(attempt.url(), &hub) && attempt.previous().len() <= 5;
            if stays { attempt.follow() } else { attempt.stop() }
        });
        let mut client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .redirect(same_host_only)
            .connect_timeout(patience.connect)
            .read_timeout(patience.idle);
        if super::http::is_this_machine(&endpoint) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|source| failed(source.into()))?;
        let token = environment.token.as_ref();
        let client = HFClient::builder()
            .client(client)
            .endpoint(endpoint.as_str())
            .token(token.map_or(NO_TOKEN, |token| token.secret()))
            .cache_enabled(false)
            .retry_max_attempts(0) // `Patience` does that, with `Retry-After`
            .build()
            .and_then(HFClientSync::from_inner)
            .map_err(|source| failed(source.into()))?;
        Ok(Self { client, endpoint, has_token: token.is_some() })
    }

    /// Asks which commit a branch, tag or pull request is, and for the paths of its files.
    pub(super) fn revision(
        &self,
        repository: &RepositoryId,
        revision: &str,
    ) -> Result<Revision, Failure> {
        let handle = self.client.model(repository.owner(), repository.name());
        let info = handle.info().revision(revision).send();
        let info = info.map_err(|error| self.failure(error, repository, revision))?;
        let odd = |problem: &str| self.odd(format!("{problem}, for {repository}@{revision}"));
        let commit = info.sha.filter(|commit| is_commit(commit));
        let commit = commit.ok_or_else(|| odd("it names no commit"))?;
        let files = info.siblings.unwrap_or_default();
        let files: Vec<_> = files.into_iter().map(|file| file.rfilename).collect();
        if !files.iter().all(|file| stays_inside(file)) {
            return Err(odd("it lists a file outside the repository").into());
        }
        Ok(Revision { commit, files })
    }

    fn odd(&self, problem: String) -> Error {
        Error::Protocol { host: self.host(), problem }
    }

    fn host(&self) -> String {
        self.endpoint.host_str().unwrap_or_default().to_owned()
    }

    fn failure(&self, error: HFError, repository: &RepositoryId, revision: &str) -> Failure {
        let what = format!("revision `{revision}` of {repository}");
        let refused = |status: u16, code: Option<&str>, retry_after: Option<Duration>| {
            let refusal = Refusal { status, code, retry_after, repository, what: &what };
            refusal.into_failure(&self.endpoint, &self.endpoint, self.has_token)
        };
        match error {
            HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Http { context } => {
                refused(context.status.as_u16(), context.error_code.as_deref(), None)
            }
            HFError::RateLimited { retry_after, .. } => refused(429, None, retry_after),
            HFError::RevisionNotFound { context, .. } | HFError::RepoNotFound { context, .. } => {
                refused(
                    404,
                    context.as_ref().and_then(|context| context.error_code.as_deref()),
                    None,
                )
            }
            HFError::Json(_) => self.odd(format!("it sends no JSON, for {what}")).into(),
            other => Failure::temporary(Error::Network {
                doing: format!("asking {} for {what}", self.host()),
                source: other.into(),
            }),
        }
    }
}
