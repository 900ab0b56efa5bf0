//! Who we are, and to whom that is told: tokens, passwords, helpers, secrets of a pull, redirects.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use crate::common::faulty::{fail, full, layer_path, simple};
use crate::common::{Answer, Fake, answers, config, not_found, skip_unless_root};
use base64::Engine as _;
use mezzo_images::{ImageStore, PullError, PullPolicy, RegistryError, StoreConfig};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_passwords_open_a_registry_that_asks_for_them() {
    if skip_unless_root() {
        return;
    }
    let image = simple();
    let encoded = base64::engine::general_purpose::STANDARD.encode("me:secret");
    for bearer in [true, false] {
        let answers = answers(&[&image]);
        let (basic, host) = (
            format!("Basic {encoded}"),
            Arc::new(OnceLock::<String>::new()),
        );
        let own_host = Arc::clone(&host);
        let fake = Fake::start(move |request| {
            let given = request.headers.get("authorization").map(String::as_str);
            let host = own_host.get().map_or("", String::as_str);
            if bearer && request.path.starts_with("/token") {
                let good = given == Some(&basic)
                    && request.path.contains("service=reg")
                    && request.path.contains("scope=repository%3Ax%3Apull");
                return if good {
                    full(b"{\"token\": \"t0k\"}".to_vec())
                } else {
                    Answer::Headers(403, String::new())
                };
            }
            let wanted = if bearer { "Bearer t0k" } else { &basic };
            if given == Some(wanted) {
                return answers
                    .get(&request.path)
                    .cloned()
                    .unwrap_or_else(not_found);
            }
            let challenge = if bearer {
                format!("Bearer realm=\"http://{host}/token\",service=\"reg\"")
            } else {
                "Basic realm=\"reg\"".into()
            };
            Answer::Headers(401, format!("WWW-Authenticate: {challenge}\r\n"))
        });
        host.set(fake.host.clone()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(
            &file,
            json!({"auths": {&fake.host: {"auth": encoded}}}).to_string(),
        )
        .unwrap();
        let config = StoreConfig {
            auth_files: vec![file],
            ..config(&folder.path().join("store"))
        };
        let store = ImageStore::open(config).await.unwrap();
        store
            .pull(&fake.reference("x"), PullPolicy::Always, None)
            .await
            .unwrap();
        assert!(fake.count("/token") <= 1, "the token is not kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_elsewhere_gets_no_credentials_in_the_clear() {
    let thief = Fake::start(|_| full(b"{\"token\": \"x\"}".to_vec()));
    // Another host than the registry's, though it is this very machine.
    let realm = format!(
        "http://localhost:{}/token",
        thief.host.rsplit(':').next().unwrap()
    );
    let fake = Fake::start(move |_| {
        Answer::Headers(
            401,
            format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n"),
        )
    });
    let error = fail(&fake).await;
    assert!(
        matches!(error, PullError::Registry(RegistryError::Protocol { .. })),
        "{error}"
    );
    assert_eq!(thief.requests.lock().unwrap().len(), 0);
}

/// A file with this text, as the only one with credentials.
async fn store_with(folder: &Path, credentials: &Value) -> ImageStore {
    let file = folder.join("config.json");
    std::fs::write(&file, credentials.to_string()).unwrap();
    let config = StoreConfig {
        auth_files: vec![file],
        ..config(&folder.join("store"))
    };
    ImageStore::open(config).await.unwrap()
}

/// A registry that gives an image to who has `wanted` as authorization, and what it was shown.
fn guarded(wanted: &str, challenge: &str) -> (Fake, Arc<Mutex<Vec<String>>>) {
    let all = answers(&[&simple()]);
    let shown = Arc::new(Mutex::new(Vec::new()));
    let (seen, wanted, challenge) = (Arc::clone(&shown), wanted.to_owned(), challenge.to_owned());
    let fake = Fake::start(move |request| {
        let given = request.headers.get("authorization").cloned();
        seen.lock().unwrap().extend(given.clone());
        if given.as_ref() == Some(&wanted) {
            return all.get(&request.path).cloned().unwrap_or_else(not_found);
        }
        Answer::Headers(401, format!("WWW-Authenticate: {challenge}\r\n"))
    });
    (fake, shown)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_carries_no_credentials_to_another_host() {
    if skip_unless_root() {
        return;
    }
    // CVE-2020-15157: the place a layer really comes from asks for credentials and names a realm of its own.
    let image = simple();
    let tokens = Fake::start(|_| full(b"{\"token\": \"x\"}".to_vec()));
    let realm = format!("http://{}/token", tokens.host);
    let thefts = Arc::new(Mutex::new(Vec::new()));
    let (seen, layer) = (Arc::clone(&thefts), image.blobs[0].clone());
    let thief = Fake::start(move |request| {
        let given = request.headers.get("authorization").cloned();
        seen.lock().unwrap().extend(given);
        if request.path == "/honest" {
            return full(layer.clone());
        }
        Answer::Headers(
            401,
            format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n"),
        )
    });
    for (place, fails) in [("honest", false), ("thief", true)] {
        let (all, layer) = (answers(&[&image]), layer_path(&image));
        let target = format!("http://{}/{place}", thief.host);
        let fake = Fake::start(move |request| {
            if request.headers.get("authorization").map(String::as_str)
                != Some("Basic bWU6c2VjcmV0")
            {
                return Answer::Headers(401, "WWW-Authenticate: Basic realm=\"x\"\r\n".into());
            }
            if request.path.contains(&layer) {
                return Answer::Headers(307, format!("Location: {target}\r\n"));
            }
            all.get(&request.path).cloned().unwrap_or_else(not_found)
        });
        let folder = tempfile::tempdir().unwrap();
        let credentials = json!({"auths": {&fake.host: {"auth": "bWU6c2VjcmV0"}}});
        let store = store_with(folder.path(), &credentials).await;
        let pulled = store
            .pull(&fake.reference("x"), PullPolicy::Always, None)
            .await;
        assert_eq!(pulled.is_err(), fails, "{pulled:?}");
    }
    assert_eq!(thief.requests.lock().unwrap().len(), 2);
    assert_eq!(*thefts.lock().unwrap(), Vec::<String>::new());
    assert_eq!(tokens.requests.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_cannot_send_the_request_on_to_somebody_else() {
    let thief = Fake::start(|_| full(b"{\"token\": \"x\"}".to_vec()));
    let target = format!("http://{}/token", thief.host);
    for entry in [
        json!({"username": "me", "password": "secret"}),
        json!({"identitytoken": "secret"}),
    ] {
        let target = target.clone();
        let host = Arc::new(OnceLock::<String>::new());
        let own = Arc::clone(&host);
        let fake = Fake::start(move |request| {
            if request.path.starts_with("/token") {
                return Answer::Headers(307, format!("Location: {target}\r\n"));
            }
            let realm = format!("http://{}/token", own.get().unwrap());
            Answer::Headers(
                401,
                format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n"),
            )
        });
        host.set(fake.host.clone()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = store_with(folder.path(), &json!({"auths": {&fake.host: entry}})).await;
        let error = store
            .pull(&fake.reference("x"), PullPolicy::Always, None)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("redirects"), "{error}");
    }
    assert_eq!(thief.requests.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_exchanged_at_the_token_server() {
    if skip_unless_root() {
        return;
    }
    let host = Arc::new(OnceLock::<String>::new());
    let own = Arc::clone(&host);
    let all = answers(&[&simple()]);
    let fake = Fake::start(move |request| {
        if request.path == "/token" {
            let mut fields: Vec<&str> = request.body.split('&').collect();
            fields.sort_unstable();
            let good = request.method == "POST"
                && !request.headers.contains_key("authorization")
                && fields
                    == [
                        "client_id=mezzo",
                        "grant_type=refresh_token",
                        "refresh_token=a%26b%3D",
                        "scope=repository%3Ax%3Apull",
                        "service=reg",
                    ];
            return if good {
                full(b"{\"access_token\": \"t0k\"}".to_vec())
            } else {
                Answer::Headers(403, String::new())
            };
        }
        if request.headers.get("authorization").map(String::as_str) == Some("Bearer t0k") {
            return all.get(&request.path).cloned().unwrap_or_else(not_found);
        }
        let realm = format!("http://{}/token", own.get().unwrap());
        let challenge = format!("Bearer realm=\"{realm}\",service=\"reg\"");
        Answer::Headers(401, format!("WWW-Authenticate: {challenge}\r\n"))
    });
    host.set(fake.host.clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let credentials = json!({"auths": {&fake.host: {"identitytoken": "a&b="}}});
    let store = store_with(folder.path(), &credentials).await;
    store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn podmans_key_for_a_repository_counts_for_that_one_only() {
    if skip_unless_root() {
        return;
    }
    let (fake, shown) = guarded("Basic bWU6c2VjcmV0", "Basic realm=\"x\"");
    let folder = tempfile::tempdir().unwrap();
    let key = format!("{}/x", fake.host);
    let store = store_with(
        folder.path(),
        &json!({"auths": {key: {"auth": "bWU6c2VjcmV0"}}}),
    )
    .await;
    let denied = store
        .pull(&fake.reference("xy"), PullPolicy::Always, None)
        .await;
    assert!(
        matches!(
            denied,
            Err(PullError::Registry(RegistryError::Unauthorized { .. }))
        ),
        "{denied:?}"
    );
    assert_eq!(*shown.lock().unwrap(), Vec::<String>::new());
    store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_cannot_be_read_are_one_clear_error() {
    let (fake, shown) = guarded("Basic bWU6c2VjcmV0", "Basic realm=\"x\"");
    let folder = tempfile::tempdir().unwrap();
    for (credentials, expected) in [
        (json!({"auths": {&fake.host: {"auth": "%"}}}), "base64"),
        (json!({"auths": []}), "not the JSON of Docker's config.json"),
        (
            json!({"credHelpers": {&fake.host: "../../bin/sh"}}),
            "no name of a credential helper",
        ),
        (
            json!({"credsStore": "not-installed-anywhere"}),
            "docker-credential-not-installed-anywhere is not in PATH",
        ),
    ] {
        let store = store_with(folder.path(), &credentials).await;
        let error = store
            .pull(&fake.reference("x"), PullPolicy::Always, None)
            .await
            .unwrap_err();
        let told = error.to_string();
        assert!(
            told.contains(expected) && told.contains("config.json"),
            "{told}"
        );
        assert!(!error.is_transient());
    }
    assert_eq!(*shown.lock().unwrap(), Vec::<String>::new());
}
