//! What cosign leaves in a registry (pure): a manifest whose layers are claims, each with a signature beside it.
//!
//! The format is cosign's signature specification with the "simple signing" payload: it is hostile until a signature
//! over the payload's very bytes has been verified, and read only then.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Deserialize;

use crate::digest::Digest;
use crate::manifest::{Blob, shorten};
use crate::reference::Reference;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Payloads are a few hundred bytes.
const MAX_PAYLOAD: u64 = 64 << 10;
/// Signatures of one image that are looked at: more is somebody's attempt to keep us busy.
pub(crate) const MAX_SIGNATURES: usize = 50;

/// One signature and where to find what it signs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) payload: Blob,
    pub(crate) signature: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    schema_version: u64,
    layers: Vec<RawLayer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLayer {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawPayload {
    critical: RawCritical,
}

#[derive(Deserialize)]
struct RawCritical {
    identity: RawIdentity,
    image: RawImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct RawIdentity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct RawImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

/// The tag under which an image's signatures lie.
pub(crate) fn tag(digest: &Digest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

/// Reads the manifest under that tag. What is no signature by a key is left out: other things may be attached there.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Signed>, String> {
    let raw: RawManifest = serde_json::from_slice(bytes).map_err(|e| shorten(&e.to_string()))?;
    if raw.schema_version != 2 {
        return Err(format!(
            "schema version {} is not supported",
            raw.schema_version
        ));
    }
    if raw.layers.len() > MAX_SIGNATURES {
        return Err(format!(
            "there are {} of them, more than the {MAX_SIGNATURES} allowed",
            raw.layers.len()
        ));
    }
    let mut found = Vec::new();
    for layer in raw.layers {
        let Some(encoded) = layer
            .annotations
            .get(SIGNATURE)
            .filter(|_| layer.media_type == PAYLOAD)
        else {
            continue;
        };
        if !(1..=MAX_PAYLOAD).contains(&layer.size) {
            return Err(format!(
                "{} declares {} bytes, outside of 1 to {MAX_PAYLOAD}",
                layer.digest, layer.size
            ));
        }
        let signature = base64::engine::general_purpose::STANDARD.decode(encoded.trim());
        found.push(Signed {
            payload: Blob {
                digest: layer.digest,
                size: layer.size,
            },
            signature: signature
                .map_err(|_| format!("the signature beside {} is not base64", layer.digest))?,
        });
    }
    Ok(found)
}

/// Whether a payload, whose signature was verified, speaks of this image: one of its digests, in its repository.
/// Returns the digest.
pub(crate) fn speaks_of(
    payload: &[u8],
    reference: &Reference,
    digests: &[Digest],
) -> Result<Digest, String> {
    let raw: RawPayload = serde_json::from_slice(payload)
        .map_err(|e| format!("what it signs is malformed: {}", shorten(&e.to_string())))?;
    let critical = raw.critical;
    if critical.kind != "cosign container image signature" {
        return Err(format!(
            "it signs a {:?}, not an image",
            shorten(&critical.kind)
        ));
    }
    if !digests.contains(&critical.image.digest) {
        return Err(format!(
            "it is for {}, another image",
            critical.image.digest
        ));
    }
    // As cosign and containers/image write it: with or without a tag, Docker Hub under its other name.
    let named: Result<Reference, _> = critical.identity.reference.parse();
    let same = named.is_ok_and(|named| {
        named.registry() == reference.registry() && named.repository() == reference.repository()
    });
    if !same {
        return Err(format!(
            "it is for the repository {:?}, not {}/{}",
            shorten(&critical.identity.reference),
            reference.registry(),
            reference.repository()
        ));
    }
    Ok(critical.image.digest)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn layer() -> Value {
        json!({"mediaType": PAYLOAD, "digest": Digest::of(b"p").to_string(), "size": 210, "annotations": {SIGNATURE: "AQID"}})
    }

    fn manifest(layers: &[Value]) -> Vec<u8> {
        json!({"schemaVersion": 2, "config": {"mediaType": "x"}, "layers": layers})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn signatures_are_found_among_other_things() {
        let mut other = layer();
        other["mediaType"] = json!("application/vnd.dsse.envelope.v1+json");
        let mut bare = layer();
        bare["annotations"] = json!({});
        let found = parse(&manifest(&[other, layer(), bare])).unwrap();
        let blob = Blob {
            digest: Digest::of(b"p"),
            size: 210,
        };
        assert_eq!(
            found,
            [Signed {
                payload: blob,
                signature: vec![1, 2, 3]
            }]
        );
    }

    #[test]
    fn what_would_keep_us_busy_or_cannot_be_read_is_refused() {
        let with = |field: &str, value: Value| {
            let mut changed = layer();
            changed[field] = value;
            manifest(&[changed])
        };
        for bad in [
            manifest(&vec![layer(); MAX_SIGNATURES + 1]),
            with("size", json!(1 << 30)),
            with("size", json!(0)),
            with("size", json!(-1)),
            with("digest", json!("sha256:../../etc/passwd")),
            with("annotations", json!({SIGNATURE: "not base64!"})),
            b"<html>".to_vec(),
            br#"{"schemaVersion": 1, "layers": []}"#.to_vec(),
        ] {
            assert!(
                parse(&bad).is_err(),
                "{} was accepted",
                String::from_utf8_lossy(&bad)
            );
        }
    }

    #[test]
    fn a_claim_must_be_of_this_image_and_its_repository() {
        let (digest, index) = (Digest::of(b"image"), Digest::of(b"index"));
        let payload = |reference: &str, digest: &Digest, kind: &str| {
            json!({"critical": {"identity": {"docker-reference": reference},
                "image": {"docker-manifest-digest": digest.to_string()}, "type": kind}, "optional": null})
            .to_string()
        };
        const KIND: &str = "cosign container image signature";
        let check = |image: &str, payload: &str| {
            speaks_of(
                payload.as_bytes(),
                &image.parse().unwrap(),
                &[digest, index],
            )
        };
        for (image, claimed) in [
            ("r.example/app:1", "r.example/app"),
            ("r.example/app:1", "r.example/app:2"),
            ("redis", "index.docker.io/library/redis"),
            ("redis", "docker.io/library/redis:7"),
        ] {
            assert_eq!(
                check(image, &payload(claimed, &index, KIND)),
                Ok(index),
                "{image} {claimed}"
            );
        }
        for (image, claimed, of, kind, reason) in [
            (
                "r.example/app",
                "r.example/app",
                Digest::of(b"x"),
                KIND,
                "another image",
            ),
            (
                "r.example/app",
                "r.example/other",
                digest,
                KIND,
                "not r.example/app",
            ),
            (
                "r.example/app",
                "evil.example/app",
                digest,
                KIND,
                "not r.example/app",
            ),
            ("r.example/app", "", digest, KIND, "not r.example/app"),
            (
                "r.example/app",
                "r.example/app",
                digest,
                "atomic container signature",
                "not an image",
            ),
        ] {
            let problem = check(image, &payload(claimed, &of, kind)).unwrap_err();
            assert!(problem.contains(reason), "{problem}");
        }
        assert!(check("r.example/app", "{}").is_err());
    }
}
