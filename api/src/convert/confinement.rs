//! What holds a container back, as a task names it: an AppArmor profile, and capabilities.

use super::{Invalid, Problems};
use crate::model::{Capabilities, Dropped, InvalidCapability, LinuxCapability, MOST_CAPABILITIES};

impl From<InvalidCapability> for Invalid {
    fn from(error: InvalidCapability) -> Self {
        Self::new("", error.to_string())
    }
}

/// The name goes into a file of the kernel's, as one line.
pub(super) fn apparmor_profile(problems: &mut Problems, name: String) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    if name.len() > 255 || name.chars().any(char::is_control) {
        problems.note(
            "apparmor_profile",
            "is no name of 1 to 255 printable characters",
        );
    }
    Some(name)
}

/// Both lists, each problem with its index.
pub(super) fn capabilities(
    problems: &mut Problems,
    add: &[String],
    drop: &[String],
) -> Capabilities {
    let mut read = Capabilities::default();
    let (adds, drops) = ("capabilities_add", "capabilities_drop");
    let mut is_short = |field: &str, names: &[String]| {
        let n = names.len();
        if n > MOST_CAPABILITIES {
            problems.note(
                field,
                format!("has {n} entries; at most {MOST_CAPABILITIES} are allowed"),
            );
        }
        n <= MOST_CAPABILITIES
    };
    if !is_short(adds, add) | !is_short(drops, drop) {
        return read;
    }
    for (i, name) in add.iter().enumerate() {
        let one = problems.take(&format!("{adds}[{i}]"), name.parse::<LinuxCapability>());
        read.add.extend(one);
    }
    let mut dropped = Dropped::default();
    for (i, name) in drop.iter().enumerate() {
        problems.take(&format!("{drops}[{i}]"), dropped.also(name));
    }
    read.drop = dropped;
    if let Some(both) = read.contradiction() {
        problems.note(
            adds,
            format!("{both} is in {drops}, too; leave it in one of the two"),
        );
    }
    read
}

#[cfg(test)]
mod tests {
    use crate::{model::ContainerInfo, proto};

    fn convert(add: &[&str], drop: &[&str]) -> Result<proto::ContainerInfo, Vec<String>> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let container = proto::ContainerInfo {
            image: "sleep:1".into(),
            network: proto::NetworkMode::Host.into(),
            capabilities_add: own(add),
            capabilities_drop: own(drop),
            ..Default::default()
        };
        ContainerInfo::try_from(container)
            .map(Into::into)
            .map_err(|invalid| invalid.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn capabilities_come_back_in_one_form() {
        let back = convert(&["net_raw", "CAP_NET_RAW", "CHOWN"], &["CAP_ALL", "KILL"]).unwrap();
        assert_eq!(back.capabilities_add, ["CHOWN", "NET_RAW"]);
        assert_eq!(back.capabilities_drop, ["ALL"]);
        let back = convert(&[], &["setuid", "CAP_CHOWN"]).unwrap();
        assert!(back.capabilities_add.is_empty());
        assert_eq!(back.capabilities_drop, ["CHOWN", "SETUID"]);
    }

    #[test]
    fn a_terminal_goes_both_ways() {
        for tty in [true, false] {
            let container = proto::ContainerInfo {
                image: "sleep:1".into(),
                network: proto::NetworkMode::Host.into(),
                tty,
                ..Default::default()
            };
            let checked = ContainerInfo::try_from(container.clone()).unwrap();
            assert_eq!(checked.tty, tty);
            assert_eq!(proto::ContainerInfo::from(checked), container);
        }
    }

    #[track_caller]
    fn check_problems(add: &[&str], drop: &[&str], expected: &[&str]) {
        let problems = convert(add, drop).unwrap_err();
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, words) in problems.iter().zip(expected) {
            assert!(problem.starts_with(words), "{problem}: not {words}");
        }
    }

    #[test]
    fn each_wrong_name_is_told_with_its_place() {
        check_problems(
            &["NET_RAW", "ROOT"],
            &["", "KILL"],
            &[
                "capabilities_add[1]: \"ROOT\" is no capability of Linux",
                "capabilities_drop[0]: \"\" is no capability of Linux",
            ],
        );
        check_problems(
            &["ALL"],
            &[],
            &["capabilities_add[0]: ALL names no single capability"],
        );
        check_problems(
            &["KILL"],
            &["CAP_KILL"],
            &["capabilities_add: KILL is in capabilities_drop, too"],
        );
    }

    #[test]
    fn lists_are_bounded() {
        let many = vec!["KILL"; 129];
        check_problems(
            &many,
            &many,
            &[
                "capabilities_add: has 129 entries",
                "capabilities_drop: has 129 entries",
            ],
        );
        assert!(convert(&many[..128], &[]).is_ok());
    }
}
