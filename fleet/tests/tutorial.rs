//! The Python program of `docs/framework-tutorial.md`, as it stands there: it runs tasks, survives a restart of its master
//! and one of its own, and reconciles.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use common::{Master, PATIENCE, fleet};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

const TASKS: u64 = 5;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// All blocks of Python, in their order.
fn program() -> String {
    let document = std::fs::read_to_string(root().join("docs/framework-tutorial.md")).unwrap();
    let blocks = document.split("```python\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap())
        .collect()
}

/// As the document says.
async fn generate(python: &Path, stubs: &Path) {
    std::fs::create_dir_all(stubs).unwrap();
    let protos = std::fs::read_dir(root().join("api/proto/mezzo/v1")).unwrap();
    let out = stubs.display();
    let status = Command::new(python)
        .args(["-m", "grpc_tools.protoc", "-Iapi/proto"])
        .args([
            format!("--python_out={out}"),
            format!("--grpc_python_out={out}"),
        ])
        .args(protos.map(|proto| {
            proto
                .unwrap()
                .path()
                .strip_prefix(root())
                .unwrap()
                .to_owned()
        }))
        .current_dir(root())
        .status();
    assert!(timeout(PATIENCE, status).await.unwrap().unwrap().success());
}

fn start(python: &Path, dir: &Path, master: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(python)
        .arg(dir.join("keeper.py"))
        .args(["--count", &TASKS.to_string(), "--state", "keeper.json"])
        // Nobody listens at the first.
        .args(["--master", &format!("127.0.0.1:9,{master}")])
        .env("PYTHONPATH", dir.join("stubs"))
        .current_dir(dir)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

async fn until(lines: &mut Lines<BufReader<ChildStdout>>, what: &str) {
    let look = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            println!("{line}");
            if line.contains(what) {
                return;
            }
        }
        panic!("the program ended before {what:?}");
    };
    timeout(PATIENCE, look)
        .await
        .unwrap_or_else(|_| panic!("no {what:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_of_the_tutorial_keeps_its_tasks_over_restarts() {
    let python = std::env::var_os("MEZZO_PYTHON").map(PathBuf::from);
    let python = python.unwrap_or_else(|| root().join("target/tools/python/bin/python"));
    if !python.is_file() {
        eprintln!("skipped: needs a Python with grpcio, which `cargo xtask test e2e` brings");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("keeper.py"), program()).unwrap();
    generate(&python, &dir.path().join("stubs")).await;
    let state = dir.path().join("master");
    let master = Master::any(&state).await;
    let fleet = fleet(master.address, 3, |_| {}).await;
    let address = master.address.to_string();

    let (mut keeper, mut told) = start(&python, dir.path(), &address);
    until(&mut told, &format!("{TASKS} running")).await;
    let master = master.restart(&state).await;
    until(&mut told, "no subscription").await;
    until(&mut told, "reconciled").await;
    keeper.kill().await.unwrap();
    let (mut keeper, mut told) = start(&python, dir.path(), &address);
    until(&mut told, &format!("asks for {TASKS}")).await;
    until(&mut told, "reconciled").await;

    let counts = fleet.counts();
    assert_eq!(
        (counts.launches, counts.tasks),
        (TASKS, TASKS),
        "each ran once, and runs"
    );
    keeper.kill().await.unwrap();
    fleet.stop().await;
    master.stop().await;
}
