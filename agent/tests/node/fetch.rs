//! Files that tasks fetch: from a server of the test's own into a real sandbox, and what is told when they do not come.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use mezzo_api::proto::{
    self, FetchUri, Reason,
    TaskState::{TaskError, TaskFailed, TaskFinished, TaskKilled, TaskRunning, TaskStarting},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::bench::{Bench, Parts, eventually, task};

/// Serves these files; of `/slow…` only the half, and then nothing.
struct Web {
    address: String,
    asked: Arc<AtomicU32>,
}

impl Web {
    async fn start(files: BTreeMap<&'static str, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicU32::new(0));
        let (count, files) = (Arc::clone(&asked), Arc::new(files));
        tokio::spawn(async move {
            while let Ok((mut line, _)) = listener.accept().await {
                let (count, files) = (Arc::clone(&count), Arc::clone(&files));
                tokio::spawn(async move {
                    let mut request = vec![0; 8192];
                    let length = line.read(&mut request).await.unwrap_or(0);
                    count.fetch_add(1, Ordering::SeqCst);
                    let request = String::from_utf8_lossy(&request[..length]).into_owned();
                    let path = request.split(' ').nth(1).unwrap_or_default();
                    let Some(body) = files.get(path) else {
                        let none = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
                        let _ = line.write_all(none.as_bytes()).await;
                        return;
                    };
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    let _ = line.write_all(head.as_bytes()).await;
                    if path.starts_with("/slow") {
                        let _ = line.write_all(&body[..body.len() / 2]).await;
                        std::future::pending::<()>().await;
                    }
                    let _ = line.write_all(body).await;
                });
            }
        });
        Self { address, asked }
    }

