//! Targets that read text: names, digests, manifests, paths.

use rand::rngs::StdRng;
use reqwest::Url;
use serde_json::json;

use super::driver::{Target, behaviour, message};
use super::mutate;
use crate::digest::Digest;
use crate::manifest::{self, Document, MAX_LAYERS, MAX_METADATA_BYTES};
use crate::platform::{self, Platform};
use crate::reference::{Reference, is_loopback};
use crate::unpack::UnpackLimits;
use crate::unpack::paths::LayerPath;
use crate::whiteout::{self, Name};

pub(super) const HEX: &str =
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

pub(super) fn own(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Names of images: one that is accepted says the same when it is printed, and cannot bend the URLs it goes into.
pub(super) struct ReferenceTarget;

impl Target for ReferenceTarget {
    const MAX_INPUT: usize = 600;

    fn new() -> Self {
        Self
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        own(&[
            "busybox",
            "busybox:1.36",
            "127.0.0.1:5000/team/app:1",
            "[::1]:5000/a",
            "localhost/sleep",
            "registry.example.com:443/a/b__c/d--e:v1.2_3",
            &format!("busybox:1@{HEX}"),
        ])
    }

    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
        let words = [
            "..",
            "/",
            ":",
            "@",
            "%2e",
            "?",
            "#",
            "\\",
            "[",
            "]",
            "::",
            "localhost",
            "127.0.0.1",
            "0x7f.1",
            "xn--",
            HEX,
            "docker.io/",
            "index.docker.io/",
            "_",
            "__",
            "-",
            "é",
            "\0",
            "\r\n",
            "user:pass@",
        ];
        mutate::text(input, other, &words, rng);
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let text = String::from_utf8_lossy(input);
        let reference: Reference = match text.parse() {
            Ok(reference) => reference,
            Err(error) => return behaviour(&message(&error)),
        };
        let printed = reference.to_string();
        assert_eq!(
            printed.parse::<Reference>().as_ref(),
            Ok(&reference),
            "{printed} reads differently"
        );
        assert!(printed.len() < 600, "{printed} is too long");
        let selector = reference.manifest_selector();
        let path = format!("/v2/{}/manifests/{selector}", reference.repository());
        if let Ok(url) = Url::parse(&format!("https://{}{path}", reference.registry_host())) {
            assert_eq!(url.path(), path, "the URL of {printed} has another path");
            assert!(url.query().is_none() && url.fragment().is_none(), "{url}");
            assert!(
                url.username().is_empty() && url.password().is_none(),
                "{url}"
            );
            if is_loopback(reference.registry()) {
                let here = url.host_str().is_some_and(is_loopback);
                assert!(
                    here,
                    "{url} is spoken to without TLS and is not on this machine"
                );
            }
        }
        let parts = "/".repeat(reference.repository().split('/').count().min(8));
        let port = reference.registry().contains(':');
        let here = is_loopback(reference.registry());
        behaviour(&format!(
            "{parts} {port} {here} {} {}",
            reference.tag().is_some(),
            reference.digest().is_some()
        ))
    }
}

/// Digests: one that is accepted is the very text that it prints, and safe as a file name.
pub(super) struct DigestTarget;

impl Target for DigestTarget {
    const MAX_INPUT: usize = 200;

    fn new() -> Self {
        Self
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        own(&[HEX, "sha256:00", "sha512:ff"])
    }

    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
        mutate::text(
            input,
            other,
            &["sha256:", "sha512:", "../", "A", "0", "é", HEX, &HEX[7..]],
            rng,
        );
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let text = String::from_utf8_lossy(input);
        match text.parse::<Digest>() {
            Ok(digest) => {
                assert_eq!(digest.to_string(), text);
                assert!(
                    digest.hex().len() == 64 && digest.hex().bytes().all(|b| b.is_ascii_hexdigit())
                );
                assert_eq!(Digest::from_hex(&digest.hex()), Ok(digest));
                behaviour("good")
            }
            Err(error) => behaviour(&format!(
                "{}{}",
                message(&error),
                "x".repeat(text.len().min(80))
            )),
        }
    }
}

/// Manifests, indexes and configs: what is accepted keeps the bounds that everything behind it counts on.
pub(super) struct ManifestTarget;

impl Target for ManifestTarget {
    const MAX_INPUT: usize = 64 << 10;

