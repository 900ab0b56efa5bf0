//! A small client for REST on loopback: every answer comes back as it is, whatever its status.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One server.
#[derive(Debug, Clone)]
pub struct Rest {
    base: String,
    agent: ureq::Agent,
}

/// What it answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body as text.
    pub text: String,
    /// The body as JSON; null if it is none.
    pub json: Value,
}

impl Rest {
    /// A client of `address` (host:port).
    pub fn new(address: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(20)))
            .proxy(None)
            // A server that was killed and is back must not be spoken to on a connection of its former life.
            .max_idle_connections(0)
            .build();
        Self {
            base: format!("http://{address}"),
            agent: config.into(),
        }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.get_as(path, "application/json")
    }

    /// GET with an Accept header.
    pub fn get_as(&self, path: &str, accept: &str) -> Result<Answer> {
        let request = self
            .agent
            .get(format!("{}{path}", self.base))
            .header("accept", accept);
        answer(request.call()).with_context(|| format!("GET {}{path}", self.base))
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Result<Answer> {
        let request = self.agent.delete(format!("{}{path}", self.base));
        answer(request.call()).with_context(|| format!("DELETE {}{path}", self.base))
    }

    /// POST of a body that need not be valid JSON.
    pub fn post(&self, path: &str, body: impl AsRef<str>) -> Result<Answer> {
        let request = self
            .agent
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/json");
        answer(request.send(body.as_ref())).with_context(|| format!("POST {}{path}", self.base))
    }

    /// PUT of a body that need not be valid JSON.
    pub fn put(&self, path: &str, body: impl AsRef<str>) -> Result<Answer> {
        self.put_as(path, "application/json", body)
    }

    /// PUT with a content type.
    pub fn put_as(&self, path: &str, content_type: &str, body: impl AsRef<str>) -> Result<Answer> {
        let request = self
            .agent
            .put(format!("{}{path}", self.base))
            .header("content-type", content_type);
        answer(request.send(body.as_ref())).with_context(|| format!("PUT {}{path}", self.base))
    }
}

impl Answer {
    /// The answer if it is a success, else an error with status and body.
    pub fn ok(self) -> Result<Self> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        bail!("status {}: {}", self.status, self.text.trim());
    }
}

/// A request as bytes, for those who have a way of their own to a server. HTTP/1.0: the answer ends with the connection.
pub fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
        Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// The answer to a [`request`].
pub fn parse(bytes: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("an answer that is no HTTP")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|number| number.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    Ok(Answer {
        status: status.context("an answer without a status")?,
        headers: headers.collect(),
        text: body.to_owned(),
        json: serde_json::from_str(body).unwrap_or(Value::Null),
    })
}

fn answer(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer> {
    let mut response = result?;
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| {
        (
            name.to_string(),
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        )
    });
    let headers = headers.collect();
    let text = response
        .body_mut()
        .with_config()
        .limit(64 << 20)
        .read_to_string()
        .context("read the body")?;
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok(Answer {
        status,
        headers,
        text,
        json,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_from_bytes() {
        let bytes = b"HTTP/1.0 409 Conflict\r\nX-Mezzo: a: b\r\n\r\n{\"message\":\"locked\"}";
        let answer = parse(bytes).expect("an answer");
        assert_eq!(answer.status, 409);
        assert_eq!(answer.headers["x-mezzo"], "a: b");
        assert_eq!(answer.json["message"], "locked");
        assert!(parse(b"SSH-2.0").is_err());
        assert!(parse(b"HTTP/1.0\r\n\r\n").is_err());
    }

    #[test]
    fn a_request_tells_the_length_of_its_body() {
        let bytes = request("PUT", "/v2/apps/x", "{}");
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.starts_with("PUT /v2/apps/x HTTP/1.0\r\n"));
        assert!(text.ends_with("Content-Length: 2\r\n\r\n{}"));
    }
}
