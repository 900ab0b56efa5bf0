//! What the tests of this crate share: a real registry, one that misbehaves, and a builder of images.
#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod archive;
pub(crate) mod canary;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mezzo_images::{Digest, ImageStore, PullError, PullPolicy, Reference, StoreConfig};
use serde_json::{Value, json};

#[allow(unused_imports, reason = "each test file uses its own part")]
pub(crate) use archive::Archive;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// True when the test cannot run; says so where it is seen.
pub(crate) fn skip_unless_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    !root
}

pub(crate) fn host_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A store in a folder of its own, with short waits.
pub(crate) fn config(root: &Path) -> StoreConfig {
    StoreConfig {
        root: root.to_path_buf(),
        pull_deadline: Duration::from_secs(20),
        stall_timeout: Duration::from_millis(500),
        auth_file: None,
        ..StoreConfig::default()
    }
}

pub(crate) async fn open(root: &Path) -> ImageStore {
    ImageStore::open(config(root))
        .await
        .expect("the store opens")
}

/// Debian's registry on a free port of the loopback address.
pub(crate) struct Registry {
    child: Child,
    pub(crate) host: String,
    _folder: tempfile::TempDir,
}

impl Registry {
    /// None, loudly, if the program is not installed.
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = docker_registry() else {
            eprintln!("skipped: needs Debian's docker-registry");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let host = format!("127.0.0.1:{port}");
            let file = folder.path().join("config.yml");
            let data = folder.path().join("data");
            let text = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
                data.display()
            );
            std::fs::write(&file, text).unwrap();
            let mut child = Command::new(&program)
                .arg("serve")
                .arg(&file)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
                if TcpStream::connect(&host).is_ok() {
                    return Some(Self {
                        child,
                        host,
                        _folder: folder,
                    });
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("docker-registry did not come up");
    }

    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host).parse().unwrap()
    }
}

/// From the PATH, or where `cargo xtask` unpacked Debian's package.
fn docker_registry() -> Option<PathBuf> {
    let works = |program: &Path| {
        let mut command = Command::new(program);
        let told = command.arg("--version").stdout(Stdio::null()).status();
        told.is_ok_and(|status| status.success())
    };
    let unpacked = "../target/tools/docker-registry/usr/bin/docker-registry";
    let places = [
        PathBuf::from("docker-registry"),
        Path::new(env!("CARGO_MANIFEST_DIR")).join(unpacked),
    ];
    places.into_iter().find(|program| works(program))
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the fake registry does with a request.
#[derive(Clone)]
pub(crate) enum Answer {
    /// Status, content type, body.
    Full(u16, String, Vec<u8>),
    /// Says more than it sends, then hangs up.
    Truncated(Vec<u8>, usize),
    /// Says nothing at all.
    Hang,
    /// Status and raw header lines, empty body.
    Headers(u16, String),
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    /// How often this path was asked for before.
    pub(crate) before: usize,
}

/// A registry that does what a test wants.
pub(crate) struct Fake {
    pub(crate) host: String,
    stop: Arc<AtomicBool>,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    pub(crate) hung: Arc<AtomicUsize>,
    accept: Option<std::thread::JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let hung = Arc::new(AtomicUsize::new(0));
        let (stopped, seen, hangs) = (Arc::clone(&stop), Arc::clone(&requests), Arc::clone(&hung));
        let handler: Arc<Handler> = Arc::new(handler);
        let accept = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (handler, seen, hangs, stopped) = (
                    Arc::clone(&handler),
                    Arc::clone(&seen),
                    Arc::clone(&hangs),
                    Arc::clone(&stopped),
                );
                std::thread::spawn(move || serve(stream, &*handler, &seen, &hangs, &stopped));
            }
        });
        Self {
            host,
            stop,
            requests,
            hung,
            accept: Some(accept),
        }
    }

    /// Serves the blobs and manifests of images honestly.
    pub(crate) fn serving(images: &[&TestImage]) -> Self {
        let answers = answers(images);
        Self::start(move |request| {
            answers
                .get(&request.path)
                .cloned()
                .unwrap_or_else(not_found)
        })
    }

    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host).parse().unwrap()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.requests
            .lock()
            .unwrap()
            .iter()
            .filter(|path| path.contains(part))
            .count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.host);
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

pub(crate) fn not_found() -> Answer {
    let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
    Answer::Full(404, "application/json".into(), body.to_vec())
}