    fn uri(&self, path: &str) -> FetchUri {
        FetchUri {
            uri: format!("{}{path}", self.address),
            extract: true,
            ..FetchUri::default()
        }
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A task that runs a program of its sandbox.
fn fetching(id: &str, command: &[&str], fetch: Vec<FetchUri>) -> proto::TaskInfo {
    let mut info = task(id, &[]);
    let container = info.container.as_mut().unwrap();
    container.command = command.iter().map(|part| (*part).to_owned()).collect();
    container.fetch = fetch;
    info
}

/// A tar file with the tests' program as `bin/tool`, of which nobody but the owner has anything.
fn archive(bench: &Bench) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (bin, tool) = (dir.path().join("bin"), dir.path().join("bin/tool"));
    fs::create_dir(&bin).unwrap();
    fs::write(&tool, bench.program()).unwrap();
    for path in [&bin, &tool] {
        fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
    }
    let status = std::process::Command::new("tar")
        .args(["cf", "tool.tar", "bin"])
        .current_dir(dir.path())
        .status()
        .unwrap();
    assert!(status.success());
    fs::read(dir.path().join("tool.tar")).unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(0);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) async fn what_a_task_fetches_is_in_its_sandbox_before_it_starts(bench: &mut Bench) {
    let packed = archive(bench);
    let files = [
        ("/tool.tbz2", bzip2(&packed)),
        ("/tool.tar.xz", xz(&packed)),
        ("/tool.tar", packed),
        ("/run?v=1", bench.program().to_vec()),
        ("/slow", vec![7; 1 << 20]),
    ];
    let web = Web::start(files.into()).await;
    let passwd = Some("web:x:1234:567::/:/bin/probe\n");
    let parts = Parts {
        passwd,
        ..Parts::default()
    };
    bench.import("users:1", &[], parts).await;
    bench.config.allow_host_users = true;
    bench.start(1).await;

    // Out of archives, the user's own, who may be known by name to the image alone; with users of its own and the machine's.
    for (id, path, user, host_users, owner) in [
        ("number", "/tool.tar", "1000:1001", false, (1000, 1001)),
        ("name", "/tool.tbz2", "web", false, (1234, 567)),
        ("machine", "/tool.tar.xz", "web", true, (1234, 567)),
        ("root", "/tool.tbz2", "", false, (0, 0)),
    ] {
        let command = ["/mnt/mesos/sandbox/bin/tool", "sleep"];
        let mut unpacked = fetching(id, &command, vec![web.uri(path)]);
        let container = unpacked.container.as_mut().unwrap();
        container.image = "users:1".into();
        container.user = user.into();
        container.host_users = host_users;
        bench.launch(unpacked).await;
        let running = bench.master.any(id, &[TaskRunning, TaskFailed]).await;
        assert_eq!(running.state(), TaskRunning, "{id}: {}", running.message);
        let container = running.container.unwrap().container_id;
        let sandbox = bench.container_dir(&container).join("sandbox");
        let owner_of = |name: &str| {
            let about = fs::symlink_metadata(sandbox.join(name)).unwrap();
            (about.uid(), about.gid())
        };
        for name in ["bin", "bin/tool", &path[1..]] {
            assert_eq!(owner_of(name), owner, "{id}: {name}");
        }
        // As the sandbox of every task.
        assert_eq!(owner_of(""), (0, 0), "{id}");
        bench.kill_task(id, None).await;
        let end = bench.master.end(id).await;
        assert_eq!(end.state(), TaskKilled, "{id}: {}", end.message);
    }

    // As a program, in a place of its own, kept for the next task: asked for once.
    let before = web.asked();
    for id in ["first", "second"] {
        let run = FetchUri {
            executable: true,
            cache: true,
            dest_path: "tools/run".into(),
            ..web.uri("/run?v=1")
        };
        let command = ["/mnt/mezzo/sandbox/tools/run", "exit", "7"];
        bench.launch(fetching(id, &command, vec![run])).await;
        let end = bench.master.end(id).await;
        assert_eq!(end.state(), TaskFailed, "{}", end.message);
        assert_eq!(end.reason(), Reason::CommandExited, "{}", end.message);
    }
    assert_eq!(web.asked() - before, 1);

    // What does not come, and what may not.
    let mut none = web.uri("/none?signature=secret");
    none.extract = false;
    bench.launch(fetching("none", &["x"], vec![none])).await;
    let end = bench.master.end("none").await;
    assert_eq!(
        (end.state(), end.reason()),
        (TaskFailed, Reason::FetchFailed)
    );
    assert_eq!(
        end.message,
        format!(
            "fetch failed: {}/none?…: the server answered 404 Not Found",
            web.address
        )
    );
    let secret = FetchUri {
        uri: "file:///etc/shadow".into(),
        ..FetchUri::default()
    };
    bench.launch(fetching("secret", &["x"], vec![secret])).await;
    let end = bench.master.end("secret").await;
    assert_eq!(
        (end.state(), end.reason()),
        (TaskError, Reason::TaskUnauthorized)
    );
    assert!(end.message.contains("host_path_allow"), "{}", end.message);

    // One that takes its time says so, and can be killed.
    let slow = vec![web.uri("/slow")];
    bench.launch(fetching("slow", &["x"], slow)).await;
    let told = format!("fetching {}/slow, 50 %", web.address);
    eventually("how far it is", || {
        bench.master.statuses().iter().any(|status| {
            status.task_id == "slow" && status.state() == TaskStarting && status.message == told
        })
    })
    .await;
    bench.kill_task("slow", None).await;
    let end = bench.master.end("slow").await;
    assert_eq!(end.state(), TaskKilled, "{}", end.message);
}

pub(crate) async fn a_killed_agent_leaves_no_half_fetched_file(bench: &mut Bench) {
    let program = bench.program().to_vec();
    let web = Web::start([("/slow", program)].into()).await;
    bench.start(1).await;
    let kept = FetchUri {
        cache: true,
        executable: true,
        ..web.uri("/slow")
    };
    let command = ["/mnt/mezzo/sandbox/slow", "exit", "0"];
    bench
        .launch(fetching("cut", &command, vec![kept.clone()]))
        .await;
    let folder = bench.config.state_dir.join("fetch");
    let names = || -> Vec<String> {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.collect()
    };
    eventually("it is fetching", || {
        names().iter().any(|name| name.starts_with(".new-"))
    })
    .await;
    bench.kill_agent().await;
    bench.start(2).await;
    let end = bench.master.end("cut").await;
    assert_eq!(end.reason(), Reason::AgentRestarted, "{}", end.message);
    assert_eq!(names(), [""; 0], "nothing half is left");
}

/// The task with a directory of its sandbox at `/data`.
fn with_data(mut info: proto::TaskInfo, path: &str, read_only: bool) -> proto::TaskInfo {
    let container = info.container.as_mut().unwrap();
    container.volumes.push(proto::Volume {
        container_path: "/data".into(),
        read_only,
        source: Some(proto::volume::Source::HostPath(path.into())),
    });
    info
}

pub(crate) async fn a_directory_of_the_sandbox_is_mounted_and_no_link_leads_out_of_it(
    bench: &mut Bench,
) {
    // An archive with two links, out of the sandbox and to nowhere.
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir_all(dir.path().join("in/sub")).unwrap();
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, dir.path().join("in/out")).unwrap();
    std::os::unix::fs::symlink("../../../../..", dir.path().join("in/sub/up")).unwrap();
    let status = std::process::Command::new("tar")
        .args(["cf", "links.tar", "-C", "in", "out", "sub"])
        .current_dir(dir.path())
        .status()
        .unwrap();
    assert!(status.success());
    let files = [(
        "/links.tar",
        fs::read(dir.path().join("links.tar")).unwrap(),
    )];
    let web = Web::start(files.into()).await;
    bench.config.allow_host_users = true;
    bench.start(1).await;

