//! What a task has mounted beside its image: paths of the machine, where the operator allows them, and memory.

use std::{fs, os::unix::fs::symlink, path::Path};

use mezzo_api::proto::{
    self, Reason,
    TaskState::{TaskError, TaskFailed, TaskFinished, TaskRunning},
};
use nix::sys::statvfs::statvfs;

use crate::bench::{Bench, eventually, said, task};

fn with(
    mut info: proto::TaskInfo,
    container_path: &str,
    read_only: bool,
    source: proto::volume::Source,
) -> proto::TaskInfo {
    let container = info.container.as_mut().unwrap();
    container.volumes.push(proto::Volume {
        container_path: container_path.into(),
        read_only,
        source: Some(source),
    });
    info
}

fn with_path(
    info: proto::TaskInfo,
    container_path: &str,
    read_only: bool,
    path: &Path,
) -> proto::TaskInfo {
    let path = path.to_str().unwrap().to_owned();
    let source = proto::volume::Source::HostPath(path);
    with(info, container_path, read_only, source)
}

pub(crate) async fn a_path_of_the_machine_is_mounted_where_the_operator_allows_it(
    bench: &mut Bench,
) {
    let machine = tempfile::tempdir().unwrap();
    let at = |name: &str| machine.path().join(name);
    for folder in ["allowed/data", "allowed-not"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    fs::write(at("allowed/data/old"), "here before").unwrap();
    symlink(at("allowed-not"), at("allowed/way-out")).unwrap();
    bench.config.host_path_allow = vec![at("allowed")];
    bench.start(1).await;
    let data = at("allowed/data");

    // One who holds it both ways, and two who try to write.
    let sleeper = with_path(task("holds", &["sleep"]), "/rw", false, &data);
    bench.launch(with_path(sleeper, "/ro", true, &data)).await;
    let holds = bench.master.status("holds", TaskRunning).await;
    let inside = format!("/proc/{}/root", holds.container.unwrap().pid);
    for path in ["rw", "ro"] {
        let file = format!("{inside}/{path}/old");
        assert_eq!(fs::read_to_string(file).unwrap(), "here before");
    }
    let put = |id: &str, path: &str| task(id, &["put", path]);
    let writes = with_path(put("writes", "/rw/new"), "/rw", false, &data);
    bench.launch(writes).await;
    let end = bench.master.end("writes").await;
    assert_eq!(end.state(), TaskFinished, "{}", end.message);
    for file in [at("allowed/data/new"), format!("{inside}/ro/new").into()] {
        assert_eq!(fs::read_to_string(file).unwrap(), "put /rw/new\n");
    }
    let reads = with_path(put("reads", "/ro/never"), "/ro", true, &data);
    bench.launch(reads).await;
    let running = bench.master.status("reads", TaskRunning).await;
    let end = bench.master.end("reads").await;
    assert_eq!(end.state(), TaskFailed, "{}", end.message);
    let told = said(bench, &running.container.unwrap(), "stderr");
    assert!(told.contains("Read-only file system"), "{told}");
    assert!(!at("allowed/data/never").exists());

    // What is not beneath it, by its name or by a link, is refused in the words of the setting.
    for (id, path, words) in [
        (
            "beside",
            "allowed-not",
            "is not beneath any path that this agent's operator allows (host_path_allow)",
        ),
        (
            "by-link",
            "allowed/way-out",
            "/allowed-not, which this agent's operator does not allow (host_path_allow)",
        ),
    ] {
        let refused = with_path(put(id, "/rw/never"), "/rw", false, &at(path));
        bench.launch(refused).await;
        let end = bench.master.end(id).await;
        let told = (end.state(), end.reason());
        let wanted = (TaskError, Reason::TaskUnauthorized);
        assert_eq!(told, wanted, "{id}: {}", end.message);
        let named = at(path).display().to_string();
        assert!(
            end.message.contains(words) && end.message.contains(&named),
            "{id}: {}",
            end.message
        );
    }
    assert_eq!(fs::read_dir(at("allowed-not")).unwrap().count(), 0);
}

pub(crate) async fn a_memory_file_system_of_a_task_has_its_size(bench: &mut Bench) {
    bench.start(1).await;
    // A program that wants four MiB, and room for two.
    let fills = task("fills", &["fill", "4", "/scratch/file"]);
    let memory = proto::volume::Source::TmpfsBytes(2 << 20);
    bench.launch(with(fills, "/scratch", false, memory)).await;
    let running = bench.master.status("fills", TaskRunning).await;
    let container = running.container.unwrap();
    eventually("it has tried", || {
        said(bench, &container, "stdout").contains("full")
    })
    .await;
    eventually("it has said why", || {
        said(bench, &container, "stderr").contains("No space left on device")
    })
    .await;
    let scratch = format!("/proc/{}/root/scratch", container.pid);
    let space = statvfs(scratch.as_str()).unwrap();
    assert_eq!(space.blocks() * space.fragment_size(), 2 << 20);
    assert_eq!(space.blocks_available(), 0);
    let length = fs::metadata(format!("{scratch}/file")).unwrap().len();
    assert!(length > 1 << 20 && length <= 2 << 20, "{length}");
    // Memory, and the task's own: nothing of it is on the disk.
    let usage = usage(bench, "fills").await;
    assert!(usage.memory_bytes >= Some(2 << 20), "{usage:?}");
    let none = with(
        task("none", &["sleep"]),
        "/scratch",
        false,
        proto::volume::Source::TmpfsBytes(0),
    );
    bench.launch(none).await;
    let end = bench.master.end("none").await;
    assert_eq!(end.state(), TaskError);
    assert!(end.message.contains("tmpfs_bytes"), "{}", end.message);
}

/// What a task uses, from a sample that was taken from now on.
async fn usage(bench: &Bench, task: &str) -> proto::Usage {
    let request = proto::GetUsageRequest {
        task_ids: vec![task.into()],
    };
    let answer = bench.client().await.get_usage(request).await.unwrap();
    answer.into_inner().tasks[0].usage.unwrap()
}
