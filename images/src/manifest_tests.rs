//! Documents that are read, picked from and refused.

use super::*;
use crate::platform::select;
use serde_json::{Value, json};

fn descriptor(media_type: &str, size: i64) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(media_type.as_bytes()).to_string(), "size": size})
}

fn good() -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, 10),
           "layers": [descriptor(OCI_LAYER_GZIP, 20)]})
}

fn refuse(document: &Value, content_type: Option<&str>) -> ManifestError {
    parse_document(document.to_string().as_bytes(), content_type).expect_err("was accepted")
}

#[test]
fn oci_and_docker_manifests_read_alike() {
    let Ok(Document::Manifest(oci)) =
        parse_document(good().to_string().as_bytes(), Some(OCI_MANIFEST))
    else {
        panic!("not a manifest")
    };
    assert_eq!(
        (oci.config.size, oci.layers[0].compression),
        (10, Compression::Gzip)
    );
    let docker = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": descriptor(DOCKER_CONFIG, 10),
        "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", 20)]});
    parse_document(docker.to_string().as_bytes(), Some(DOCKER_MANIFEST)).unwrap();
    parse_document(docker.to_string().as_bytes(), Some("application/json")).unwrap();
}

#[test]
fn a_document_that_can_be_read_in_two_ways_is_refused() {
    let mut both = good();
    both["manifests"] = json!([]);
    assert_eq!(refuse(&both, None), ManifestError::Ambiguous);
    assert!(matches!(
        refuse(&good(), Some(OCI_INDEX)),
        ManifestError::MediaTypeMismatch { .. }
    ));
}

#[test]
fn unusable_documents_are_refused_with_their_own_error() {
    let mut doc = good();
    doc["schemaVersion"] = json!(1);
    assert_eq!(refuse(&doc, None), ManifestError::SchemaVersion(1));
    let mut doc = good();
    doc["layers"] = json!([]);
    assert_eq!(refuse(&doc, None), ManifestError::NoLayers);
    doc["layers"] = json!(vec![descriptor(OCI_LAYER_GZIP, 1); 10_000]);
    assert_eq!(refuse(&doc, None), ManifestError::TooManyLayers(10_000));
    doc["layers"] = json!([descriptor("application/vnd.oci.image.layer.v1.tar+lz4", 1)]);
    assert!(matches!(
        refuse(&doc, None),
        ManifestError::UnsupportedMediaType { .. }
    ));
    doc["layers"] = json!([descriptor(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        1
    )]);
    assert!(matches!(refuse(&doc, None), ManifestError::ForeignLayer(_)));
    let mut doc = good();
    doc["layers"][0]["urls"] = json!(["https://example.com/layer"]);
    assert!(matches!(refuse(&doc, None), ManifestError::ForeignLayer(_)));
    for size in [-1, 0, i64::MAX] {
        let mut doc = good();
        doc["layers"][0]["size"] = json!(size);
        assert!(
            matches!(refuse(&doc, None), ManifestError::Size { .. }),
            "{size}"
        );
    }
    let mut doc = good();
    doc["config"]["size"] = json!(10_i64 << 30);
    assert!(matches!(refuse(&doc, None), ManifestError::Size { .. }));
    let mut doc = good();
    doc["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    assert!(matches!(
        refuse(&doc, None),
        ManifestError::UnsupportedMediaType { .. }
    ));
    let mut doc = good();
    doc["layers"][0]["digest"] = json!("sha256:../../../etc/passwd");
    assert!(matches!(
        refuse(&doc, None),
        ManifestError::Malformed { .. }
    ));
    assert!(matches!(
        refuse(&json!({"schemaVersion": 2}), None),
        ManifestError::Malformed { .. }
    ));
    assert!(parse_document(b"<html>", None).is_err());
}

