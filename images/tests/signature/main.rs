//! Signatures by cosign's rules: whose images are let in, with which reason the others are not, and what is fetched of
//! them before that is known. The keys are made here; the format is that of cosign's signature specification.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]

#[path = "../common/mod.rs"]
mod common;
mod world;

use common::{
    Answer, Archive, OCI_INDEX, OCI_MANIFEST, Packed, Registry, config, descriptor, host_arch,
    image, skip_unless_root,
};
use mezzo_images::{
    Digest, ImageStore, PackOptions, PullError, PullPolicy, SignatureError, StoreConfig, pack, push,
};
use serde_json::json;
use world::{Key, World, attached, payload, tag, upload};

fn none_good(problem: &SignatureError, reason: &str) {
    let SignatureError::NoneGood { reasons, .. } = problem else {
        panic!("{problem}")
    };
    assert!(reasons.contains(reason), "{reasons}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_image_is_let_in_and_stays_so_without_its_registry() {
    if skip_unless_root() {
        return;
    }
    for key in [Key::p256(), Key::ed25519()] {
        let world = World::new();
        world.ask_for(&[&Key::p256(), &key]);
        world.sign(&key);
        let store = world.store().await;
        let image = world.pull(&store, PullPolicy::IfNotPresent).await.unwrap();
        world.pull(&store, PullPolicy::Always).await.unwrap();
        // The registry goes down; what was verified is remembered, also by the next store.
        world.answers.lock().unwrap().clear();
        let asked = world.fake.requests.lock().unwrap().len();
        assert_eq!(
            world.pull(&store, PullPolicy::IfNotPresent).await.unwrap(),
            image
        );
        drop(store);
        let store = world.store().await;
        assert_eq!(
            world.pull(&store, PullPolicy::IfNotPresent).await.unwrap(),
            image
        );
        assert_eq!(
            world.fake.requests.lock().unwrap().len(),
            asked,
            "the registry was asked"
        );
        // The key is no longer trusted: what it vouched for is not let in by it.
        world.ask_for(&[&Key::p256()]);
        let error = world
            .pull(&store, PullPolicy::IfNotPresent)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("not found"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_signed_is_refused() {
    let world = World::new();
    world.ask_for(&[&Key::p256()]);
    let problem = world.refused().await;
    let SignatureError::Unsigned { looked, policy } = &problem else {
        panic!("{problem}")
    };
    assert_eq!(*looked, tag(&world.digest()));
    assert_eq!(*policy, world.policy().display().to_string());
    // Things that lie there and are no signatures do not make it signed.
    let (manifest, _) = attached(&[]);
    let path = format!("/v2/x/manifests/{}", tag(&world.digest()));
    world
        .answers
        .lock()
        .unwrap()
        .insert(path, Answer::Full(200, OCI_MANIFEST.into(), manifest));
    assert!(matches!(
        world.refused().await,
        SignatureError::Unsigned { .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_by_another_key_or_of_another_image_is_refused_with_the_reason() {
    let (key, stranger) = (Key::p256(), Key::p256());
    let world = World::new();
    world.ask_for(&[&key]);
    world.sign(&stranger);
    none_good(&world.refused().await, "no key that the policy names");

    let world = World::new();
    world.ask_for(&[&key]);
    let other = Digest::of(b"another image");
    let claim = payload(&world.repository(), &other);
    world.attach(&world.digest(), &[(&key, &claim)]);
    none_good(&world.refused().await, &format!("it is for {other}"));

    let world = World::new();
    world.ask_for(&[&key]);
    let claim = payload("registry.example/y", &world.digest());
    world.attach(&world.digest(), &[(&key, &claim)]);
    none_good(
        &world.refused().await,
        "it is for the repository \"registry.example/y\"",
    );

    // Something else by the right key: an attestation, say.
    let world = World::new();
    world.ask_for(&[&key]);
    world.attach(&world.digest(), &[(&key, b"{\"critical\": {}}")]);
    none_good(&world.refused().await, "malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_good_signature_among_others_is_enough() {
    if skip_unless_root() {
        return;
    }
    let (key, stranger) = (Key::p256(), Key::p256());
    let world = World::new();
    world.ask_for(&[&key]);
    let claim = payload(&format!("{}:some-tag", world.repository()), &world.digest());
    let other = payload("registry.example/y", &world.digest());
    world.attach(
        &world.digest(),
        &[(&stranger, &claim), (&key, &other), (&key, &claim)],
    );
    world
        .pull(&world.store().await, PullPolicy::IfNotPresent)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_place_of_signatures_is_read_within_bounds() {
    let key = Key::p256();
    let world = World::new();
    world.ask_for(&[&key]);
    let claim = payload(&world.repository(), &world.digest());
    let flood: Vec<(&Key, &[u8])> = vec![(&key, &claim); 51];
    world.attach(&world.digest(), &flood);
    let problem = world.refused().await;
    assert!(
        matches!(problem, SignatureError::Unreadable { .. }),
        "{problem}"
    );
    let path = format!("/v2/x/manifests/{}", tag(&world.digest()));
    for body in [
        &b"<html>"[..],
        b"{}",
        br#"{"schemaVersion": 2, "layers": 7}"#,
    ] {
        let answer = Answer::Full(200, OCI_MANIFEST.into(), body.to_vec());
        world.answers.lock().unwrap().insert(path.clone(), answer);
        let problem = world.refused().await;
        assert!(
            matches!(problem, SignatureError::Unreadable { .. }),
            "{problem}"
        );
    }
    // Without end: the registry's fault, and told as such.
    world.answers.lock().unwrap().insert(
        path,
        Answer::Full(200, OCI_MANIFEST.into(), vec![b' '; 5 << 20]),
    );
    let error = world
        .pull(&world.store().await, PullPolicy::Always)
        .await
        .unwrap_err();
    assert!(matches!(error, PullError::Registry(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn for_many_machines_the_index_or_the_manifest_may_be_signed() {
    if skip_unless_root() {
        return;
    }
    let key = Key::p256();
    for of_index in [true, false] {
        let mut many = image(
            "x",
            &[(Archive::new().file("f", b"x").done(), Packed::Gzip)],
        );
        let mut entry = descriptor(OCI_MANIFEST, &many.manifests[0].1);
        entry["platform"] = json!({"os": "linux", "architecture": host_arch()});
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
            .to_string()
            .into_bytes();
        many.manifests.push((OCI_INDEX.into(), index.clone()));
        let world = World::with(many);
        world.ask_for(&[&key]);
        let problem = world.refused().await;
        assert!(
            problem.to_string().contains(&tag(&Digest::of(&index))),
            "{problem}"
        );
        let signed = if of_index {
            Digest::of(&index)
        } else {
            world.digest()
        };
        world.attach(&signed, &[(&key, &payload(&world.repository(), &signed))]);
        let store = world.store().await;
        let image = world.pull(&store, PullPolicy::IfNotPresent).await.unwrap();
        assert_eq!(image.manifest_digest, world.digest());
        world.answers.lock().unwrap().clear();
        world
            .pull(&store, PullPolicy::IfNotPresent)
            .await
            .expect("it is remembered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_be_used_lets_nothing_in_until_it_is_mended() {
    if skip_unless_root() {
        return;
    }
    let key = Key::p256();
    let world = World::new();
    world.sign(&key);
    let store = world.store().await;
    for text in [
        None,
        Some("defualt = 'accept'"),
        Some("[[policy]]\nrepositories = ['a.example/*']\nkeys = ['/nowhere']"),
    ] {
        if let Some(text) = text {
            std::fs::write(world.policy(), text).unwrap();
        }
        let error = world
            .pull(&store, PullPolicy::IfNotPresent)
            .await
            .unwrap_err();
        println!("{error}");
        assert!(
            !error.is_transient() && error.to_string().contains(world.policy().to_str().unwrap()),
            "{error}"
        );
        let PullError::Signature { problem, .. } = error else {
            panic!("{error}")
        };
        assert!(
            matches!(problem, SignatureError::Policy { .. }),
            "{problem}"
        );
    }
    // The same store, without being opened anew.
    world.ask_for(&[&key]);
    world.pull(&store, PullPolicy::IfNotPresent).await.unwrap();
    // And what is here does not pass when the policy is gone.
    std::fs::remove_file(world.policy()).unwrap();
    world
        .pull(&store, PullPolicy::IfNotPresent)
        .await
        .unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_policy_names_is_let_in_only_if_the_file_says_so() {
    if skip_unless_root() {
        return;
    }
    let world = World::new();
    std::fs::write(world.policy(), "").unwrap();
    let problem = world.refused().await;
    assert!(
        matches!(problem, SignatureError::NotNamed { .. }),
        "{problem}"
    );
    assert_eq!(
        world.fake.count(""),
        0,
        "a registry that nobody named was asked"
    );
    std::fs::write(world.policy(), "default = 'accept'").unwrap();
    let store = world.store().await;
    world.pull(&store, PullPolicy::IfNotPresent).await.unwrap();
    // What came before the policy is not let in by having come.
    std::fs::write(world.policy(), "default = 'reject'").unwrap();
    world
        .pull(&store, PullPolicy::IfNotPresent)
        .await
        .unwrap_err();
    world.ask_for(&[&Key::p256()]);
    let error = world
        .pull(&store, PullPolicy::IfNotPresent)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not signed"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_cannot_be_asked_is_no_verdict() {
    let world = World::new();
    world.ask_for(&[&Key::p256()]);
    let path = format!("/v2/x/manifests/{}", tag(&world.digest()));
    world.answers.lock().unwrap().insert(
        path,
        Answer::Full(503, "text/plain".into(), b"later".to_vec()),
    );
    let error = world
        .pull(&world.store().await, PullPolicy::IfNotPresent)
        .await
        .unwrap_err();
    assert!(
        matches!(error, PullError::Registry(_)) && error.is_transient(),
        "{error}"
    );
}

/// The whole way against Debian's registry: packed, pushed, signed, pulled; then the signature of one image is put
/// under another one's tag.
#[tokio::test(flavor = "multi_thread")]
async fn signatures_go_through_a_real_registry() {
    if skip_unless_root() {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let key = Key::p256();
    std::fs::write(folder.path().join("key.pub"), key.pem()).unwrap();
    let policy = folder.path().join("policy.toml");
    let text = format!(
        "default = \"reject\"\n\n[[policy]]\nrepositories = [\"{}/team/*\"]\nkeys = [\"{}/key.pub\"]\n",
        registry.host,
        folder.path().display()
    );
    std::fs::write(&policy, text).unwrap();
    let store = ImageStore::open(StoreConfig {
        signature_policy: Some(policy),
        ..config(&folder.path().join("store"))
    });
    let store = store.await.unwrap();
    let mut packed = Vec::new();
    for name in ["good", "bad"] {
        let source = folder.path().join(name);
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("name"), name).unwrap();
        let image = pack(&PackOptions {
            source,
            ..PackOptions::default()
        })
        .unwrap();
        let reference = registry.reference(&format!("team/app:{name}"));
        push(
            &image,
            &reference,
            &mezzo_images::RegistriesConfig::default(),
            None,
        )
        .await
        .unwrap();
        let error = store
            .pull(&reference, PullPolicy::IfNotPresent, None)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("it is not signed"), "{error}");
        packed.push((reference, image));
    }
    let repository = format!("{}/team/app", registry.host);
    let good = packed[0].1.digest();
    let (manifest, blobs) = attached(&[(&key, &payload(&repository, &good))]);
    upload(&registry.host, "team/app", &tag(&good), &manifest, &blobs).await;
    let image = store
        .pull(&packed[0].0, PullPolicy::IfNotPresent, None)
        .await
        .unwrap();
    assert_eq!(image.manifest_digest, good);
    upload(
        &registry.host,
        "team/app",
        &tag(&packed[1].1.digest()),
        &manifest,
        &blobs,
    )
    .await;
    let error = store
        .pull(&packed[1].0, PullPolicy::IfNotPresent, None)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("it is for {good}, another image")),
        "{error}"
    );
    // Elsewhere nobody has a say.
    let elsewhere = registry.reference("other:1");
    push(
        &packed[0].1,
        &elsewhere,
        &mezzo_images::RegistriesConfig::default(),
        None,
    )
    .await
    .unwrap();
    let error = store
        .pull(&elsewhere, PullPolicy::IfNotPresent, None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no policy in"), "{error}");
    drop(registry);
    store
        .pull(&packed[0].0, PullPolicy::IfNotPresent, None)
        .await
        .expect("verified before");
    let error = store
        .pull(&packed[0].0, PullPolicy::Always, None)
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
}
