//! Nodes, frameworks and roles for people.

use super::{
    Style, Table, Tone, age, bytes, facts, mebibytes, number, or_unknown, section, sharing, task,
    toned,
};
use crate::view::{Capacity, Drain, Framework, Node, Resources, Revocable, Role, Task};

/// `mezzo node list`.
pub(crate) fn nodes(nodes: &[Node], style: Style) -> String {
    if nodes.is_empty() {
        return "no nodes; start one with `mezzo agent`\n".to_owned();
    }
    let mut table = Table::new(&[
        "NODE",
        "STATE",
        ">TASKS",
        ">CPUS HELD",
        ">USED",
        ">MEMORY HELD",
        ">USED",
        "ADDRESS",
        "ID",
    ]);
    for node in nodes {
        let used = node.used.as_ref();
        table.row([
            node.hostname.as_str().into(),
            toned(node_tone(node), node.condition()),
            node.tasks.to_string().into(),
            format!(
                "{}/{}",
                number(node.allocated.number("cpus")),
                number(node.resources.number("cpus"))
            )
            .into(),
            or_unknown(used.and_then(|used| used.cpus), number).into(),
            format!(
                "{}/{}",
                mebibytes(node.allocated.number("mem")),
                mebibytes(node.resources.number("mem"))
            )
            .into(),
            or_unknown(used.and_then(|used| used.memory_used_bytes), bytes).into(),
            node.address.as_str().into(),
            node.id.as_str().into(),
        ]);
    }
    table.render(style, "")
}

/// The tone of a node's state.
pub(crate) fn node_tone(node: &Node) -> Tone {
    match node.state.as_str() {
        "connected" if node.condition() == "connected" => Tone::Good,
        "unreachable" => Tone::Bad,
        _ => Tone::Busy,
    }
}

fn drained(drain: &Drain, now_ms: u64) -> String {
    let mut words = format!("for {}", age(drain.since_ms, now_ms));
    match drain.deadline_at_ms {
        Some(at) if at > now_ms => {
            words.push_str(&format!(
                ", tasks are killed in {} at the latest",
                age(now_ms, at)
            ));
        }
        Some(_) => words.push_str(", its deadline is over"),
        None => {}
    }
    if drain.mark_gone {
        words.push_str(", then it is removed");
    }
    words
}

/// What is lent, and what has become of it.
pub(crate) fn lent(revocable: &Revocable) -> String {
    let or_nothing = |resources: &Resources| match resources.to_string() {
        text if text.is_empty() => "nothing".to_owned(),
        text => text,
    };
    format!(
        "{}; revocable tasks hold {}, in offers {}",
        or_nothing(&revocable.total),
        or_nothing(&revocable.allocated),
        or_nothing(&revocable.offered)
    )
}

