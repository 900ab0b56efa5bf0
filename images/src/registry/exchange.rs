//! One request to a registry and its answer: when to send it, proof of who we are, what a refusal means.
//!
//! A challenge is answered only if it comes from the very registry that was asked: one that a redirect has led to would
//! name a realm of its own and collect what is sent there (CVE-2020-15157).

use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::challenge::{self, Challenge};
use super::client::CONNECT;
use super::docker_config::Credentials;
use super::session::Session;
use super::{RegistryError, pause, retry};
use crate::manifest;

const MAX_TOKEN: u64 = 256 << 10;
const MAX_ERROR_BODY: u64 = 8 << 10;
/// A mirror may ask for so long a pause before it is passed over.
const MIRROR_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Session {
    pub(super) async fn retried<T, Fut: Future<Output = Result<T, RegistryError>>>(
        &self,
        attempt: impl Fn() -> Fut,
    ) -> Result<T, RegistryError> {
        let mut failures = 0;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            failures += 1;
            let Some(delay) = self.delay_after(&error, failures) else {
                return Err(error);
            };
            tracing::debug!(%error, "trying again in {delay:?}");
            self.wait(delay, error.is_rate_limit()).await;
        }
    }

    /// How long to wait after a failure; none if there is to be no further attempt.
    pub(super) fn delay_after(&self, error: &RegistryError, failures: u32) -> Option<Duration> {
        let wish = error.retry_after();
        let attempts = if self.endpoint.is_mirror {
            retry::MIRROR_ATTEMPTS
        } else {
            retry::ATTEMPTS
        };
        let impatient = self.endpoint.is_mirror && wish.is_some_and(|wish| wish > MIRROR_PATIENCE);
        if impatient || !error.is_transient() {
            return None;
        }
        retry::delay(failures, attempts, rand::random(), wish)
    }

    /// Sleeps, and tells why when it is the registry's wish.
    pub(super) async fn wait(&self, delay: Duration, is_wish: bool) {
        let told = self.told.as_ref().filter(|_| is_wish);
        if let Some(told) = told {
            told.send_modify(|progress| progress.waiting = Some(delay));
        }
        if is_wish {
            tracing::info!(
                registry = self.endpoint.label,
                "waiting {delay:?}: rate limit"
            );
        }
        tokio::time::sleep(delay).await;
        if let Some(told) = told {
            told.send_modify(|progress| progress.waiting = None);
        }
    }

    /// Waits while the registry wants to be left alone.
    async fn hold(&self) -> Result<(), RegistryError> {
        let pauses = self.client.pauses();
        while let Some(left) = pauses.left(&self.endpoint.host, Instant::now()) {
            if self.endpoint.is_mirror || left > retry::LONGEST_WISH {
                return Err(RegistryError::RateLimited {
                    registry: self.endpoint.label.clone(),
                    wait: left,
                });
            }
            self.wait(left, true).await;
        }
        Ok(())
    }

    /// GET below the repository's URL, with a challenge answered once.
    pub(super) async fn get(
        &self,
        path: &str,
        offset: Option<u64>,
        what: &str,
    ) -> Result<Response, RegistryError> {
        self.ask(Method::GET, path, offset, what).await
    }

    /// The same with another method.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        offset: Option<u64>,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let url = self.url(&format!("v2/{}/{path}", self.reference.repository()))?;
        let mut response = self.send(method.clone(), &url, offset, what).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(challenge) = self.challenge_of(&response)
            && self.answer(challenge).await?
        {
            response = self.send(method, &url, offset, what).await?;
        }
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            status => Err(self.refusal(status, response, what).await),
        }
    }

    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        offset: Option<u64>,
        what: &str,
    ) -> Result<Response, RegistryError> {
        self.hold().await?;
        let mut request = self
            .endpoint
            .transport
            .http(url)
            .request(method, url.clone())
            .header(ACCEPT, manifest::ACCEPT);
        if let Some(authorization) = self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
        {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(offset) = offset {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        self.perform(request, &format!("answer the request for {what}"))
            .await
    }

    async fn perform(
        &self,
        request: RequestBuilder,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let patience = CONNECT + self.client.stall();
        match tokio::time::timeout(patience, request.send()).await {
            Ok(sent) => sent.map_err(|e| self.transport(&e, what)),
            Err(_) => Err(self.timeout(what.into(), patience)),
        }
    }

    /// The challenge of an answer, if it comes from the registry itself.
    pub(super) fn challenge_of(&self, response: &Response) -> Option<Challenge> {
        if response.url().origin() != self.endpoint.base.origin() {
            tracing::warn!(
                registry = self.endpoint.label,
                host = response.url().host_str(),
                "a host that the registry redirects to asks for credentials: it gets none"
            );
            return None;
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        headers
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(challenge::parse_challenge)
    }

    /// Answers a challenge; false if there is nothing to answer with.
    async fn answer(&self, challenge: Challenge) -> Result<bool, RegistryError> {
        let header = match challenge {
            Challenge::Basic => match self.find_credentials().await? {
                Some(Credentials::Password { user, password }) => basic(&user, &password),
                // Only a token server takes such a token.
                Some(Credentials::IdentityToken(_)) | None => return Ok(false),
            },
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                format!(
                    "Bearer {}",
                    self.token(&realm, service.as_deref(), scope.as_deref())
                        .await?
                )
            }
        };
        let mut header = HeaderValue::from_str(&header)
            .map_err(|_| self.protocol("its token has odd characters"))?;
        header.set_sensitive(true);
        *self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(header);
        Ok(true)
    }

    pub(super) async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<String, RegistryError> {
        let mut url = challenge::realm_url(realm, &self.endpoint.base)
            .map_err(|problem| self.protocol(problem))?;
        let own = format!("repository:{}:{}", self.reference.repository(), self.scope);
        let scope = scope.unwrap_or(&own);
        let tokens = self.endpoint.transport.tokens(&url);
        let request = match self.find_credentials().await? {
            Some(Credentials::IdentityToken(token)) => {
                let mut form = vec![
                    ("grant_type", "refresh_token"),
                    ("client_id", "mezzo"),
                    ("refresh_token", &token),
                    ("scope", scope),
                ];
                form.extend(service.map(|service| ("service", service)));
                tokens
                    .post(url)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form_encoded(&form))
            }
            found => {
                url.query_pairs_mut()
                    .extend_pairs(service.map(|service| ("service", service)))
                    .append_pair("scope", scope);
                let request = tokens.get(url);
                match found {
                    Some(Credentials::Password { user, password }) => {
                        request.basic_auth(user, Some(password))
                    }
                    Some(Credentials::IdentityToken(_)) | None => request,
                }
            }
        };
        self.hold().await?;
        let response = self.perform(request, "hand out a token").await?;
        let what = self.reference.to_string();
        if response.status() != StatusCode::OK {
            let status = response.status();
            return Err(self.refusal(status, response, &what).await);
        }
        let body = self.body(response, MAX_TOKEN, "the token").await?;
        // The parser's words may quote what it read.
        let token: Token = serde_json::from_slice(&body)
            .map_err(|_| self.protocol("its token answer is not the JSON of one"))?;
        token
            .token
            .or(token.access_token)
            .ok_or_else(|| self.protocol("its token answer has no token"))
    }

    pub(super) async fn find_credentials(&self) -> Result<Option<Credentials>, RegistryError> {
        let Self { endpoint, .. } = self;
        self.credentials
            .find(
                &endpoint.host,
                self.reference.repository(),
                endpoint.is_mirror,
            )
            .await
    }

    pub(super) async fn body(
        &self,
        mut response: Response,
        limit: u64,
        what: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|e| self.transport(&e, "send data"))?
        {
            if (bytes.len() + piece.len()) as u64 > limit {
                return Err(self.wrong_size(what, limit, "more".into()));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    async fn refusal(&self, status: StatusCode, response: Response, what: &str) -> RegistryError {
        let registry = self.endpoint.label.clone();
        let what = what.to_string();
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { what, registry },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Unauthorized {
                what,
                status: status.as_u16(),
                hint: self.credentials.hint(),
                registry,
            },
            _ => {
                let header = response.headers().get(RETRY_AFTER);
                let retry_after = header
                    .and_then(|v| v.to_str().ok())
                    .and_then(|text| pause::retry_after(text, SystemTime::now()));
                // A token server or a store elsewhere speaks for itself only.
                if let Some(wish) = retry_after
                    && response.url().origin() == self.endpoint.base.origin()
                {
                    let pauses = self.client.pauses();
                    pauses.note(&self.endpoint.host, wish, Instant::now());
                }
                let body = self
                    .body(response, MAX_ERROR_BODY, "the error")
                    .await
                    .unwrap_or_default();
                let message: String = String::from_utf8_lossy(&body)
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(300)
                    .collect();
                match retry_after {
                    Some(wait)
                        if status == StatusCode::TOO_MANY_REQUESTS
                            && wait > retry::LONGEST_WISH =>
                    {
                        RegistryError::RateLimited { registry, wait }
                    }
                    Some(_) | None => RegistryError::Status {
                        registry,
                        what,
                        status: status.as_u16(),
                        message,
                        retry_after,
                    },
                }
            }
        }
    }

    pub(super) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.endpoint
            .base
            .join(path)
            .map_err(|e| self.protocol(e.to_string()))
    }

    pub(super) fn transport(&self, error: &reqwest::Error, what: &str) -> RegistryError {
        if error.is_timeout() && !error.is_connect() {
            return self.timeout(what.into(), self.client.stall());
        }
        if error.is_redirect() {
            return self.protocol(chain(error));
        }
        RegistryError::Unreachable {
            registry: self.endpoint.label.clone(),
            problem: chain(error),
        }
    }

    fn timeout(&self, what: String, after: Duration) -> RegistryError {
        RegistryError::Timeout {
            registry: self.endpoint.label.clone(),
            what,
            after,
        }
    }

    pub(super) fn protocol(&self, problem: impl Into<String>) -> RegistryError {
        RegistryError::Protocol {
            registry: self.endpoint.label.clone(),
            problem: problem.into(),
        }
    }

    pub(super) fn wrong_size(&self, what: &str, declared: u64, got: String) -> RegistryError {
        RegistryError::WrongSize {
            what: format!("{what} of {}", self.reference.repository()),
            declared,
            got,
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let plain = format!("{user}:{password}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(plain)
    )
}

/// Fields as a form sends them.
fn form_encoded(fields: &[(&str, &str)]) -> String {
    let mut carrier = Url::parse("http://form.invalid/").expect("it is a URL");
    carrier.query_pairs_mut().extend_pairs(fields);
    carrier.query().unwrap_or_default().to_owned()
}

/// reqwest's own message hides the reason in its sources.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let words = error.to_string();
        if !text.contains(&words) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&words);
        }
        next = error.source();
    }
    text
}
