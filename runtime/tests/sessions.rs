//! What sessions leave behind. A program of its own, because it counts the descriptors of its whole process.

mod common;

use std::fs;

use common::{BOTH, Node, alive, id, output, probe_in, spec_as, until};

/// CVE-2022-31030, CVE-2022-23471, CVE-2025-64329: output that nobody reads is not kept, and a session that is
/// dropped leaves no task, descriptor or process.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_nobody_reads_leave_nothing_behind() {
    let Some(node) = Node::new().await else {
        return;
    };
    for (users, namespace) in BOTH {
        let spec = spec_as(&node, namespace, &["sleep"]);
        node.runtime().start(&id(users), spec).await.unwrap();
    }
    let n_descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let n_tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    // The first of each kind opens what stays open.
    for (users, _) in BOTH {
        for terminal in [None, Some((80, 25))] {
            let mut exec = probe_in(&["true"]);
            exec.terminal = terminal;
            output(&node, users, exec).await;
        }
    }
    let (descriptors, tasks) = (n_descriptors(), n_tasks());
    for round in 0..3 {
        let mut pids = Vec::new();
        for n in 0..20 {
            // 100 MB, of which a pipe holds 64 KiB.
            let mut exec = probe_in(&["write", "1000000"]);
            exec.terminal = (n % 2 == 0).then_some((80, 25));
            let (users, _) = BOTH[n / 2 % 2];
            let session = node.runtime().exec(&id(users), exec).await.unwrap();
            pids.push(session.pid());
            assert!(alive(session.pid()), "it waits for a reader");
            drop(session);
        }
        for pid in pids {
            until("the program is gone", || !alive(pid)).await;
        }
        until(&format!("round {round} leaves nothing"), || {
            n_descriptors() <= descriptors && n_tasks() <= tasks
        })
        .await;
    }
}
