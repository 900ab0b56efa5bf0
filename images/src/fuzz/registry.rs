//! Targets that read what a registry says of itself and of others: challenges, credentials, signatures and their policy.

use rand::rngs::StdRng;
use reqwest::Url;
use serde_json::json;

use super::driver::{Target, behaviour, message};
use super::mutate;
use super::text::{HEX, own};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::registry::challenge::{self, Challenge};
use crate::registry::docker_config::{Credentials, DockerConfig, Place};
use crate::signature::claim;
use crate::signature::key::PublicKey;
use crate::signature::policy::{Policy, Requirement};

/// `WWW-Authenticate`: wherever a registry sends us for a token, no password goes there in the clear but to itself.
pub(super) struct ChallengeTarget;

impl Target for ChallengeTarget {
    const MAX_INPUT: usize = 4096;

    fn new() -> Self {
        Self
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        own(&[
            r#"Bearer realm="https://auth.example/token",service="reg",scope="repository:a:pull""#,
            r#"Bearer realm="http://127.0.0.1:5000/token""#,
            r#"Basic realm="x", Bearer realm="https://a.example/t""#,
            r#"Digest qop="auth", nonce="\"x\\""#,
        ])
    }

    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
        let words = [
            "Bearer ",
            "Basic ",
            "realm=",
            "\"",
            "\\",
            ",",
            "=",
            "http://",
            "https://",
            "127.0.0.1",
            "@",
            "file:///",
            "r.example",
            "http:\\\\",
            "javascript:",
            " ",
            "\t",
            "é",
            "localhost",
            "0x7f.1",
            "[::1]",
        ];
        mutate::text(input, other, &words, rng);
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let text = String::from_utf8_lossy(input);
        let realm = match challenge::parse_challenge(&text) {
            None => return behaviour("none"),
            Some(Challenge::Basic) => return behaviour("basic"),
            Some(Challenge::Bearer { realm, .. }) => realm,
        };
        let mut told = String::new();
        for registry in ["http://127.0.0.1:5000/", "https://r.example/"] {
            let registry = Url::parse(registry).unwrap();
            match challenge::realm_url(&realm, &registry) {
                Ok(url) if url.scheme() == "https" => told += "https",
                Ok(url) => {
                    assert!(
                        url.scheme() == "http" && registry.scheme() == "http",
                        "{url} for {registry}"
                    );
                    assert_eq!(url.host(), registry.host());
                    told += "http";
                }
                Err(problem) => told += &message(&problem),
            }
        }
        behaviour(&told)
    }
}

/// Docker's file with credentials: a registry gets its own or none.
pub(super) struct CredentialsTarget;

impl Target for CredentialsTarget {
    const MAX_INPUT: usize = 16 << 10;

    fn new() -> Self {
        Self
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        own(&[
            r#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6c2VjOnJldA=="}, "r.example:5000": {"auth": "YTpi"}}}"#,
            r#"{"auths": {"r.example": {}}, "credsStore": "x", "credHelpers": {"r.example": "y"}}"#,
            r#"{"auths": {"r.example:5000/team": {"username": "me", "password": "p"}, "docker.io": {"identitytoken": "t"}}}"#,
        ])
    }

    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
        let words = [
            "auths",
            "auth",
            "r.example:5000",
            "https://r.example:5000/v2/",
            "YTpi",
            "Og==",
            "",
            "docker.io",
        ];
        mutate::json(input, other, &words, rng);
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let mut told = String::new();
        let config = match DockerConfig::parse(input) {
            Ok(config) => config,
            Err(error) => return behaviour(&message(&error)),
        };
        for registry in ["r.example:5000", "docker.io", "evil.example"] {
            match config.places(registry, "team/app") {
                Ok(places) => {
                    assert!(places.len() <= 3);
                    let text = String::from_utf8_lossy(input);
                    for place in places {
                        told += match place {
                            Place::Helper(_) => {
                                assert!(config.has_helpers());
                                "helper"
                            }
                            // A registry that the file does not name has nothing of its own in it.
                            Place::Here(found) => {
                                assert!(
                                    registry != "evil.example"
                                        || text.contains("evil")
                                        || text.contains('\\'),
                                    "{registry} got {found:?}"
                                );
                                match found {
                                    Credentials::Password { user, .. } => {
                                        assert!(!user.contains(':'));
                                        "password"
                                    }
                                    Credentials::IdentityToken(_) => "token",
                                }
                            }
                        };
                    }
                }
                Err(error) => told += &message(&error),
            }
        }
        behaviour(&told)
    }
}

