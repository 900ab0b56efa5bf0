//! Whether this process can give a container the capabilities that it is to have. A root inside a container, or of a
//! service with a `CapabilityBoundingSet`, lacks some; libcontainer would tell no more than that a system call failed.

use std::sync::OnceLock;

use super::security;
use super::validate::BadSpec;
use crate::model::ContainerSpec;
use crate::users::UserNamespace;

/// The first field that asks for what we lack. `permitted` has a bit for each capability.
pub(crate) fn check(spec: &ContainerSpec, permitted: u64) -> Result<(), BadSpec> {
    let missing = security::missing(spec, permitted);
    // Who enters a user namespace has all capabilities in it.
    if missing.is_empty() || spec.user_namespace == UserNamespace::Own {
        return Ok(());
    }
    let added = |name: &&str| {
        let asked = spec.capabilities_add.iter();
        asked
            .filter_map(|asked| security::capability_name(asked))
            .any(|asked| asked == *name)
    };
    let field = if missing.iter().any(added) {
        "capabilities_add"
    } else if spec.privileged {
        "privileged"
    } else {
        "capabilities_drop"
    };
    let names = missing.join(", ");
    Err(BadSpec {
        field: field.to_owned(),
        problem: format!(
            "the agent's own process lacks {names} and cannot give it (is it in a container, or does its unit have a CapabilityBoundingSet?)"
        ),
    })
}

/// The permitted capabilities of this process; all of them if it cannot tell.
pub(crate) fn permitted() -> u64 {
    static PERMITTED: OnceLock<u64> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        parse(&status).unwrap_or(u64::MAX)
    })
}

fn parse(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Rootfs;

    #[test]
    fn what_we_lack_is_refused_by_the_field_that_asks_for_it() {
        let field = |add: &[&str], drop: &[&str], privileged, permitted| {
            let mut spec = ContainerSpec::new(Rootfs::Dir("/".into()), vec!["x".into()]);
            spec.privileged = privileged;
            spec.capabilities_add = add.iter().map(|name| (*name).to_owned()).collect();
            spec.capabilities_drop = drop.iter().map(|name| (*name).to_owned()).collect();
            check(&spec, permitted).map_or_else(|bad| bad.field, |()| "none".to_owned())
        };
        // CAP_SYS_RESOURCE is 24, CAP_CHOWN 0.
        let lacks = |number: u64| !(1_u64 << number);
        assert_eq!(field(&[], &[], false, lacks(24)), "none");
        assert_eq!(field(&[], &[], true, lacks(24)), "privileged");
        assert_eq!(
            field(&["CAP_SYS_RESOURCE"], &[], false, lacks(24)),
            "capabilities_add"
        );
        assert_eq!(field(&[], &[], false, lacks(0)), "capabilities_drop");
        assert_eq!(field(&[], &["CHOWN"], false, lacks(0)), "none");
        assert_eq!(field(&[], &[], true, u64::MAX), "none");
    }

    #[test]
    fn reads_the_permitted_set() {
        assert_eq!(
            parse("Name:\tx\nCapPrm:\t000001fffeffffff\n"),
            Some(0x1ff_feff_ffff)
        );
        assert_eq!(parse("Name:\tx\n"), None);
    }
}