/// `mezzo node show`.
pub(crate) fn node(node: &Node, tasks: &[Task], now_ms: u64, style: Style) -> String {
    let of = |used: Option<u64>, total: Option<u64>| match (used, total) {
        (Some(used), Some(total)) => format!("{} of {}", bytes(used), bytes(total)),
        (None | Some(_), None) | (None, Some(_)) => String::new(),
    };
    let used = node.used.clone().unwrap_or_default();
    let attributes: Vec<String> = node
        .attributes
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut text = facts(
        style,
        &[
            ("node", node.hostname.clone()),
            ("id", node.id.clone()),
            ("state", node.condition()),
            (
                "drain",
                node.drain
                    .as_ref()
                    .map(|drain| drained(drain, now_ms))
                    .unwrap_or_default(),
            ),
            (
                "not offered",
                node.deactivated_since_ms
                    .map(|at| format!("for {}", age(at, now_ms)))
                    .unwrap_or_default(),
            ),
            ("address", node.address.clone()),
            (
                "registered",
                format!("{} ago", age(node.registered_at_ms, now_ms)),
            ),
            ("has", node.capacity.as_ref().map(has).unwrap_or_default()),
            (
                "kept back",
                node.capacity.as_ref().map(kept_back).unwrap_or_default(),
            ),
            ("offers", node.resources.to_string()),
            ("allocated", node.allocated.to_string()),
            ("in offers", node.offered.to_string()),
            (
                "lends",
                node.revocable.as_ref().map(lent).unwrap_or_default(),
            ),
            ("cpus used", used.cpus.map(number).unwrap_or_default()),
            (
                "memory used",
                of(used.memory_used_bytes, used.memory_total_bytes),
            ),
            ("disk used", of(used.disk_used_bytes, used.disk_total_bytes)),
            (
                "agent uses",
                used.agent_memory_bytes.map(bytes).unwrap_or_default(),
            ),
            ("attributes", attributes.join(" ")),
            ("region", node.region.clone()),
            ("zone", node.zone.clone()),
            (
                "kernel",
                format!("{} {}", node.kernel, node.architecture)
                    .trim()
                    .to_owned(),
            ),
            ("cgroups", node.cgroup_mode.clone()),
            ("mezzo", node.version.clone()),
        ],
    );
    if !tasks.is_empty() {
        text.push_str(&section(
            style,
            "TASKS",
            &task::table(tasks, now_ms).render(style, "  "),
        ));
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
fn amounts(cpu_millis: u64, mem_mb: u64, disk_mb: u64) -> String {
    format!(
        "cpus {}; mem {}; disk {}",
        number(cpu_millis as f64 / 1000.0),
        mebibytes(mem_mb as f64),
        mebibytes(disk_mb as f64)
    )
}

/// What the machine has.
fn has(capacity: &Capacity) -> String {
    amounts(capacity.cpu_millis, capacity.mem_mb, capacity.disk_mb)
}

/// What of it is kept for the system.
fn kept_back(capacity: &Capacity) -> String {
    let kept = (
        capacity.reserved_cpu_millis,
        capacity.reserved_mem_mb,
        capacity.reserved_disk_mb,
    );
    match kept {
        (Some(cpu), Some(mem), Some(disk)) => amounts(cpu, mem, disk),
        _ => "nothing: its settings say what it offers".to_owned(),
    }
}

/// `mezzo framework list`.
pub(crate) fn frameworks(frameworks: &[Framework], now_ms: u64, style: Style) -> String {
    if frameworks.is_empty() {
        return "no frameworks; start the one that comes with mezzo with `mezzo scheduler`\n"
            .to_owned();
    }
    let mut table = Table::new(&[
        "FRAMEWORK",
        "STATE",
        ">TASKS",
        ">SHARE",
        ">CPUS",
        ">MEMORY",
        "ROLES",
        ">AGE",
        "ID",
    ]);
    for framework in frameworks {
        let (tone, state) = if framework.connected {
            (Tone::Good, "connected")
        } else {
            (Tone::Busy, "disconnected")
        };
        table.row([
            framework.name.as_str().into(),
            toned(tone, state),
            framework.tasks.to_string().into(),
            format!("{:.1} %", framework.dominant_share_percent).into(),
            number(framework.allocated.number("cpus")).into(),
            mebibytes(framework.allocated.number("mem")).into(),
            framework.roles.join(",").into(),
            age(framework.registered_at_ms, now_ms).into(),
            framework.id.as_str().into(),
        ]);
    }
    table.render(style, "")
}

/// `mezzo framework show`.
pub(crate) fn framework(framework: &Framework, now_ms: u64, style: Style) -> String {
    facts(
        style,
        &[
            ("framework", framework.name.clone()),
            ("id", framework.id.clone()),
            (
                "state",
                if framework.connected {
                    "connected"
                } else {
                    "disconnected"
                }
                .to_owned(),
            ),
            (
                "registered",
                format!("{} ago", age(framework.registered_at_ms, now_ms)),
            ),
            (
                "failover",
                format!("{} s", framework.failover_timeout_ms / 1000),
            ),
            ("roles", framework.roles.join(", ")),
            ("suppressed", framework.suppressed_roles.join(", ")),
            ("tasks", framework.tasks.to_string()),
            (
                "share",
                format!("{:.1} %", framework.dominant_share_percent),
            ),
            ("allocated", framework.allocated.to_string()),
            ("in offers", framework.offered.to_string()),
            ("revocable", framework.revocable_allocated.to_string()),
            (
                "in revocable offers",
                framework.revocable_offered.to_string(),
            ),
            ("deals with", framework.capabilities.join(", ")),
            ("user", framework.user.clone()),
            ("principal", framework.principal.clone()),
            ("host", framework.hostname.clone()),
            ("web page", framework.webui_url.clone()),
        ],
    )
}

/// `mezzo role list`.
pub(crate) fn roles(roles: &[Role], style: Style) -> String {
    let mut table = Table::new(&[
        "ROLE",
        ">WEIGHT",
        ">SHARE",
        ">CPUS",
        ">MEMORY",
        ">FRAMEWORKS",
        "GUARANTEE",
        "LIMIT",
    ]);
    for role in roles {
        table.row([
            role.name.as_str().into(),
            number(role.weight).into(),
            format!("{:.1} %", role.dominant_share_percent).into(),
            number(role.allocated.number("cpus")).into(),
            mebibytes(role.allocated.number("mem")).into(),
            role.framework_ids.len().to_string().into(),
            sharing::amounts(&role.guarantees).into(),
            sharing::amounts(&role.limits).into(),
        ]);
    }
    table.render(style, "")
}

#[cfg(test)]
mod tests {
    use super::super::PLAIN;
    use super::*;
    use crate::view::{NodeUsage, Quantity, Resources};

    fn resources(cpus: f64, mem: f64) -> Resources {
        Resources(
            [
                ("cpus".to_owned(), Quantity::Number(cpus)),
                ("mem".to_owned(), Quantity::Number(mem)),
            ]
            .into(),
        )
    }

    #[test]
    fn nodes_show_what_is_held_beside_what_is_used() {
        let node = Node {
            id: "a-1".into(),
            hostname: "n1".into(),
            address: "127.0.0.1:5051".into(),
            state: "connected".into(),
            tasks: 20,
            resources: resources(4.0, 4096.0),
            allocated: resources(2.0, 640.0),
            used: Some(NodeUsage {
                cpus: Some(0.25),
                memory_used_bytes: Some(1 << 30),
                ..NodeUsage::default()
            }),
            ..Node::default()
        };
        let out = Node {
            hostname: "n3".into(),
            state: "connected".into(),
            drain: Some(Drain {
                state: "draining".into(),
                since_ms: 1_000,
                deadline_at_ms: Some(601_000),
                mark_gone: true,
            }),
            ..Node::default()
        };
        assert_eq!(
            (out.condition().as_str(), node_tone(&out)),
            ("draining", Tone::Busy)
        );
        let kept = Node {
            state: "connected".into(),
            deactivated_since_ms: Some(1_000),
            ..Node::default()
        };
        assert_eq!(
            (kept.condition().as_str(), node_tone(&kept)),
            ("deactivated", Tone::Busy)
        );
        let shown = super::node(&kept, &[], 61_000, PLAIN);
        assert!(shown.contains("not offered") && shown.contains("for 60 s"));
        let shown = super::node(&out, &[], 61_000, PLAIN);
        let line = shown.lines().find(|line| line.starts_with("drain"));
        insta::assert_snapshot!(line.unwrap_or_default(), @"drain       for 60 s, tasks are killed in 9 min at the latest, then it is removed");
        insta::assert_snapshot!(nodes(&[node, Node { hostname: "n2".into(), state: "unreachable".into(), ..Node::default() }], PLAIN), @r"
        NODE  STATE        TASKS  CPUS HELD  USED      MEMORY HELD     USED  ADDRESS         ID
        n1    connected       20        2/4  0.25  640 MiB/4.0 GiB  1.0 GiB  127.0.0.1:5051  a-1
        n2    unreachable      0        0/0     -          0 B/0 B        -
        ");
    }

    #[test]
    fn roles_show_weight_and_share() {
        let role = Role {
            name: "batch".into(),
            weight: 0.5,
            dominant_share_percent: 12.34,
            ..Role::default()
        };
        insta::assert_snapshot!(roles(&[role], PLAIN), @r"
        ROLE   WEIGHT   SHARE  CPUS  MEMORY  FRAMEWORKS  GUARANTEE  LIMIT
        batch     0.5  12.3 %     0     0 B           0  -          -
        ");
    }
}
