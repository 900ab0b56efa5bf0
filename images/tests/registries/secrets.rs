//! Pull secrets: an image that came with one is given to nobody to whom the registry would not give it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::faulty::{layer_path, simple};
use crate::common::{Answer, Fake, answers, config, not_found, open, skip_unless_root};
use base64::Engine as _;
use mezzo_images::{
    Image, ImageStore, PullError, PullPolicy, PullSecret, Reference, RegistryError, StoreConfig,
};
use serde_json::json;

const ALICE: &str = "alice:secret";

fn encoded(pair: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(pair)
}

fn secret(host: &str, pair: &str) -> PullSecret {
    let text = json!({"auths": {host: {"auth": encoded(pair)}}}).to_string();
    PullSecret::parse("team/registry", text.as_bytes()).unwrap()
}

/// A registry that knows alice only, unless it is opened to all; tells methods and paths of what it granted.
struct Private {
    fake: Fake,
    open: Arc<AtomicBool>,
    /// Makes as if the manifest had been deleted.
    emptied: Arc<AtomicBool>,
    granted: Arc<Mutex<Vec<String>>>,
}

impl Private {
    fn start() -> Self {
        let all = answers(&[&simple()]);
        let open = Arc::new(AtomicBool::new(false));
        let emptied = Arc::new(AtomicBool::new(false));
        let granted = Arc::new(Mutex::new(Vec::new()));
        let (to_all, gone, log) = (
            Arc::clone(&open),
            Arc::clone(&emptied),
            Arc::clone(&granted),
        );
        let alice = format!("Basic {}", encoded(ALICE));
        let fake = Fake::start(move |request| {
            let knows = request.headers.get("authorization") == Some(&alice);
            if !knows && !to_all.load(Ordering::SeqCst) {
                return Answer::Headers(401, "WWW-Authenticate: Basic realm=\"x\"\r\n".into());
            }
            let line = format!("{} {}", request.method, request.path);
            log.lock().unwrap().push(line);
            if request.method == "HEAD" && gone.load(Ordering::SeqCst) {
                return not_found();
            }
            all.get(&request.path).cloned().unwrap_or_else(not_found)
        });
        Self {
            fake,
            open,
            emptied,
            granted,
        }
    }

    fn reference(&self) -> Reference {
        self.fake.reference("x")
    }

    /// What it granted since the last call.
    fn granted(&self) -> Vec<String> {
        std::mem::take(&mut *self.granted.lock().unwrap())
    }
}

async fn pull(
    store: &ImageStore,
    private: &Private,
    pair: Option<&str>,
) -> Result<Image, PullError> {
    let (reference, policy) = (private.reference(), PullPolicy::IfNotPresent);
    match pair {
        Some(pair) => {
            let secret = secret(&private.fake.host, pair);
            store
                .pull_with_secret(&reference, policy, &secret, None)
                .await
        }
        None => store.pull(&reference, policy, None).await,
    }
}

