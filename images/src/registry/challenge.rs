//! What a registry wants to see, and where credentials may be sent (pure).
//!
//! A registry names the realm that hands out tokens. Credentials go there only over TLS, or without when the realm is
//! on the very host of a registry that is itself spoken to without (CVE-2020-15157 and its kin): a hostile answer must
//! not carry them off in the clear.

use http_auth::ChallengeParser;
use reqwest::Url;

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The challenge in a `WWW-Authenticate` header, bearer preferred.
pub(crate) fn parse_challenge(header: &str) -> Option<Challenge> {
    let mut basic = None;
    for challenge in ChallengeParser::new(header) {
        let Ok(challenge) = challenge else { break };
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
        if challenge.scheme.eq_ignore_ascii_case("bearer") {
            let value = |name: &str| {
                let found = challenge
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            return Some(Challenge::Bearer {
                realm: value("realm")?,
                service: value("service"),
                scope: value("scope"),
            });
        }
    }
    basic
}

/// Whether a token may be asked for at `realm` on behalf of a registry, and whether with credentials.
///
/// Without TLS only on the host of the registry itself, and only if that is spoken to without TLS as well.
pub(crate) fn realm_url(realm: &str, registry: &Url) -> Result<Url, String> {
    let url =
        Url::parse(realm).map_err(|e| format!("its token realm {realm:?} is not a URL ({e})"))?;
    let same_host = url.host_str() == registry.host_str();
    match url.scheme() {
        "https" => Ok(url),
        "http" if registry.scheme() == "http" && same_host => Ok(url),
        _ => Err(format!(
            "its token realm {realm:?} is neither https nor on the registry's own host: credentials stay here"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer =
            r#"Bearer realm="https://auth.example/token",service="reg",scope="repository:a:pull""#;
        assert_eq!(
            parse_challenge(bearer),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".into(),
                service: Some("reg".into()),
                scope: Some("repository:a:pull".into()),
            })
        );
        assert_eq!(
            parse_challenge(r#"Basic realm="x""#),
            Some(Challenge::Basic)
        );
        assert_eq!(parse_challenge("Negotiate"), None);
        assert_eq!(parse_challenge("Bearer service=\"x\""), None);
    }

    #[test]
    fn credentials_never_leave_in_the_clear_for_another_host() {
        let plain = Url::parse("http://127.0.0.1:5000").unwrap();
        let tls = Url::parse("https://r.example").unwrap();
        assert!(realm_url("https://auth.example/token", &tls).is_ok());
        assert!(realm_url("http://127.0.0.1:5001/token", &plain).is_ok());
        assert!(realm_url("http://auth.example/token", &tls).is_err());
        assert!(realm_url("http://r.example/token", &tls).is_err());
        assert!(realm_url("http://other.example/token", &plain).is_err());
        assert!(realm_url("file:///etc/passwd", &plain).is_err());
        assert!(realm_url("nonsense", &plain).is_err());
    }
}
