//! A packed image as one file: the OCI image layout in a tar archive, as `skopeo`, `podman load` and `ctr import` read
//! it. Layers are read by position, so that a push of the same image may run at the same time.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::json;

use crate::digest::Digest;
use crate::manifest::OCI_MANIFEST;
use crate::pack::PackedImage;
use crate::reference::Reference;

impl PackedImage {
    /// Writes the image as an archive that names it `reference`. The same image gives the same bytes.
    pub fn write_archive(&self, reference: &Reference, to: impl Write) -> io::Result<()> {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": OCI_MANIFEST,
                "digest": self.manifest_digest.to_string(),
                "size": self.manifest.len(),
                "annotations": {
                    "io.containerd.image.name": reference.to_string(),
                    "org.opencontainers.image.ref.name": reference.to_string(),
                },
            }],
        });
        let mut archive = tar::Builder::new(to);
        add(
            &mut archive,
            "oci-layout",
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        add(&mut archive, "index.json", index.to_string().as_bytes())?;
        add(&mut archive, &blob(self.manifest_digest), &self.manifest)?;
        add(&mut archive, &blob(self.config_digest), &self.config)?;
        let mut written = BTreeSet::new();
        for layer in &self.layers {
            // Two layers may be the same.
            if written.insert(layer.digest) {
                let size = layer.section.size();
                let name = blob(layer.digest);
                archive.append_data(&mut header(size), name, layer.section.reader())?;
            }
        }
        archive.into_inner()?.flush()
    }
}

fn blob(digest: Digest) -> String {
    format!("blobs/{}", digest.to_string().replacen(':', "/", 1))
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn add(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(content.len() as u64), name, content)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;
    use std::time::UNIX_EPOCH;

    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::pack::{PackOptions, pack};

    #[test]
    fn every_blob_of_an_archive_has_the_digest_that_its_name_says() {
        let source = tempfile::tempdir().unwrap();
        std::fs::write(source.path().join("hello"), "world").unwrap();
        let options = PackOptions {
            source: source.path().to_path_buf(),
            entrypoint: vec!["/hello".into()],
            cmd: vec![],
            env: vec![],
            labels: BTreeMap::new(),
            working_dir: None,
            user: None,
            stop_signal: None,
            exposed_ports: vec![],
            created: UNIX_EPOCH,
        };
        let packed = pack(&options).unwrap();
        let reference: Reference = "hello:1".parse().unwrap();
        let mut bytes = Vec::new();
        packed.write_archive(&reference, &mut bytes).unwrap();
        let mut again = Vec::new();
        packed.write_archive(&reference, &mut again).unwrap();
        assert_eq!(bytes, again);

        let mut blobs = 0;
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            if let Some(hex) = path.strip_prefix("blobs/sha256/") {
                let digest: String = Sha256::digest(&content)
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                assert_eq!(hex, digest);
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3);
    }
}
