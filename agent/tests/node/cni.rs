//! Networks of CNI plug-ins: what is called, for whom and in which order, also when the agent dies in the middle of a call
//! or is not there when a container ends.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use mezzo_api::proto::{
    self,
    TaskState::{TaskDropped, TaskFailed, TaskGone, TaskRunning},
};
use nix::sys::signal::{Signal, kill};

use crate::bench::{Bench, alive, eventually};
use crate::cases::Case;
use crate::lend::pid;
use crate::network::{check, log_of, machine, on_the_bridge};

pub(crate) fn all() -> Vec<Case> {
    vec![
        Case {
            name: "a_task_joins_a_network_of_plug_ins",
            run: |bench| Box::pin(joined(bench)),
            isolated: true,
        },
        Case {
            name: "plug_ins_are_called_in_their_order_and_back_also_for_what_ended_unseen",
            run: |bench| Box::pin(ended_unseen(bench)),
            isolated: true,
        },
        Case {
            name: "an_agent_killed_within_a_plug_in_leaves_nothing_of_it",
            run: |bench| Box::pin(killed_within(bench)),
            isolated: true,
        },
    ]
}

/// Plug-ins of the test's own, as any others are called: each notes its calls. `test-net` gives an address on a link that it
/// makes; held, it tells its pid and waits. Another one passes on what it was told, with a name server of its own.
const PLUG_IN: &str = r#"#!/bin/sh
set -e
here=$(dirname "$0") name=$(basename "$0")
input=$(cat)
echo "$name $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >> "$here/calls"
printf '%s\n' "$input" > "$here/$name.$CNI_COMMAND"
case "$name $CNI_COMMAND" in
"test-net ADD")
    if [ -e "$here/hold" ]; then
        echo $$ > "$here/held.new"
        mv "$here/held.new" "$here/held"
        while [ -e "$here/hold" ]; do sleep 0.05; done
        echo "went on" >> "$here/calls"
    fi
    nsenter --net="$CNI_NETNS" ip link add "$CNI_IFNAME" type bridge
    nsenter --net="$CNI_NETNS" ip addr add 10.55.0.7/24 dev "$CNI_IFNAME"
    nsenter --net="$CNI_NETNS" ip link set "$CNI_IFNAME" up
    echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.55.0.7/24","interface":0}],"dns":{"nameservers":["10.55.0.1"]}}' ;;
*ADD)
    echo '{"cniVersion":"1.0.0","ips":[{"address":"10.55.0.7/24"}],"dns":{"nameservers":["10.55.0.2"]}}' ;;
esac
"#;

/// The folder of the plug-ins.
struct PlugIns {
    folder: tempfile::TempDir,
}

impl PlugIns {
    /// A network `dc` of these plug-ins, in this order.
    fn new(bench: &mut Bench, names: &[&str]) -> Self {
        machine();
        let plug_ins = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let conf = plug_ins.folder.path().join("net.d");
        fs::create_dir(&conf).unwrap();
        fs::create_dir(plug_ins.bin()).unwrap();
        for name in names {
            let program = plug_ins.bin().join(name);
            fs::write(&program, PLUG_IN).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let plugins = names
            .iter()
            .map(|name| serde_json::json!({"type": name, "capabilities": {"portMappings": true}}));
        let list = serde_json::json!({
            "cniVersion": "1.0.0", "name": "dc", "plugins": plugins.collect::<Vec<_>>(),
        });
        fs::write(conf.join("10-dc.conflist"), list.to_string()).unwrap();
        bench.config.network.cni_conf_dir = Some(conf);
        bench.config.network.cni_bin_dir = Some(plug_ins.bin());
        plug_ins
    }

    fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    /// The calls so far, without container and link.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.bin().join("calls")).unwrap_or_default();
        let short = |line: &str| {
            let words: Vec<_> = line.split(' ').take(2).collect();
            words.join(" ")
        };
        text.lines().map(short).collect()
    }

    /// What a plug-in read in its last call of that kind.
    fn told(&self, name: &str, command: &str) -> serde_json::Value {
        let file = self.bin().join(format!("{name}.{command}"));
        serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
    }
}

fn in_dc(id: &str, args: &[&str]) -> proto::TaskInfo {
    let mut info = on_the_bridge(id, 31_000, args);
    let container = info.container.as_mut().unwrap();
    container.network = proto::NetworkMode::Container.into();
    container.network_name = "dc".into();
    container.network_labels = [("zone".to_owned(), "a".to_owned())].into();
    info
}

