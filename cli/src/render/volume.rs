//! Persistent volumes, for people.

use super::{Style, Table, mebibytes};
use crate::view::volume::Volume;

/// `mezzo volume list`.
pub(crate) fn volumes(volumes: &[Volume], style: Style) -> String {
    let mut table = Table::new(&["VOLUME", "ROLE", "NODE", ">SIZE", "SHARED", "TASKS"]);
    for volume in volumes {
        let tasks: Vec<String> = volume
            .tasks
            .iter()
            .map(|user| {
                let access = if user.read_only { " (reads)" } else { "" };
                format!("{}{access}", user.task)
            })
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let size = mebibytes(volume.size_mb as f64);
        table.row([
            volume.id.as_str().into(),
            volume.role.as_str().into(),
            volume.node.as_str().into(),
            size.into(),
            if volume.shared { "yes" } else { "no" }.into(),
            if tasks.is_empty() {
                "-".into()
            } else {
                tasks.join(", ").into()
            },
        ]);
    }
    table.render(style, "")
}

#[cfg(test)]
mod tests {
    use super::super::PLAIN;
    use super::*;
    use crate::view::volume::VolumeTask;

    #[test]
    fn a_volume_tells_who_mounts_it() {
        let volume = Volume {
            id: "orders".into(),
            role: "db".into(),
            node: "n1".into(),
            agent_id: "a1".into(),
            size_mb: 10 * 1024,
            principal: "operator".into(),
            shared: false,
            tasks: vec![VolumeTask {
                task: "report".into(),
                framework: "f".into(),
                read_only: true,
            }],
        };
        let user = |task: &str, read_only| VolumeTask {
            task: task.into(),
            framework: "f".into(),
            read_only,
        };
        let corpus = Volume {
            id: "corpus".into(),
            shared: true,
            tasks: vec![
                user("crawl", false),
                user("index", false),
                user("report", true),
            ],
            ..volume.clone()
        };
        insta::assert_snapshot!(volumes(&[volume, corpus], PLAIN), @r"
        VOLUME  ROLE  NODE      SIZE  SHARED  TASKS
        orders  db    n1    10.0 GiB  no      report (reads)
        corpus  db    n1    10.0 GiB  yes     crawl, index, report (reads)
        ");
    }
}
