//! Keys, signatures as cosign leaves them in a registry, and a registry, a store and a policy for them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mezzo_images::{
    Digest, Image, ImageStore, PullError, PullPolicy, Reference, SignatureError, StoreConfig,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use crate::common::{
    Answer, Archive, Fake, OCI_CONFIG, OCI_MANIFEST, Packed, TestImage, answers, config,
    descriptor, image, not_found,
};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// A pair of keys, as `cosign generate-key-pair` makes one.
pub(crate) enum Key {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    pub(crate) fn p256() -> Self {
        let rng = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &rng).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &rng);
        Self::P256(pair.unwrap())
    }

    pub(crate) fn ed25519() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    pub(crate) fn sign(&self, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::P256(pair) => pair
                .sign(&SystemRandom::new(), payload)
                .unwrap()
                .as_ref()
                .to_vec(),
            Self::Ed25519(pair) => pair.sign(payload).as_ref().to_vec(),
        }
    }

    pub(crate) fn pem(&self) -> String {
        let (prefix, point) = match self {
            Self::P256(pair) => (
                "3059301306072a8648ce3d020106082a8648ce3d030107034200",
                pair.public_key().as_ref(),
            ),
            Self::Ed25519(pair) => ("302a300506032b6570032100", pair.public_key().as_ref()),
        };
        let prefix = (0..prefix.len() / 2)
            .map(|n| u8::from_str_radix(&prefix[2 * n..2 * n + 2], 16).unwrap());
        let der: Vec<u8> = prefix.chain(point.iter().copied()).collect();
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(der)
        )
    }
}

pub(crate) fn payload(repository: &str, digest: &Digest) -> Vec<u8> {
    json!({"critical": {"identity": {"docker-reference": repository},
        "image": {"docker-manifest-digest": digest.to_string()}, "type": "cosign container image signature"},
        "optional": {"creator": "a test"}})
    .to_string()
    .into_bytes()
}

/// The manifest that holds signatures, and its blobs.
pub(crate) fn attached(signatures: &[(&Key, &[u8])]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let config = b"{}".to_vec();
    let layers: Vec<_> = signatures
        .iter()
        .map(|(key, payload)| {
            let mut layer = descriptor(PAYLOAD, payload);
            layer["annotations"] = json!({SIGNATURE: STANDARD.encode(key.sign(payload))});
            layer
        })
        .collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, &config),
        "layers": layers});
    let mut blobs = vec![config];
    blobs.extend(signatures.iter().map(|(_, payload)| payload.to_vec()));
    (manifest.to_string().into_bytes(), blobs)
}