    fn new() -> Self {
        Self
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let descriptor = |kind: &str| json!({"mediaType": kind, "digest": HEX, "size": 7});
        let mut entry = descriptor(manifest::OCI_MANIFEST);
        entry["platform"] = json!({"os": "linux", "architecture": "amd64", "variant": "v2"});
        [
            json!({"schemaVersion": 2, "mediaType": manifest::OCI_MANIFEST,
                "config": descriptor(manifest::OCI_CONFIG), "layers": [descriptor(manifest::OCI_LAYER_GZIP)]}),
            json!({"schemaVersion": 2, "config": descriptor("application/vnd.docker.container.image.v1+json"),
                "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip")]}),
            json!({"schemaVersion": 2, "mediaType": manifest::OCI_INDEX, "manifests": [entry]}),
            json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [HEX]},
                "config": {"Entrypoint": ["/x"], "Cmd": ["y"], "Env": ["A=b"], "User": "1:2", "WorkingDir": "/w",
                    "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGTERM"}}),
        ]
        .iter()
        .map(|document| document.to_string().into_bytes())
        .collect()
    }

    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
        let words = [
            "layers",
            "manifests",
            "config",
            "mediaType",
            "digest",
            "size",
            "urls",
            "platform",
            "schemaVersion",
            "rootfs",
            "diff_ids",
            "os",
            "architecture",
            "unknown",
            manifest::OCI_MANIFEST,
            manifest::OCI_INDEX,
            manifest::OCI_CONFIG,
            manifest::OCI_LAYER_GZIP,
            HEX,
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "[[[[[[[[",
            "{\"a\":",
            "\\u0000",
        ];
        mutate::json(input, other, &words, rng);
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let mut told = String::new();
        for content_type in [
            None,
            Some(manifest::OCI_MANIFEST),
            Some(manifest::OCI_INDEX),
            Some("text/html; x"),
        ] {
            match manifest::parse_document(input, content_type) {
                Ok(Document::Manifest(found)) => {
                    assert!((1..=MAX_LAYERS).contains(&found.layers.len()));
                    assert!((1..=MAX_METADATA_BYTES).contains(&found.config.size));
                    assert!(
                        found
                            .layers
                            .iter()
                            .all(|layer| (1..=1 << 40).contains(&layer.blob.size))
                    );
                    told += &format!("manifest {:?}", found.layers[0].compression);
                }
                Ok(Document::Index(entries)) => {
                    assert!(
                        entries
                            .iter()
                            .all(|entry| (1..=MAX_METADATA_BYTES).contains(&entry.blob.size))
                    );
                    match platform::select(&entries, &Platform::host()) {
                        Ok(entry) => assert!(entries.contains(entry)),
                        Err(platforms) => drop(message(&platforms.join(", "))),
                    }
                    told += "index";
                }
                Err(error) => told += &message(&error),
            }
        }
        match manifest::parse_config(input) {
            Ok(parsed) => {
                assert!(!parsed.platform.os.is_empty() && !parsed.platform.architecture.is_empty());
                assert!(parsed.config.user.as_deref() != Some(""));
                message(&parsed.platform);
                told += "config";
            }
            Err(error) => told += &message(&error),
        }
        behaviour(&told)
    }
}

/// Names in archives: what is accepted has no part that leads anywhere but down, and stays as it is when read again.
pub(super) struct PathsTarget;

impl Target for PathsTarget {
    const MAX_INPUT: usize = 6000;

    fn new() -> Self {
        Self
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        own(&[
            "./",
            "a/b/c",
            "/etc//x/./y",
            "a/../b",
            ".wh.x",
            "d/.wh..wh..opq",
            ".wh..wh.plnk",
            ".wh..",
            "a\0b",
        ])
    }

    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
        mutate::text(
            input,
            other,
            &[
                "..",
                ".",
                "/",
                "//",
                ".wh.",
                ".wh..wh..opq",
                "\0",
                "a/a/a/a/a/a/a/",
                "\n",
            ],
            rng,
        );
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let limits = UnpackLimits::default();
        let path = match LayerPath::parse(input, &limits) {
            Ok(path) => path,
            Err(error) => return behaviour(&message(&error)),
        };
        assert_eq!(LayerPath::parse(path.bytes(), &limits).unwrap(), path);
        assert!(path.bytes().len() <= limits.max_path_bytes && !path.bytes().contains(&0));
        let Some((directory, name)) = path.split() else {
            return behaviour("root");
        };
        let parts: Vec<_> = path.bytes().split(|byte| *byte == b'/').collect();
        assert!(parts.len() <= limits.max_depth && parts.last() == Some(&name));
        assert!(
            parts.iter().all(|part| !part.is_empty()
                && part.len() < 256
                && *part != b"."
                && *part != b"..")
        );
        assert!(directory.len() + name.len() <= path.bytes().len());
        let told = match whiteout::classify(name) {
            Name::Hides(hidden) => {
                assert!(
                    !hidden.is_empty()
                        && hidden != b"."
                        && hidden != b".."
                        && !hidden.contains(&b'/')
                );
                "hides"
            }
            Name::Ordinary => "ordinary",
            Name::Opaque => "opaque",
            Name::Ignored => "ignored",
            Name::Invalid => "invalid",
        };
        behaviour(&format!("{told}{}", "x".repeat(parts.len().min(20))))
    }
}