    // Made for the task's user, with users of its own and the machine's; no list of the operator's is asked.
    for (id, user, host_users, owner) in [
        ("own", "1000:1001", false, (1000, 1001)),
        ("machine", "1000:1001", true, (1000, 1001)),
        ("root", "", false, (0, 0)),
    ] {
        let mut info = with_data(task(id, &["put", "/data/file"]), "some/data", false);
        let container = info.container.as_mut().unwrap();
        container.user = user.into();
        container.host_users = host_users;
        bench.launch(info).await;
        let running = bench.master.any(id, &[TaskRunning, TaskFailed]).await;
        assert_eq!(running.state(), TaskRunning, "{id}: {}", running.message);
        let end = bench.master.end(id).await;
        assert_eq!(end.state(), TaskFinished, "{id}: {}", end.message);
        let container = running.container.unwrap().container_id;
        let sandbox = bench.container_dir(&container).join("sandbox");
        for name in ["some", "some/data", "some/data/file"] {
            let about = fs::symlink_metadata(sandbox.join(name)).unwrap();
            assert_eq!((about.uid(), about.gid()), owner, "{id}: {name}");
        }
        let text = fs::read_to_string(sandbox.join("some/data/file")).unwrap();
        assert_eq!(text, "put /data/file\n", "{id}");
    }
    let info = with_data(task("reads", &["put", "/data/never"]), "data", true);
    bench.launch(info).await;
    let end = bench.master.end("reads").await;
    assert_eq!(end.state(), TaskFailed, "{}", end.message);

    // Through a link, however the archive has it, nothing is mounted or made.
    for (id, path, link) in [
        ("out", "out", "out"),
        ("beneath", "out/made", "out"),
        ("up", "sub/up/etc", "up"),
    ] {
        let mut info = task(id, &["put", "/data/never"]);
        info.container.as_mut().unwrap().fetch = vec![web.uri("/links.tar")];
        bench.launch(with_data(info, path, false)).await;
        let end = bench.master.end(id).await;
        assert_eq!(
            (end.state(), end.reason()),
            (TaskFailed, Reason::ContainerLaunchFailed),
            "{id}: {}",
            end.message
        );
        let wanted =
            format!("container.volumes[0].host_path: {path} in the sandbox: {link:?} is a link");
        assert!(end.message.contains(&wanted), "{id}: {}", end.message);
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    bench
        .launch(with_data(task("bad", &["x"]), "a/../b", false))
        .await;
    let end = bench.master.end("bad").await;
    assert_eq!(end.state(), TaskError, "{}", end.message);
    assert!(end.message.contains("host_path"), "{}", end.message);
}