fn denied(pulled: Result<Image, PullError>) {
    assert!(
        matches!(
            pulled,
            Err(PullError::Registry(RegistryError::Unauthorized { .. }))
        ),
        "{pulled:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_with_a_secret_is_not_given_to_who_has_none_or_another() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let private = Private::start();
    let store = open(folder.path()).await;
    denied(pull(&store, &private, None).await);
    denied(pull(&store, &private, Some("alice:wrong")).await);
    let image = pull(&store, &private, Some(ALICE)).await.unwrap();
    assert_eq!(private.granted().len(), 3);

    // It is here now, and still not for everybody; also not after a restart.
    denied(pull(&store, &private, None).await);
    denied(pull(&store, &private, Some("bob:secret")).await);
    drop(store);
    let store = open(folder.path()).await;
    denied(pull(&store, &private, None).await);
    assert_eq!(private.granted(), Vec::<String>::new());

    // Who may have it is asked for cheaply, and nothing is fetched again.
    assert_eq!(pull(&store, &private, Some(ALICE)).await.unwrap(), image);
    let head = format!("HEAD /v2/x/manifests/{}", image.manifest_digest);
    assert_eq!(private.granted(), [head.as_str()]);

    // The registry agrees to everybody.
    private.open.store(true, Ordering::SeqCst);
    assert_eq!(pull(&store, &private, None).await.unwrap(), image);
    assert_eq!(private.granted(), [head]);

    // What it has no more is asked for by name again.
    private.emptied.store(true, Ordering::SeqCst);
    assert_eq!(pull(&store, &private, Some(ALICE)).await.unwrap(), image);
    assert!(
        private
            .granted()
            .contains(&"GET /v2/x/manifests/latest".to_owned())
    );

    // A registry that cannot be asked does not agree.
    let reference = private.reference();
    let alice = secret(&private.fake.host, ALICE);
    drop(private);
    for pulled in [
        store.pull(&reference, PullPolicy::IfNotPresent, None).await,
        store
            .pull_with_secret(&reference, PullPolicy::IfNotPresent, &alice, None)
            .await,
    ] {
        assert!(
            matches!(
                pulled,
                Err(PullError::Registry(RegistryError::Unreachable { .. }))
            ),
            "{pulled:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_without_a_secret_needs_no_registry_but_a_secret_is_always_tried() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let private = Private::start();
    private.open.store(true, Ordering::SeqCst);
    let store = open(folder.path()).await;
    let image = pull(&store, &private, None).await.unwrap();
    private.open.store(false, Ordering::SeqCst);
    private.granted();
    assert_eq!(pull(&store, &private, None).await.unwrap(), image);
    denied(pull(&store, &private, Some("bob:secret")).await);
    assert_eq!(private.granted(), Vec::<String>::new());
    assert_eq!(pull(&store, &private, Some(ALICE)).await.unwrap(), image);
    assert_eq!(private.granted().len(), 1);
    // That somebody had a secret takes it from nobody.
    assert_eq!(pull(&store, &private, None).await.unwrap(), image);
    assert_eq!(private.granted(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_tells_no_heads_is_asked_for_the_manifest() {
    if skip_unless_root() {
        return;
    }
    let all = answers(&[&simple()]);
    let fake = Fake::start(move |request| {
        if request.method == "HEAD" {
            return Answer::Headers(405, String::new());
        }
        all.get(&request.path).cloned().unwrap_or_else(not_found)
    });
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let secret = secret(&fake.host, ALICE);
    for _ in 0..2 {
        store
            .pull_with_secret(
                &fake.reference("x"),
                PullPolicy::IfNotPresent,
                &secret,
                None,
            )
            .await
            .unwrap();
    }
    assert_eq!(fake.count(&layer_path(&simple())), 1);
    assert_eq!(
        fake.count("/manifests/sha256:"),
        2,
        "one head, one manifest"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_at_the_same_time_are_one_only_with_the_same_secret() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let private = Private::start();
    let store = open(folder.path()).await;
    let (alice, also_alice, bob, nobody) = tokio::join!(
        pull(&store, &private, Some(ALICE)),
        pull(&store, &private, Some(ALICE)),
        pull(&store, &private, Some("bob:secret")),
        pull(&store, &private, None),
    );
    assert_eq!(alice.unwrap(), also_alice.unwrap());
    denied(bob);
    denied(nobody);
    let layer = layer_path(&simple());
    let granted = private.granted();
    let layers = granted.iter().filter(|line| line.contains(&layer)).count();
    assert_eq!(layers, 1, "{granted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_for_another_registry_is_a_clear_error_and_the_machines_own_do_not_help() {
    let folder = tempfile::tempdir().unwrap();
    let private = Private::start();
    let file = folder.path().join("config.json");
    let own = json!({"auths": {&private.fake.host: {"auth": encoded(ALICE)}}});
    std::fs::write(&file, own.to_string()).unwrap();
    let config = StoreConfig {
        auth_files: vec![file],
        ..config(&folder.path().join("store"))
    };
    let store = ImageStore::open(config).await.unwrap();
    let other = secret("r.example", ALICE);
    let error = store
        .pull_with_secret(&private.reference(), PullPolicy::Always, &other, None)
        .await
        .unwrap_err();
    let told = error.to_string();
    assert!(
        told.contains("team/registry") && told.contains(&private.fake.host),
        "{told}"
    );
    assert!(!error.is_transient());
    assert_eq!(private.fake.requests.lock().unwrap().len(), 0);
}
