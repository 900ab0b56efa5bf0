//! Files from a server of the test's own into a folder: what comes, what is kept, what is refused and why.

use std::sync::atomic::AtomicU32;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// Answers each path with its own name, `/slow` never, `/none` with 404; counts what it was asked.
async fn server() -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://user:word@{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut line, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut request = vec![0; 8192];
                let length = line.read(&mut request).await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let body = if path.starts_with("/slow") {
                    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
                    let _ = line.write_all(head.as_bytes()).await;
                    return std::future::pending().await;
                } else {
                    path.to_owned()
                };
                let status = if path == "/none" {
                    "404 Not Found"
                } else {
                    "200 OK"
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = line.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, asked)
}

struct Machine {
    dir: tempfile::TempDir,
    config: Config,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["state", "sandbox", "allowed"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let config = Config {
            state_dir: dir.path().join("state"),
            host_path_allow: vec![dir.path().join("allowed")],
            fetch_max_mb: 1,
            ..Config::default()
        };
        Self { dir, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn fetch(&self, uris: &[FetchUri]) -> Result<(), FetchError> {
        let fetcher = Fetcher::open(&self.config).unwrap();
        let (told, _) = watch::channel(String::new());
        fetcher
            .fetch(
                uris,
                &self.path("sandbox"),
                &CancellationToken::new(),
                &told,
            )
            .await
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path("sandbox").join(name)).unwrap()
    }
}

fn uri(address: impl Into<String>) -> FetchUri {
    FetchUri {
        uri: address.into(),
        extract: true,
        executable: false,
        cache: false,
        dest_path: None,
    }
}

fn message(error: FetchError) -> String {
    match error {
        FetchError::Failed(message) => message,
        other @ (FetchError::Cancelled | FetchError::NotAllowed(_)) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn files_come_in_order_under_their_names_and_what_is_kept_is_asked_for_once() {
    let (server, asked) = server().await;
    let machine = Machine::new();
    let kept = FetchUri {
        cache: true,
        executable: true,
        ..uri(format!("{server}/bin/tool?v=1"))
    };
    let placed = FetchUri {
        dest_path: Some("etc/conf".into()),
        ..uri(format!("{server}/first"))
    };
    let over = FetchUri {
        dest_path: Some("etc/conf".into()),
        ..uri(format!("{server}/second"))
    };
    machine.fetch(&[kept.clone(), placed, over]).await.unwrap();
    assert_eq!(machine.text("tool"), "/bin/tool?v=1");
    assert_eq!(machine.text("etc/conf"), "/second");
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let about = fs::metadata(machine.path("sandbox").join(name)).unwrap();
        about.permissions().mode() & 0o7777
    };
    assert_eq!((mode("tool"), mode("etc/conf")), (0o755, 0o644));
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    fs::remove_file(machine.path("sandbox/tool")).unwrap();
    // By the next agent, too.
    machine.fetch(&[kept]).await.unwrap();
    assert_eq!(machine.text("tool"), "/bin/tool?v=1");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    let names = fs::read_dir(machine.path("sandbox")).unwrap().count();
    assert_eq!(names, 2, "nothing else is left there");
}

#[tokio::test]
async fn a_failure_names_the_address_without_its_secrets_and_the_cause() {
    let (server, _) = server().await;
    let machine = Machine::new();
    let host = server.rsplit('@').next().unwrap();
    let failed = machine.fetch(&[uri(format!("{server}/none"))]).await;
    assert_eq!(
        message(failed.unwrap_err()),
        format!("http://{host}/none: the server answered 404 Not Found")
    );
    // It says it is an archive and is none.
    let failed = machine
        .fetch(&[uri(format!("{server}/a.tar.gz?secret"))])
        .await;
    let said = message(failed.unwrap_err());
    assert!(
        said.starts_with(&format!(
            "http://{host}/a.tar.gz?…: the compressed stream is damaged"
        )),
        "{said}"
    );
    let failed = machine.fetch(&[uri("http://127.0.0.1:1/a")]).await;
    let said = message(failed.unwrap_err());
    assert!(said.starts_with("http://127.0.0.1:1/a: "), "{said}");
    assert!(said.contains("refused"), "{said}");
}

#[tokio::test]
async fn files_of_the_machine_are_only_those_that_the_operator_allows() {
    let machine = Machine::new();
    let allowed = machine.path("allowed");
    fs::write(allowed.join("conf"), "text").unwrap();
    fs::write(machine.path("secret"), "no").unwrap();
    std::os::unix::fs::symlink(machine.path("secret"), allowed.join("link")).unwrap();
    nix::unistd::mkfifo(
        &allowed.join("pipe"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .unwrap();
    let file = |name: &str| uri(format!("file://{}", allowed.join(name).display()));
    machine.fetch(&[file("conf")]).await.unwrap();
    assert_eq!(machine.text("conf"), "text");
    let refused = machine.fetch(&[file("link")]).await.unwrap_err();
    assert!(
        matches!(&refused, FetchError::NotAllowed(said) if said.contains("host_path_allow")),
        "{refused:?}"
    );
    let outside = uri(machine.path("secret").display().to_string());
    let refused = machine.fetch(&[outside]).await.unwrap_err();
    assert!(matches!(refused, FetchError::NotAllowed(_)), "{refused:?}");
    let said = message(machine.fetch(&[file("pipe")]).await.unwrap_err());
    assert!(said.ends_with("it is no regular file"), "{said}");
    let said = message(machine.fetch(&[file("missing")]).await.unwrap_err());
    assert!(said.contains("No such file"), "{said}");
}

#[tokio::test]
async fn all_files_of_a_task_together_have_a_bound() {
    let machine = Machine::new();
    fs::write(machine.path("allowed/big"), vec![1; 700 << 10]).unwrap();
    let big = |to: &str| FetchUri {
        dest_path: Some(to.into()),
        ..uri(machine.path("allowed/big").display().to_string())
    };
    machine.fetch(&[big("one")]).await.unwrap();
    let said = message(machine.fetch(&[big("one"), big("two")]).await.unwrap_err());
    assert!(said.contains("fetch_max_mb"), "{said}");
}

#[tokio::test]
async fn a_launch_that_is_given_up_stops_in_the_middle() {
    let (server, asked) = server().await;
    let machine = Machine::new();
    let fetcher = Arc::new(Fetcher::open(&machine.config).unwrap());
    let cancelled = CancellationToken::new();
    let fetching = {
        let (fetcher, sandbox) = (Arc::clone(&fetcher), machine.path("sandbox"));
        let cancelled = cancelled.clone();
        tokio::spawn(async move {
            let (told, _) = watch::channel(String::new());
            let uris = [uri(format!("{server}/slow"))];
            fetcher.fetch(&uris, &sandbox, &cancelled, &told).await
        })
    };
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, async {
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    cancelled.cancel();
    let ended = tokio::time::timeout(patience, fetching).await.unwrap();
    assert!(matches!(ended.unwrap(), Err(FetchError::Cancelled)));
}

#[tokio::test]
async fn a_server_that_says_nothing_more_costs_the_deadline_and_no_longer() {
    let (server, _) = server().await;
    let mut machine = Machine::new();
    machine.config.fetch_deadline_secs = 1;
    let said = message(
        machine
            .fetch(&[uri(format!("{server}/slow"))])
            .await
            .unwrap_err(),
    );
    assert!(said.ends_with("it did not come within 1 s"), "{said}");
}

#[tokio::test]
async fn archives_of_mesos_are_unpacked_by_their_names_and_a_damaged_one_says_so() {
    use std::io::Write as _;

    let machine = Machine::new();
    // One empty file, `here`.
    let mut tar = vec![0; 1536];
    tar[..4].copy_from_slice(b"here");
    tar[100..107].copy_from_slice(b"0000644");
    tar[124..135].copy_from_slice(b"00000000000");
    tar[156] = b'0';
    tar[257..265].copy_from_slice(b"ustar\x0000");
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
    tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&tar).unwrap();
    let bzip2 = bzip2.finish().unwrap();
    let options = lzma_rust2::XzOptions::with_preset(0);
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    xz.write_all(&tar).unwrap();
    let xz = xz.finish().unwrap();
    for (name, bytes) in [
        ("a.tbz2", &bzip2),
        ("a.tar.bz2", &bzip2),
        ("a.txz", &xz),
        ("a.tar.xz", &xz),
    ] {
        let path = machine.path("allowed").join(name);
        fs::write(&path, bytes).unwrap();
        let uris = [uri(path.display().to_string())];
        machine.fetch(&uris).await.unwrap();
        assert_eq!(machine.text("here"), "", "{name}");
        fs::remove_file(machine.path("sandbox/here")).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
        let said = message(machine.fetch(&uris).await.unwrap_err());
        let damaged = format!("/{name}: the compressed stream is damaged: ");
        assert!(said.contains(&damaged), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }
    // As in Mesos one file by itself is not.
    let alone = machine.path("allowed/alone.xz");
    fs::write(&alone, &xz).unwrap();
    machine
        .fetch(&[uri(alone.display().to_string())])
        .await
        .unwrap();
    assert_eq!(fs::read(machine.path("sandbox/alone.xz")).unwrap(), xz);
}