fn files_in(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

/// Nothing on the agent's disk speaks of a network any more.
fn is_forgotten(bench: &Bench) -> bool {
    let network = bench.config.state_dir.join("runtime/network");
    files_in(&network.join("cni")) == 0 && files_in(&network.join("leases")) == 0
}

async fn joined(bench: &mut Bench) {
    let plug_ins = PlugIns::new(bench, &["test-net"]);
    bench.start(1).await;
    let mut info = in_dc("web", &["serve", "80", "/etc/resolv.conf"]);
    info.health_checks = vec![check(proto::CheckKind::Tcp, 80)];
    bench.launch(info.clone()).await;
    let running = bench.master.status("web", TaskRunning).await;
    let container = running.container.unwrap();
    assert_eq!(container.ip_addresses, ["10.55.0.7"]);
    eventually("healthy from within its own network", || {
        let statuses = bench.master.statuses();
        statuses
            .iter()
            .any(|status| status.task_id == "web" && status.healthy == Some(true))
    })
    .await;
    let told = plug_ins.told("test-net", "ADD");
    assert_eq!(told["name"], "dc");
    assert_eq!(
        told["runtimeConfig"]["portMappings"][0],
        serde_json::json!({"hostPort": 31_000, "containerPort": 80, "protocol": "tcp"})
    );
    eventually("it has told what it sees", || {
        log_of(bench, &container.container_id).contains("nameserver 10.55.0.1")
    })
    .await;

    // A name that nobody set up is told with those that are there.
    info.task_id = "lost".into();
    info.resources.pop();
    {
        let container = info.container.as_mut().unwrap();
        container.network_name = "elsewhere".into();
        container.port_mappings.clear();
    }
    bench.launch(info).await;
    let end = bench.master.end("lost").await;
    assert!(
        end.message.contains("elsewhere") && end.message.contains("dc"),
        "{}",
        end.message
    );

    // Another agent finds it again, and takes it down at the end.
    bench.kill_agent().await;
    bench.start(2).await;
    let checked = plug_ins.bin().join("test-net.CHECK");
    eventually("checked", || checked.exists()).await;
    bench.kill_task("web", Some(100)).await;
    bench.master.end("web").await;
    let calls = fs::read_to_string(plug_ins.bin().join("calls")).unwrap();
    let id = &container.container_id;
    assert_eq!(
        calls,
        format!("test-net ADD {id} eth0\ntest-net CHECK {id} eth0\ntest-net DEL {id} eth0\n"),
        "each once"
    );
    assert_eq!(
        plug_ins.told("test-net", "DEL")["prevResult"]["ips"][0]["address"],
        "10.55.0.7/24",
        "the result of ADD comes back"
    );
}

async fn ended_unseen(bench: &mut Bench) {
    let plug_ins = PlugIns::new(bench, &["test-net", "test-more"]);
    bench.start(1).await;
    bench
        .launch(in_dc("web", &["serve", "80", "/etc/resolv.conf"]))
        .await;
    let running = bench.master.status("web", TaskRunning).await;
    let container = running.container.unwrap();
    assert_eq!(plug_ins.calls(), ["test-net ADD", "test-more ADD"]);
    assert_eq!(
        plug_ins.told("test-more", "ADD")["prevResult"]["dns"]["nameservers"][0],
        "10.55.0.1",
        "each is told what the one before it answered"
    );
    eventually("the answer of the last one is what counts", || {
        log_of(bench, &container.container_id).contains("nameserver 10.55.0.2")
    })
    .await;

    bench.kill_agent().await;
    kill(pid(&container), Signal::SIGKILL).unwrap();
    eventually("ended", || !alive(container.pid)).await;
    assert_eq!(
        plug_ins.calls().len(),
        2,
        "nobody is there to take it out of its network"
    );
    bench.start(2).await;
    assert_eq!(bench.master.end("web").await.state(), TaskFailed);
    eventually("taken down", || is_forgotten(bench)).await;
    let calls = plug_ins.calls();
    let after: Vec<_> = calls.iter().filter(|call| call.contains("DEL")).collect();
    assert_eq!(after, ["test-more DEL", "test-net DEL"], "{calls:?}");
    for name in ["test-net", "test-more"] {
        let told = plug_ins.told(name, "DEL");
        let servers = &told["prevResult"]["dns"]["nameservers"];
        assert_eq!(servers[0], "10.55.0.2", "{name}");
    }
}

async fn killed_within(bench: &mut Bench) {
    let plug_ins = PlugIns::new(bench, &["test-net", "test-more"]);
    let (hold, held) = (plug_ins.bin().join("hold"), plug_ins.bin().join("held"));
    fs::write(&hold, "").unwrap();
    bench.start(1).await;
    bench.launch(in_dc("web", &["serve", "80"])).await;
    eventually("within ADD", || held.exists()).await;
    let plug_in: u32 = fs::read_to_string(&held).unwrap().trim().parse().unwrap();
    assert!(alive(plug_in) && !is_forgotten(bench));
    bench.kill_agent().await;
    // Whatever it might still set up, nobody would take down again.
    eventually("the plug-in has ended with the agent", || !alive(plug_in)).await;
    bench.start(2).await;
    eventually("taken down", || is_forgotten(bench)).await;
    bench
        .master
        .any("web", &[TaskDropped, TaskGone, TaskFailed])
        .await;
    let calls = plug_ins.calls();
    assert_eq!(calls, ["test-net ADD", "test-more DEL", "test-net DEL"]);

    // Its port and its network are free for the next one.
    fs::remove_file(hold).unwrap();
    bench.launch(in_dc("next", &["serve", "80"])).await;
    let running = bench.master.status("next", TaskRunning).await;
    assert_eq!(running.container.unwrap().ip_addresses, ["10.55.0.7"]);
    bench.kill_task("next", Some(100)).await;
    bench.master.end("next").await;
    eventually("forgotten", || is_forgotten(bench)).await;
}
