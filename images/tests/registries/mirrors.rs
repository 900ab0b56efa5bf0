//! Mirrors that work, lack things, are down or lie, and registries with a CA of their own.

use std::path::Path;
use std::time::Duration;

use crate::common::faulty::{body, full, layer_path, nothing_left, simple};
use crate::common::tls::{Ca, TlsFront};
use crate::common::{
    Answer, Archive, Fake, Packed, Registry, answers, config, image, not_found, skip_unless_root,
};
use mezzo_images::{
    Digest, ImageStore, OpenError, PackOptions, PullError, PullPolicy, PullProgress, Reference,
    RegistriesConfig, RegistryConfig, RegistryError, StoreConfig, pack, push,
};
use tokio::sync::watch;

fn mirrored(registry: &str, mirrors: &[&str]) -> RegistriesConfig {
    let mirrors = mirrors.iter().map(|mirror| (*mirror).to_owned()).collect();
    RegistriesConfig::default().with(
        registry,
        RegistryConfig {
            mirrors,
            ..RegistryConfig::default()
        },
    )
}

async fn store(root: &Path, registries: RegistriesConfig) -> ImageStore {
    let config = StoreConfig {
        registries,
        ..config(root)
    };
    ImageStore::open(config).await.unwrap()
}

/// Pulls by a store of its own and looks whether the file is what it should be; returns the progress at the end.
async fn pulled(registries: RegistriesConfig, reference: &Reference) -> PullProgress {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), registries).await;
    let (told, seen) = watch::channel(PullProgress::default());
    let image = store
        .pull(reference, PullPolicy::Always, Some(told))
        .await
        .unwrap();
    let lowers = store.snapshot(&image, "c").unwrap().lowers;
    assert_eq!(
        std::fs::read(lowers[0].join("file")).unwrap(),
        vec![b'x'; 200_000]
    );
    *seen.borrow()
}