pub(crate) fn tag(digest: &Digest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

/// A registry with one image called `x`, a store, and a policy between them.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) answers: Arc<Mutex<HashMap<String, Answer>>>,
    pub(crate) fake: Fake,
    pub(crate) image: TestImage,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(image(
            "x",
            &[(Archive::new().file("f", b"x").done(), Packed::Gzip)],
        ))
    }

    pub(crate) fn with(image: TestImage) -> Self {
        let answers = Arc::new(Mutex::new(answers(&[&image])));
        let known = Arc::clone(&answers);
        let fake = Fake::start(move |request| {
            let known = known.lock().unwrap();
            known.get(&request.path).cloned().unwrap_or_else(not_found)
        });
        Self {
            folder: tempfile::tempdir().unwrap(),
            answers,
            fake,
            image,
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.image.manifests[0].1)
    }

    pub(crate) fn repository(&self) -> String {
        format!("{}/x", self.fake.host)
    }

    pub(crate) fn reference(&self) -> Reference {
        self.fake.reference("x")
    }

    /// Puts signatures where those of `digest` are looked for.
    pub(crate) fn attach(&self, digest: &Digest, signatures: &[(&Key, &[u8])]) {
        let (manifest, blobs) = attached(signatures);
        let mut answers = self.answers.lock().unwrap();
        answers.insert(
            format!("/v2/x/manifests/{}", tag(digest)),
            Answer::Full(200, OCI_MANIFEST.into(), manifest),
        );
        for blob in blobs {
            answers.insert(
                format!("/v2/x/blobs/{}", Digest::of(&blob)),
                Answer::Full(200, "application/octet-stream".into(), blob),
            );
        }
    }

    pub(crate) fn sign(&self, key: &Key) {
        let payload = payload(&self.repository(), &self.digest());
        self.attach(&self.digest(), &[(key, &payload)]);
    }

    pub(crate) fn policy(&self) -> PathBuf {
        self.folder.path().join("policy.toml")
    }

    /// Asks for signatures by these keys on everything of this registry.
    pub(crate) fn ask_for(&self, keys: &[&Key]) {
        let files: Vec<String> = keys
            .iter()
            .map(|key| {
                let pem = key.pem();
                let file = self
                    .folder
                    .path()
                    .join(format!("{}.pub", Digest::of(pem.as_bytes()).hex()));
                std::fs::write(&file, pem).unwrap();
                format!("{:?}", file.display().to_string())
            })
            .collect();
        let text = format!(
            "[[policy]]\nrepositories = [\"{}/*\"]\nkeys = [{}]\n",
            self.fake.host,
            files.join(", ")
        );
        std::fs::write(self.policy(), text).unwrap();
    }

    pub(crate) async fn store(&self) -> ImageStore {
        let config = StoreConfig {
            signature_policy: Some(self.policy()),
            ..config(&self.folder.path().join("store"))
        };
        ImageStore::open(config).await.unwrap()
    }

    pub(crate) async fn pull(
        &self,
        store: &ImageStore,
        policy: PullPolicy,
    ) -> Result<Image, PullError> {
        store.pull(&self.reference(), policy, None).await
    }

    /// Pulls, and expects a refusal before anything of the image was fetched or kept.
    pub(crate) async fn refused(&self) -> SignatureError {
        let store = self.store().await;
        let error = self
            .pull(&store, PullPolicy::IfNotPresent)
            .await
            .expect_err("it was let in");
        println!("{error}");
        assert!(!error.is_transient(), "{error}");
        for blob in &self.image.blobs {
            assert_eq!(
                self.fake.count(&Digest::of(blob).to_string()),
                0,
                "the image was fetched all the same"
            );
        }
        assert_eq!(store.list().await.unwrap(), []);
        let PullError::Signature { problem, reference } = error else {
            panic!("{error}")
        };
        assert_eq!(reference, self.reference().to_string());
        problem
    }
}

/// By the distribution API, as cosign does it.
pub(crate) async fn upload(host: &str, name: &str, tag: &str, manifest: &[u8], blobs: &[Vec<u8>]) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for blob in blobs {
        let begun = client
            .post(format!("http://{host}/v2/{name}/blobs/uploads/"))
            .send()
            .await
            .unwrap();
        assert_eq!(begun.status().as_u16(), 202);
        let place = begun.headers()["location"].to_str().unwrap().to_string();
        let mut place = if place.starts_with("http") {
            reqwest::Url::parse(&place).unwrap()
        } else {
            reqwest::Url::parse(&format!("http://{host}{place}")).unwrap()
        };
        place
            .query_pairs_mut()
            .append_pair("digest", &Digest::of(blob).to_string());
        let sent = client.put(place).body(blob.clone()).send().await.unwrap();
        assert_eq!(
            sent.status().as_u16(),
            201,
            "{}",
            sent.text().await.unwrap()
        );
    }
    let sent = client
        .put(format!("http://{host}/v2/{name}/manifests/{tag}"))
        .header("content-type", OCI_MANIFEST)
        .body(manifest.to_vec())
        .send()
        .await
        .unwrap();
    assert_eq!(
        sent.status().as_u16(),
        201,
        "{}",
        sent.text().await.unwrap()
    );
}