#[test]
fn the_hosts_platform_is_picked_from_an_index() {
    let entry = |arch: &str| {
        let mut raw = descriptor(OCI_MANIFEST, 7);
        raw["platform"] = json!({"os": "linux", "architecture": arch});
        raw
    };
    let text =
        json!({"schemaVersion": 2, "manifests": [entry("s390x"), entry("amd64"), entry("arm64")]})
            .to_string();
    let Ok(Document::Index(entries)) = parse_document(text.as_bytes(), Some(OCI_INDEX)) else {
        panic!("no index")
    };
    let host = |arch: &str| Platform {
        os: "linux".into(),
        architecture: arch.into(),
        variant: None,
    };
    assert_eq!(select(&entries, &host("amd64")).unwrap(), &entries[1]);
    assert_eq!(
        select(&entries, &host("mips")).unwrap_err(),
        ["linux/s390x", "linux/amd64", "linux/arm64"]
    );
}

#[test]
fn the_best_variant_that_the_host_can_run_is_picked() {
    let entry = |arch: &str, variant: Option<&str>| {
        let mut raw = descriptor(OCI_MANIFEST, 7);
        raw["platform"] = json!({"os": "linux", "architecture": arch, "variant": variant});
        raw
    };
    let pick = |host: (&str, Option<&str>), there: &[(&str, Option<&str>)]| {
        let entries: Vec<Value> = there.iter().map(|(a, v)| entry(a, *v)).collect();
        let text = json!({"schemaVersion": 2, "manifests": entries}).to_string();
        let Ok(Document::Index(entries)) = parse_document(text.as_bytes(), None) else {
            panic!("no index")
        };
        let host = Platform {
            os: "linux".into(),
            architecture: host.0.into(),
            variant: host.1.map(str::to_owned),
        };
        let picked = select(&entries, &host).ok()?;
        entries.iter().position(|entry| std::ptr::eq(entry, picked))
    };
    let (v2, v3, v6, v7, v8) = (Some("v2"), Some("v3"), Some("v6"), Some("v7"), Some("v8"));
    let amd = [("amd64", v3), ("amd64", None), ("amd64", v2), ("amd64", v2)];
    assert_eq!(pick(("amd64", v2), &amd), Some(2));
    assert_eq!(pick(("amd64", Some("v1")), &amd), Some(1));
    assert_eq!(pick(("amd64", Some("v4")), &amd), Some(0));
    assert_eq!(pick(("amd64", v2), &[("amd64", v3)]), None);
    let arm = [("arm", v6), ("arm", v7), ("arm64", v8)];
    assert_eq!(pick(("arm64", v8), &arm), Some(2));
    assert_eq!(pick(("arm", v6), &arm), Some(0));
    // What has no number is taken as it comes.
    assert_eq!(
        pick(("arm64", v8), &[("arm64", None), ("arm64", v8)]),
        Some(1)
    );
    assert_eq!(pick(("arm64", v8), &[("arm64", Some("odd"))]), Some(0));
}

/// CVE-2022-23648 and the like: what an image wants of the machine beside its program is not even read.
#[test]
fn an_images_volumes_hooks_and_checks_are_not_read() {
    let read = |more: Value| {
        let mut config = json!({"Entrypoint": ["/bin/x"], "User": "1000"});
        let own = config.as_object_mut().unwrap();
        own.extend(more.as_object().unwrap().clone());
        let text = json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}, "config": config});
        parse_config(text.to_string().as_bytes()).unwrap().config
    };
    let wants = json!({
        "Volumes": {"/../../etc": {}, "/proc/1/root": {}},
        "OnBuild": ["RUN x"],
        "Healthcheck": {"Test": ["CMD-SHELL", "x"]},
        "Shell": ["/bin/sh"],
        "Annotations": {"run.oci.hooks": "x"},
    });
    assert_eq!(read(wants), read(json!({})));
}

#[test]
fn a_config_with_nulls_reads_as_empty() {
    let text = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": null},
        "config": {"Entrypoint": null, "Cmd": ["sh"], "User": "", "ExposedPorts": {"80/tcp": {}}}});
    let parsed = parse_config(text.to_string().as_bytes()).unwrap();
    assert_eq!(parsed.config.cmd, ["sh"]);
    assert_eq!(parsed.config.exposed_ports, ["80/tcp"]);
    assert_eq!((parsed.config.user, parsed.diff_ids.len()), (None, 0));
    assert!(parse_config(b"{\"rootfs\":{}}").is_err());
}