/// Port 1 of loopback: nobody listens, and nobody is given it.
const DEAD: &str = "127.0.0.1:1";

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_before_the_registry_and_by_the_registrys_name() {
    if skip_unless_root() {
        return;
    }
    let mirror = Fake::serving(&[&simple()]);
    let registry = Fake::serving(&[&simple()]);
    let registries = mirrored(&registry.host, &[&mirror.host]);
    pulled(registries, &registry.reference("x")).await;
    assert_eq!(registry.requests.lock().unwrap().len(), 0);
    assert_eq!(mirror.count("/v2/x/"), 3);
    // Docker Hub's short names go to its mirror as library/x.
    let mut hub = simple();
    hub.name = "library/x".into();
    let mirror = Fake::serving(&[&hub]);
    let registries = mirrored("docker.io", &[&mirror.host]);
    pulled(registries, &"x".parse().unwrap()).await;
    assert_eq!(mirror.count("/v2/library/x/"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_down_is_passed_over_and_left_alone_for_a_while() {
    if skip_unless_root() {
        return;
    }
    let registry = Fake::serving(&[&simple()]);
    pulled(mirrored(&registry.host, &[DEAD]), &registry.reference("x")).await;
    // One that hangs is given up as well; the second pull does not ask it again.
    let hanging = Fake::start(|_| Answer::Hang);
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        registries: mirrored(&registry.host, &[&hanging.host, DEAD]),
        stall_timeout: Duration::from_secs(2),
        ..config(folder.path())
    };
    let store = ImageStore::open(config).await.unwrap();
    for _ in 0..2 {
        store
            .pull(&registry.reference("x"), PullPolicy::Always, None)
            .await
            .unwrap();
    }
    assert_eq!(hanging.count(""), 2, "one attempt and one more, then none");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mirror_lacks_comes_from_the_next_one_or_from_the_registry() {
    if skip_unless_root() {
        return;
    }
    let image = simple();
    let empty = Fake::start(|_| not_found());
    // Has the manifest and the config, but not the layer.
    let (all, layer) = (answers(&[&image]), layer_path(&image));
    let half = Fake::start(move |request| match all.get(&request.path) {
        Some(honest) if !request.path.contains(&layer) => honest.clone(),
        Some(_) | None => not_found(),
    });
    let registry = Fake::serving(&[&image]);
    let registries = mirrored(&registry.host, &[&empty.host, &half.host]);
    pulled(registries, &registry.reference("x")).await;
    assert_eq!(half.count("/manifests/"), 1);
    assert_eq!(registry.count("/manifests/"), 0);
    assert_eq!(registry.count(&layer_path(&image)), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_cannot_pass_off_other_bytes() {
    if skip_unless_root() {
        return;
    }
    let honest = simple();
    let flipped = |answer: &Answer| {
        let mut bytes = body(answer);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        full(bytes)
    };
    let longer = |answer: &Answer| full([body(answer), vec![0; 9]].concat());
    let shorter = |answer: &Answer| full(body(answer)[..9000].to_vec());
    type Lie = Box<dyn Fn(&Answer) -> Answer + Send + Sync>;
    let config_path = format!("/blobs/{}", Digest::of(&honest.blobs[1]));
    let layer = layer_path(&honest);
    let lies: [(String, Lie); 4] = [
        (layer.clone(), Box::new(flipped)),
        (layer.clone(), Box::new(longer)),
        (layer, Box::new(shorter)),
        (config_path, Box::new(flipped)),
    ];
    for (part, lie) in lies {
        let all = answers(&[&honest]);
        let asked = part.clone();
        let liar = Fake::start(move |request| match all.get(&request.path) {
            Some(honest) if request.path.contains(&part) => lie(honest),
            Some(honest) => honest.clone(),
            None => not_found(),
        });
        let registry = Fake::serving(&[&honest]);
        let registries = mirrored(&registry.host, &[&liar.host]);
        let end = pulled(registries, &registry.reference("x")).await;
        assert_eq!(liar.count(&asked), 1, "of {asked}");
        assert_eq!(registry.count(&asked), 1, "of {asked}");
        assert_eq!(end.bytes_done, end.bytes_total, "of {asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_a_layer_that_an_image_has_twice_is_found_out_for_both() {
    if skip_unless_root() {
        return;
    }
    let file = Archive::new().file("file", &vec![b'x'; 200_000]).done();
    let twin = || (file.clone(), Packed::Plain);
    let honest = image("x", &[twin(), twin()]);
    let (all, layer) = (answers(&[&honest]), layer_path(&honest));
    // Both are under way before either gets an answer.
    let both = std::sync::Barrier::new(2);
    let liar = Fake::start(move |request| match all.get(&request.path) {
        Some(honest) if request.path.contains(&layer) => {
            both.wait();
            full(vec![b'?'; body(honest).len()])
        }
        Some(honest) => honest.clone(),
        None => not_found(),
    });
    let registry = Fake::serving(&[&honest]);
    let registries = mirrored(&registry.host, &[&liar.host]);
    let end = pulled(registries, &registry.reference("x")).await;
    assert_eq!(end.bytes_done, end.bytes_total);
    assert_eq!(registry.count(&layer_path(&honest)), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_pins_what_a_mirror_may_answer() {
    if skip_unless_root() {
        return;
    }
    let honest = simple();
    let other = image(
        "x",
        &[(Archive::new().file("file", b"evil").done(), Packed::Plain)],
    );
    // Whatever is asked for, it sends the other image's manifest.
    let evil = other.manifests[0].clone();
    let liar = Fake::start(move |request| {
        if request.path.contains("/manifests/") {
            Answer::Full(200, evil.0.clone(), evil.1.clone())
        } else {
            not_found()
        }
    });
    let registry = Fake::serving(&[&honest]);
    let digest = Digest::of(&honest.manifests[0].1);
    let pinned = format!("{}/x@{digest}", registry.host).parse().unwrap();
    pulled(mirrored(&registry.host, &[&liar.host]), &pinned).await;
    assert_eq!(liar.count(""), 1, "it is asked for nothing more");
    // Something that is no manifest at all is no reason to fail either, not even for a tag.
    let page =
        Fake::start(|_| Answer::Full(200, "text/html".into(), b"<html>log in</html>".to_vec()));
    let registries = mirrored(&registry.host, &[&page.host]);
    pulled(registries, &registry.reference("x")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_mirror_breaks_off_the_registry_goes_on() {
    if skip_unless_root() {
        return;
    }
    let image = simple();
    let (all, layer) = (answers(&[&image]), layer_path(&image));
    let breaking = Fake::start(move |request| match all.get(&request.path) {
        Some(honest) if request.path.contains(&layer) && request.before == 0 => {
            let bytes = body(honest);
            Answer::Truncated(bytes[..50_000].to_vec(), bytes.len())
        }
        Some(_) if request.path.contains(&layer) => Answer::Headers(503, String::new()),
        Some(honest) => honest.clone(),
        None => not_found(),
    });
    let registry = Fake::serving(&[&image]);
    let registries = mirrored(&registry.host, &[&breaking.host]);
    let end = pulled(registries, &registry.reference("x")).await;
    assert_eq!(registry.count(&layer_path(&image)), 1);
    assert_eq!(end.bytes_done, end.bytes_total);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gets_its_own_credentials_never_the_registrys() {
    if skip_unless_root() {
        return;
    }
    let image = simple();
    let registry = Fake::serving(&[&image]);
    let folder = tempfile::tempdir().unwrap();
    for mirrors_own in [true, false] {
        let all = answers(&[&image]);
        let given = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = std::sync::Arc::clone(&given);
        let mirror = Fake::start(move |request| {
            let authorization = request.headers.get("authorization").cloned();
            seen.lock().unwrap().extend(authorization.clone());
            if authorization.as_deref() == Some("Basic bWlycm9yOm93bg==") {
                return all.get(&request.path).cloned().unwrap_or_else(not_found);
            }
            Answer::Headers(401, "WWW-Authenticate: Basic realm=\"x\"\r\n".into())
        });
        let mut auths = serde_json::json!({&registry.host: {"auth": "cmVnaXN0cnk6c2VjcmV0"}});
        if mirrors_own {
            auths[&mirror.host] = serde_json::json!({"username": "mirror", "password": "own"});
        }
        let file = folder.path().join(format!("config-{mirrors_own}.json"));
        std::fs::write(&file, serde_json::json!({"auths": auths}).to_string()).unwrap();
        let config = StoreConfig {
            registries: mirrored(&registry.host, &[&mirror.host]),
            auth_files: vec![file],
            ..config(&folder.path().join(format!("store-{mirrors_own}")))
        };
        let store = ImageStore::open(config).await.unwrap();
        store
            .pull(&registry.reference("x"), PullPolicy::Always, None)
            .await
            .unwrap();
        let given = given.lock().unwrap();
        assert!(
            given.iter().all(|value| value == "Basic bWlycm9yOm93bg=="),
            "{given:?}"
        );
        assert_eq!(given.is_empty(), !mirrors_own);
        let asked_registry = !registry.requests.lock().unwrap().is_empty();
        assert_eq!(asked_registry, !mirrors_own);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_ca_of_its_own_is_trusted_by_its_file_alone() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::make(&folder.path().join("ca"));
    let fake = Fake::serving(&[&simple()]);
    let front = TlsFront::start(&ca, &fake.host);
    let with = |ca_file: &Path| {
        RegistriesConfig::default().with(
            &front.host,
            RegistryConfig {
                ca_file: Some(ca_file.to_path_buf()),
                ..RegistryConfig::default()
            },
        )
    };
    let reference: Reference = format!("{}/x", front.host).parse().unwrap();
    pulled(with(&ca.ca_file), &reference).await;

    // Another CA does not do.
    let other = Ca::make(&folder.path().join("other"));
    let root = folder.path().join("store");
    let store = store(&root, with(&other.ca_file)).await;
    let before = fake.requests.lock().unwrap().len();
    let error = store
        .pull(&reference, PullPolicy::Always, None)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            PullError::Registry(RegistryError::Unreachable { .. })
        ),
        "{error}"
    );
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(fake.requests.lock().unwrap().len(), before);
    nothing_left(&root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_file_that_is_no_use_is_named_when_the_store_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.pem");
    std::fs::write(&text, "no certificate").unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for file in [
        text,
        empty,
        folder.path().join("missing.pem"),
        folder.path().to_path_buf(),
    ] {
        let registries = RegistriesConfig::default().with(
            "r.example",
            RegistryConfig {
                ca_file: Some(file.clone()),
                ..RegistryConfig::default()
            },
        );
        let config = StoreConfig {
            registries,
            ..config(&folder.path().join("store"))
        };
        let error = ImageStore::open(config).await.unwrap_err();
        let OpenError::Client(error) = error else {
            panic!("{error}")
        };
        let told = error.to_string();
        assert!(
            told.contains(r#"registries."r.example".ca_file"#)
                && told.contains(file.to_str().unwrap()),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_to_a_real_registry_over_tls_and_comes_back_through_it_as_a_mirror() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::make(&folder.path().join("ca"));
    let tls = format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        ca.certificate.display(),
        ca.key.display()
    );
    let Some(registry) = Registry::start_with(&tls) else {
        return;
    };
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), vec![b'x'; 200_000]).unwrap();
    let packed = pack(&PackOptions {
        source,
        ..PackOptions::default()
    })
    .unwrap();
    let own = RegistryConfig {
        ca_file: Some(ca.ca_file),
        ..RegistryConfig::default()
    };
    let registries = RegistriesConfig::default().with(&registry.host, own);
    push(
        &packed,
        &registry.reference("team/app:1"),
        &registries,
        None,
    )
    .await
    .unwrap();
    pulled(registries.clone(), &registry.reference("team/app:1")).await;
    let mirror = RegistryConfig {
        mirrors: vec![registry.host.clone()],
        ..RegistryConfig::default()
    };
    let elsewhere = "r.example/team/app:1".parse().unwrap();
    pulled(registries.with("r.example", mirror), &elsewhere).await;
}