/// Path to answer, for all images.
pub(crate) fn answers(images: &[&TestImage]) -> HashMap<String, Answer> {
    let mut answers = HashMap::new();
    for image in images {
        let name = &image.name;
        for (media_type, bytes) in &image.manifests {
            let answer = Answer::Full(200, media_type.clone(), bytes.clone());
            answers.insert(
                format!("/v2/{name}/manifests/{}", Digest::of(bytes)),
                answer.clone(),
            );
            answers.insert(format!("/v2/{name}/manifests/latest"), answer);
        }
        for blob in &image.blobs {
            let answer = Answer::Full(200, "application/octet-stream".into(), blob.clone());
            answers.insert(format!("/v2/{name}/blobs/{}", Digest::of(blob)), answer);
        }
    }
    answers
}

fn serve(
    stream: TcpStream,
    handler: &Handler,
    seen: &Mutex<Vec<String>>,
    hangs: &AtomicUsize,
    stopped: &AtomicBool,
) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut out = stream;
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or("").to_string();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((key, value)) = line.split_once(':') {
            headers.insert(key.trim().to_lowercase(), value.trim().to_string());
        }
    }
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|earlier| **earlier == path).count();
        seen.push(path.clone());
        before
    };
    let head = |status: u16, length: usize, rest: &str| {
        format!(
            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{rest}\r\n"
        )
    };
    let answer = handler(&Request {
        path,
        headers,
        before,
    });
    let _ = match answer {
        Answer::Full(status, media_type, body) => out
            .write_all(
                head(
                    status,
                    body.len(),
                    &format!("Content-Type: {media_type}\r\n"),
                )
                .as_bytes(),
            )
            .and_then(|()| out.write_all(&body)),
        Answer::Truncated(body, claimed) => out
            .write_all(head(200, claimed, "").as_bytes())
            .and_then(|()| out.write_all(&body)),
        Answer::Headers(status, lines) => out.write_all(head(status, 0, &lines).as_bytes()),
        Answer::Hang => {
            hangs.fetch_add(1, Ordering::SeqCst);
            // Until the client hangs up.
            let _ = out.set_read_timeout(Some(Duration::from_millis(50)));
            let mut byte = [0];
            while !stopped.load(Ordering::SeqCst) {
                if let Ok(0) = reader.read(&mut byte) {
                    break;
                }
            }
            Ok(())
        }
    };
}

/// An image in memory.
#[derive(Clone)]
pub(crate) struct TestImage {
    pub(crate) name: String,
    /// Media type and bytes; the last one is what the tag stands for.
    pub(crate) manifests: Vec<(String, Vec<u8>)>,
    pub(crate) blobs: Vec<Vec<u8>>,
}

#[derive(Clone, Copy)]
pub(crate) enum Packed {
    Plain,
    Gzip,
    Zstd,
}

/// Builds an image of layers that are given as archives.
pub(crate) fn image(name: &str, layers: &[(Vec<u8>, Packed)]) -> TestImage {
    image_for(name, host_arch(), layers)
}

pub(crate) fn image_for(name: &str, architecture: &str, layers: &[(Vec<u8>, Packed)]) -> TestImage {
    let mut blobs = Vec::new();
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for (archive, packed) in layers {
        let (bytes, suffix) = match packed {
            Packed::Plain => (archive.clone(), ""),
            Packed::Gzip => (gzip(archive), "+gzip"),
            Packed::Zstd => (zstd::encode_all(archive.as_slice(), 3).unwrap(), "+zstd"),
        };
        diff_ids.push(Digest::of(archive).to_string());
        descriptors.push(descriptor(&format!("{LAYER}{suffix}"), &bytes));
        blobs.push(bytes);
    }
    let config = json!({"architecture": architecture, "os": "linux", "config": {"Cmd": ["/x"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string().into_bytes();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, &config),
        "layers": descriptors});
    blobs.push(config);
    TestImage {
        name: name.into(),
        manifests: vec![(OCI_MANIFEST.into(), manifest.to_string().into_bytes())],
        blobs,
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Pulls one image with these layers into a fresh store below `folder`; returns the topmost layer's directory.
pub(crate) async fn pull_layers(
    folder: &Path,
    layers: &[(Vec<u8>, Packed)],
) -> Result<(ImageStore, Vec<PathBuf>), PullError> {
    let fake = Fake::serving(&[&image("x", layers)]);
    let store = open(&folder.join("store")).await;
    let image = store
        .pull(&fake.reference("x"), PullPolicy::IfNotPresent, None)
        .await?;
    let snapshot = store
        .snapshot(&image, "look")
        .expect("a snapshot of what was just pulled");
    Ok((store, snapshot.lowers))
}