/// What cosign leaves in a registry, and the policy that judges it: bounds hold, and no text makes a claim of another
/// image or repository pass.
pub(super) struct SignatureTarget;

const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAQnY03HaO75tDraJoRi3cOqY8ZB6J03cfDh/kConIR/g=\n\
    -----END PUBLIC KEY-----\n";

impl Target for SignatureTarget {
    const MAX_INPUT: usize = 16 << 10;

    fn new() -> Self {
        Self
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let layer = json!({"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": HEX, "size": 210,
            "annotations": {"dev.cosignproject.cosign/signature": "AQID"}});
        vec![
            json!({"schemaVersion": 2, "layers": [layer], "config": {}}).to_string().into_bytes(),
            json!({"critical": {"identity": {"docker-reference": "r.example/app"},
                "image": {"docker-manifest-digest": HEX}, "type": "cosign container image signature"}})
            .to_string()
            .into_bytes(),
            KEY.into(),
            b"default = \"accept\"\n[[policy]]\nrepositories = [\"r.example/app\", \"r.example/team/*\"]\nkeys = [\"/k\"]\n"
                .to_vec(),
        ]
    }

    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
        let words = [
            "critical",
            "identity",
            "image",
            "docker-reference",
            "r.example/app:1",
            "r.example/app@",
            "/*",
            "[[policy]]\n",
            "repositories",
            "keys",
            "default",
            "reject",
            "-----",
            "BEGIN",
            "layers",
            "annotations",
            HEX,
            "MFkw",
        ];
        mutate::json(input, other, &words, rng);
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let mut told = String::new();
        match claim::parse(input) {
            Ok(found) => {
                assert!(found.len() <= claim::MAX_SIGNATURES);
                assert!(
                    found
                        .iter()
                        .all(|signed| (1..=64 << 10).contains(&signed.payload.size))
                );
                told += "claims";
            }
            Err(problem) => told += &message(&problem),
        }
        let (image, digest): (Reference, Digest) =
            ("r.example/app:1".parse().unwrap(), HEX.parse().unwrap());
        match claim::speaks_of(input, &image, &[digest]) {
            Ok(signed) => {
                assert_eq!(signed, digest);
                let text = String::from_utf8_lossy(input);
                assert!(
                    text.contains("r.example") || text.contains('\\'),
                    "it speaks of another repository"
                );
                told += "speaks";
            }
            Err(problem) => told += &message(&problem),
        }
        match PublicKey::from_pem(input) {
            Ok(key) => assert!(!key.made(b"message", b"") && !key.made(b"message", &[0; 64])),
            Err(problem) => told += &message(&problem),
        }
        let text = String::from_utf8_lossy(input);
        match Policy::parse(&text, std::path::Path::new("/p"), &|_| Ok(KEY.into())) {
            Ok(policy) => {
                let asked = policy.requirement(&image);
                // Open to all only if the word is there.
                assert!(
                    asked != Requirement::Nothing || text.contains("accept") || text.contains('\\')
                );
                told += &format!("{}", matches!(asked, Requirement::SignedBy(_)));
            }
            // Of what is no TOML, it tells the text as well: no two are the same.
            Err(problem) if problem.to_string().starts_with("policy[") => {
                told += &message(&problem)
            }
            Err(problem) => {
                message(&problem);
                told += "no policy";
            }
        }
        behaviour(&told)
    }
}
