//! What containers have in memory: secrets, that no disk and no record ever holds, and memory file systems, that are
//! charged to whom they belong.

#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::{Node, id, within};
use mezzo_runtime::{
    ContainerSpec, ContainerState, Exit, MountSpec, SecretBytes, SecretFile, Secrets, StartError,
    UserNamespace, UserRanges,
};

const SECRET: &str = "hush-b1946ac92492d2347c6235b4d2611184";

fn told(target: &str) -> Secrets {
    let bytes = || SecretBytes::new(SECRET.into());
    Secrets {
        files: vec![SecretFile {
            target: target.into(),
            content: bytes(),
        }],
        env: vec![("TOKEN".into(), bytes())],
    }
}

/// Files below a directory that hold the secret, links left alone.
fn holders(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // Keepers work meanwhile: what is gone holds nothing.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            found.extend(holders(&path));
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            if bytes
                .windows(SECRET.len())
                .any(|part| part == SECRET.as_bytes())
            {
                found.push(path);
            }
        }
    }
    found
}

async fn pid(node: &Node, name: &str) -> i32 {
    match node
        .runtime()
        .status(&id(name))
        .await
        .unwrap()
        .unwrap()
        .state
    {
        ContainerState::Running { pid, .. } => pid,
        other @ (ContainerState::Starting | ContainerState::Exited(_)) => panic!("{other:?}"),
    }
}

async fn in_memory_and_nowhere_else(users: UserNamespace) {
    let Some(mut node) = Node::new().await else {
        return;
    };
    let spec = |node: &Node, args: &[&str]| -> ContainerSpec {
        let mut spec = node.spec(args);
        spec.user_namespace = users;
        spec.user = "web".parse().unwrap();
        spec.secrets = told("/run/secrets/key");
        spec
    };
    let sleeper = spec(&node, &["sleep"]);
    node.runtime().start(&id("holds"), sleeper).await.unwrap();
    let inside = PathBuf::from(format!(
        "/proc/{}/root/run/secrets/key",
        pid(&node, "holds").await
    ));
    assert_eq!(fs::read_to_string(&inside).unwrap(), SECRET);
    let status = fs::metadata(&inside).unwrap();
    let (uid, gid) = match users {
        UserNamespace::Host => (1000, 1001),
        UserNamespace::Own => {
            let first = UserRanges::default().first;
            (first + 1000, first + 1001)
        }
    };
    assert_eq!(
        (status.mode() & 0o7777, status.uid(), status.gid()),
        (0o400, uid, gid)
    );
    let kind = nix::sys::statfs::statfs(&inside).unwrap().filesystem_type();
    assert_eq!(kind, nix::sys::statfs::TMPFS_MAGIC);
    // No record, no file of the state, nothing that the container's layers keep.
    assert_eq!(holders(node.path()), Vec::<PathBuf>::new());
    // Nor does the host's table of mounts know of it.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("/run/secrets/key"));
    // Another runtime has nothing to give it, and it has it still.
    node.open().await;
    assert_eq!(fs::read_to_string(&inside).unwrap(), SECRET);
    // The program itself reads it, has the variable, and changes nothing.
    let reads = spec(&node, &["cat", "/run/secrets/key"]);
    assert_eq!(node.run("reads", reads).await.exit, Exit::Code(0));
    assert!(node.stdout("reads").contains(SECRET));
    let env = spec(&node, &["env"]);
    assert_eq!(node.run("env", env).await.exit, Exit::Code(0));
    assert!(node.stdout("env").contains(&format!("TOKEN={SECRET}\n")));
    let writes = spec(&node, &["touch", "/run/secrets/key"]);
    assert_ne!(node.run("writes", writes).await.exit, Exit::Code(0));
    within(
        node.runtime()
            .stop(&id("holds"), std::time::Duration::ZERO, 9),
    )
    .await
    .unwrap();
    assert!(!inside.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_its_users_in_memory_and_nowhere_else() {
    in_memory_and_nowhere_else(UserNamespace::Own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_its_users_also_with_the_hosts_users() {
    in_memory_and_nowhere_else(UserNamespace::Host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_cannot_be_given_is_named_and_not_shown() {
    let Some(node) = Node::new().await else {
        return;
    };
    let refused = async |name: &str, secrets: Secrets| {
        let mut spec = node.spec(&["sleep"]);
        spec.secrets = secrets;
        let error = node.runtime().start(&id(name), spec).await.unwrap_err();
        let StartError::BadSpec { problem, .. } = error else {
            panic!("{error}");
        };
        assert!(!problem.problem.contains(SECRET), "{problem}");
        problem.field
    };
    for target in ["/proc/key", "/sys/key", "relative", "/a/../b", "/"] {
        assert_eq!(
            refused("target", told(target)).await,
            "secrets.files[0].target",
            "{target}"
        );
    }
    let mut binary = told("/key");
    binary.env[0].1 = SecretBytes::new(vec![1, 0, 2]);
    assert_eq!(refused("binary", binary).await, "secrets.env[0]");
    let mut large = told("/key");
    large.files[0].content = SecretBytes::new(vec![1; (4 << 20) + 1]);
    assert_eq!(refused("large", large).await, "secrets");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_file_system_has_its_size_and_counts_as_memory() {
    let Some(node) = Node::new().await else {
        return;
    };
    let with = |size_mb: u64, args: &[&str]| {
        let mut spec = node.spec(args);
        spec.user_namespace = UserNamespace::Own;
        spec.limits.memory_bytes = Some(24 << 20);
        spec.mounts.push(MountSpec::Tmpfs {
            target: "/scratch".into(),
            size_bytes: size_mb << 20,
            mode: 0o1777,
        });
        spec
    };
    // Its own size refuses more.
    let full = node
        .run("full", with(2, &["store", "8", "/scratch/file"]))
        .await;
    assert_eq!(full.exit, Exit::Code(1));
    assert!(
        node.stdout("full").contains("No space left"),
        "{}",
        node.stdout("full")
    );
    // What fits is in the container's account.
    let fits = with(16, &["store", "12", "/scratch/file"]);
    node.runtime().start(&id("fits"), fits).await.unwrap();
    node.await_output("fits", "stored").await;
    let usage = node.runtime().usage(&id("fits")).await.unwrap();
    assert!(usage.memory_bytes >= Some(12 << 20), "{usage:?}");
    // And what is beyond the memory limit ends it, whatever the file system's size.
    let beyond = node
        .run("beyond", with(64, &["store", "48", "/scratch/file"]))
        .await;
    assert!(beyond.oom_killed, "{beyond:?}");
}
