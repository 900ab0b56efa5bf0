//! Calls to the scheduler's REST API, `/v2/…` as Marathon has it.
//!
//! Answers stay JSON: `-o json` prints them as they are, tables read the few fields they need (`view/app.rs`).

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::Value;

use super::{CALL_DEADLINE, CONNECT_DEADLINE, root_cause};
use crate::failure::{Failure, chain};

/// More than any list of apps; a server that sends more is not ours.
const LARGEST_ANSWER: usize = 256 << 20;

/// The scheduler behind a URL.
#[derive(Debug, Clone)]
pub(crate) struct Scheduler {
    url: String,
    client: reqwest::Client,
}

impl Scheduler {
    pub(crate) fn new(url: &str) -> Result<Self, Failure> {
        // reqwest is built without a crypto provider of its own; a second installation is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(CALL_DEADLINE);
        if url.starts_with("http://") {
            // Do not read the machine's certificates (there may be none) when none will be needed.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|error| {
            Failure::failed(format!("cannot make an HTTP client: {}", chain(&error)))
        })?;
        Ok(Self {
            url: url.to_owned(),
            client,
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, &[], None).await
    }

    /// `force` becomes `?force=true`.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        force: bool,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let query: &[(&str, &str)] = if force { &[("force", "true")] } else { &[] };
        self.call(method, path, query, body).await
    }

    /// Whether it answers at all, within `deadline`.
    pub(crate) async fn ping(&self, deadline: Duration) -> bool {
        let request = self
            .client
            .get(format!("{}/ping", self.url))
            .timeout(deadline);
        request
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut url = format!("{}{path}", self.url);
        for (n, (name, value)) in query.iter().enumerate() {
            url.push_str(if n == 0 { "?" } else { "&" });
            url.push_str(&format!("{name}={value}"));
        }
        let mut request = self
            .client
            .request(method, url)
            .header("accept", "application/json");
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let bytes = self.body(answer).await?;
        if status.is_success() {
            if bytes.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(&bytes).map_err(|error| {
                Failure::failed(format!(
                    "{} does not answer like a mezzo scheduler: not JSON: {error}",
                    self.url
                ))
            });
        }
        let problem = problem(status.as_u16(), &bytes);
        Err(match status.as_u16() {
            400 | 422 => Failure::Usage(problem),
            404 => Failure::NotFound(problem),
            502..=504 => Failure::Unreachable(format!(
                "the scheduler at {} is not ready: {problem}",
                self.url
            )),
            _ => Failure::Failed(problem),
        })
    }

    async fn body(&self, mut answer: Response) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|error| self.unreachable(&error))?
        {
            if bytes.len() + chunk.len() > LARGEST_ANSWER {
                return Err(Failure::failed(format!(
                    "{} sends more than {LARGEST_ANSWER} bytes",
                    self.url
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let why = if error.is_timeout() {
            "no answer in time".to_owned()
        } else {
            root_cause(error)
        };
        Failure::Unreachable(format!(
            "cannot reach the scheduler at {}: {why}; start one with `mezzo dev` or `mezzo scheduler`, or name it with --scheduler or MEZZO_SCHEDULER",
            self.url
        ))
    }
}

/// Marathon's error body in lines: the message, then each path with what is wrong there.
fn problem(status: u16, body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        let text = String::from_utf8_lossy(body);
        return format!(
            "HTTP {status} {}",
            crate::render::clean(text.lines().next().unwrap_or_default())
        );
    };
    let mut text = match body.get("message") {
        Some(Value::String(message)) => message.clone(),
        Some(other) => other.to_string(),
        None => format!("HTTP {status}"),
    };
    if let Some(deployments) = body.get("deployments").and_then(Value::as_array) {
        let ids: Vec<&str> = deployments
            .iter()
            .filter_map(|one| one.get("id").and_then(Value::as_str).or(one.as_str()))
            .collect();
        if !ids.is_empty() {
            text.push_str(&format!(
                " (deployment {}; --force cancels it)",
                ids.join(", ")
            ));
        }
    }
    for detail in body
        .get("details")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let path = detail.get("path").and_then(Value::as_str).unwrap_or("/");
        for error in detail
            .get("errors")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let error = error
                .as_str()
                .map_or_else(|| error.to_string(), str::to_owned);
            text.push_str(&format!(
                "\n  {}: {}",
                if path.is_empty() { "/" } else { path },
                error
            ));
        }
    }
    text.lines()
        .map(crate::render::clean)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_a_refusal_is_told() {
        let body = br#"{"message":"Object is not valid","details":[{"path":"/cpus","errors":["got -1, expected at least 0.001"]},{"path":"","errors":["a","b"]}]}"#;
        insta::assert_snapshot!(problem(422, body), @r"
        Object is not valid
          /cpus: got -1, expected at least 0.001
          /: a
          /: b
        ");
    }

    #[test]
    fn a_lock_names_the_deployment_that_holds_it() {
        let body = br#"{"message":"App is locked by one or more deployments.","deployments":[{"id":"5c3f"}]}"#;
        insta::assert_snapshot!(problem(409, body), @"App is locked by one or more deployments. (deployment 5c3f; --force cancels it)");
    }

    #[test]
    fn an_answer_that_is_not_json_is_cut_to_a_clean_line() {
        assert_eq!(problem(500, b"<html>\x1b[2J\nmore"), "HTTP 500 <html>?[2J");
    }
}
