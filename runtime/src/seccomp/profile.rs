//! Profiles of an operator's own, in the JSON of Docker (with its conditions on capabilities, architectures and kernels) or
//! of the runtime specification. Pure but for [`Host::this`].
//!
//! What a file says is checked once and kept as [`Rules`], which hold no more than a filter needs: conditions on the
//! machine are resolved, those on capabilities stay until a container's are known.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use serde::{Deserialize, Serialize};

use super::{SeccompError, set_up};
use crate::spec::security::capability_name;

/// Longest file that is looked at, in bytes; Docker's own takes 12,000.
const MAX_FILE: usize = 256 << 10;
/// Longest form that still goes to the launcher in one message, in bytes.
const MAX_RULES: usize = 96 << 10;
/// So many problems are told.
const MAX_PROBLEMS: usize = 10;
/// Highest number of an error that a filter can answer with: MAX_ERRNO of the kernel.
const MAX_ERRNO: u32 = 4095;

/// A checked profile; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Rules", into = "Rules")]
pub struct SeccompProfile(Arc<Rules>);

impl From<Rules> for SeccompProfile {
    fn from(rules: Rules) -> Self {
        Self(Arc::new(rules))
    }
}

impl From<SeccompProfile> for Rules {
    fn from(profile: SeccompProfile) -> Self {
        Arc::unwrap_or_clone(profile.0)
    }
}

/// What is wrong with a profile's text: each problem with its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct BadProfile {
    /// At least one.
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    default: Action,
    /// Beside the machine's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    relatives: Vec<String>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    names: Vec<String>,
    action: Action,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Condition>,
    /// Only with all of these capabilities, and with none of those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    with: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    without: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Allow,
    Log,
    Errno(u16),
    Trap,
    KillThread,
    KillProcess,
}

impl Action {
    fn of(self) -> ScmpAction {
        match self {
            Self::Allow => ScmpAction::Allow,
            Self::Log => ScmpAction::Log,
            Self::Errno(number) => ScmpAction::Errno(number.into()),
            Self::Trap => ScmpAction::Trap,
            Self::KillThread => ScmpAction::KillThread,
            Self::KillProcess => ScmpAction::KillProcess,
        }
    }
}

/// On one argument of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    argument: u32,
    comparison: Comparison,
    value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Comparison {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// Of the bits of this mask.
    Masked(u64),
}

impl Condition {
    fn of(self) -> ScmpArgCompare {
        let comparison = match self.comparison {
            Comparison::NotEqual => ScmpCompareOp::NotEqual,
            Comparison::Less => ScmpCompareOp::Less,
            Comparison::LessOrEqual => ScmpCompareOp::LessOrEqual,
            Comparison::Equal => ScmpCompareOp::Equal,
            Comparison::GreaterOrEqual => ScmpCompareOp::GreaterEqual,
            Comparison::Greater => ScmpCompareOp::Greater,
            Comparison::Masked(mask) => ScmpCompareOp::MaskedEqual(mask),
        };
        ScmpArgCompare::new(self.argument, comparison, self.value)
    }
}

/// What conditions of a profile are about.
struct Host {
    /// As Go calls it, which Docker's files do.
    architecture: &'static str,
    /// As libseccomp calls it.
    native: &'static str,
    /// Others whose programs the kernel may run.
    relatives: &'static [&'static str],
    /// Version and patch level.
    kernel: (u32, u32),
}

impl Host {
    fn this() -> Self {
        let (architecture, native, relatives): (_, _, &[&str]) = if cfg!(target_arch = "aarch64") {
            ("arm64", "SCMP_ARCH_AARCH64", &["SCMP_ARCH_ARM"])
        } else {
            (
                "amd64",
                "SCMP_ARCH_X86_64",
                &["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            )
        };
        let release = nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        Self {
            architecture,
            native,
            relatives,
            kernel: version(&release).unwrap_or((0, 0)),
        }
    }
}

/// The first two numbers of `6.1.0-13-amd64` or `4.8`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

impl SeccompProfile {
    /// Checks a profile.
    ///
    /// # Errors
    ///
    /// What is wrong with it, with the places: no such JSON, an action that needs somebody to answer it, an architecture
    /// that is not this machine's, names that are no calls.
    pub fn parse(text: &[u8]) -> Result<Self, BadProfile> {
        Self::parse_for(text, &Host::this())
    }

    fn parse_for(text: &[u8], host: &Host) -> Result<Self, BadProfile> {
        let refuse = |problem: String| BadProfile {
            problems: vec![problem],
        };
        if text.len() > MAX_FILE {
            return Err(refuse(format!("it is longer than {MAX_FILE} bytes")));
        }
        let file: file::Profile =
            serde_json::from_slice(text).map_err(|error| refuse(error.to_string()))?;
        let mut problems = Vec::new();
        let rules = file.check(host, &mut problems);
        let length = serde_json::to_vec(&rules).map_or(usize::MAX, |json| json.len());
        if length > MAX_RULES {
            problems.push(format!(
                "its rules take {length} bytes, at most {MAX_RULES} are taken"
            ));
        }
        if problems.is_empty() {
            return Ok(rules.into());
        }
        problems.truncate(MAX_PROBLEMS);
        Err(BadProfile { problems })
    }

    /// What it names and this machine's libseccomp does not know: calls of newer kernels, or misspelt ones.
    #[must_use]
    pub fn unknown_calls(&self) -> Vec<&str> {
        let names = self.0.rules.iter().flat_map(|rule| &rule.names);
        let unknown: BTreeSet<&str> = names
            .map(String::as_str)
            .filter(|name| ScmpSyscall::from_name(name).is_err())
            .collect();
        unknown.into_iter().collect()
    }

    /// The rules for a container that has these capabilities.
    pub(super) fn build(
        &self,
        has: &dyn Fn(&str) -> bool,
    ) -> Result<ScmpFilterContext, SeccompError> {
        let rules = &*self.0;
        let mut filter = ScmpFilterContext::new(rules.default.of())?;
        for relative in &rules.relatives {
            filter.add_arch(ScmpArch::from_str(relative)?)?;
        }
        set_up(&mut filter)?;
        for rule in &rules.rules {
            let applies = rule.with.iter().all(|name| has(name))
                && !rule.without.iter().any(|name| has(name));
            // libseccomp takes no rule that says what happens anyway.
            if !applies || rule.action == rules.default {
                continue;
            }
            for name in &rule.names {
                if let Ok(call) = ScmpSyscall::from_name(name) {
                    rule.add(&mut filter, call)?;
                }
            }
        }
        Ok(filter)
    }
}

impl Rule {
    fn add(&self, filter: &mut ScmpFilterContext, call: ScmpSyscall) -> Result<(), SeccompError> {
        let action = self.action.of();
        let arguments: BTreeSet<u32> = self.conditions.iter().map(|one| one.argument).collect();
        if self.conditions.is_empty() {
            filter.add_rule(action, call)?;
        } else if arguments.len() == self.conditions.len() {
            let all: Vec<ScmpArgCompare> = self.conditions.iter().map(|one| one.of()).collect();
            filter.add_rule_conditional(action, call, &all)?;
        } else {
            // libseccomp compares an argument once in a rule. Two conditions on one mean either, as in runc.
            for condition in &self.conditions {
                filter.add_rule_conditional(action, call, &[condition.of()])?;
            }
        }
        Ok(())
    }
}

/// The files as they are written.
mod file {
    use super::{
        Action, Comparison, Condition, Deserialize, Host, MAX_ERRNO, Rule, Rules, capability_name,
        version,
    };

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub(super) struct Profile {
        default_action: String,
        default_errno_ret: Option<u32>,
        #[serde(default)]
        architectures: Vec<String>,
        #[serde(default)]
        arch_map: Vec<Architecture>,
        #[serde(default)]
        flags: Vec<String>,
        listener_path: Option<String>,
        #[serde(default)]
        syscalls: Vec<Syscalls>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Architecture {
        architecture: String,
        #[serde(default)]
        sub_architectures: Option<Vec<String>>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Syscalls {
        name: Option<String>,
        #[serde(default)]
        names: Vec<String>,
        action: String,
        errno_ret: Option<u32>,
        #[serde(default)]
        args: Option<Vec<Argument>>,
        #[serde(default)]
        includes: Option<When>,
        #[serde(default)]
        excludes: Option<When>,
        #[expect(dead_code, reason = "for the file's readers")]
        comment: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Argument {
        index: u32,
        value: u64,
        #[serde(default)]
        value_two: u64,
        op: String,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct When {
        #[serde(default)]
        caps: Option<Vec<String>>,
        #[serde(default)]
        arches: Option<Vec<String>>,
        min_kernel: Option<String>,
    }

    impl Profile {
        pub(super) fn check(self, host: &Host, problems: &mut Vec<String>) -> Rules {
            let default = action(
                "defaultAction",
                &self.default_action,
                self.default_errno_ret,
                problems,
            );
            for flag in &self.flags {
                // All that it is for: a filter that is loaded by a program's only thread is on all of them.
                if flag != "SECCOMP_FILTER_FLAG_TSYNC" {
                    problems.push(format!("flags: {flag:?} is not supported; leave it out"));
                }
            }
            if self.listener_path.is_some() {
                problems.push("listenerPath: nobody would answer there; leave it out".to_owned());
            }
            let relatives = relatives(self.architectures, self.arch_map, host, problems);
            let mut rules = Vec::new();
            for (n, calls) in self.syscalls.into_iter().enumerate() {
                rules.extend(calls.check(&format!("syscalls[{n}]"), host, problems));
            }
            Rules {
                default,
                relatives,
                rules,
            }
        }
    }

    /// Those of the machine's relatives that the file means too.
    fn relatives(
        architectures: Vec<String>,
        map: Vec<Architecture>,
        host: &Host,
        problems: &mut Vec<String>,
    ) -> Vec<String> {
        let mut named = architectures;
        let mapped = !map.is_empty();
        for entry in map {
            if entry.architecture == host.native {
                named.push(entry.architecture);
                named.extend(entry.sub_architectures.unwrap_or_default());
            }
        }
        if (mapped || !named.is_empty()) && !named.iter().any(|name| name == host.native) {
            problems.push(format!(
                "architectures: {} is not among them, which this machine has",
                host.native
            ));
        }
        named.retain(|name| host.relatives.contains(&name.as_str()));
        named.sort_unstable();
        named.dedup();
        named
    }

    impl Syscalls {
        /// `None` where it is not for this machine.
        fn check(self, at: &str, host: &Host, problems: &mut Vec<String>) -> Option<Rule> {
            let mut names = self.names;
            names.extend(self.name);
            if names.is_empty() {
                problems.push(format!("{at}.names: names no call"));
            }
            for name in &names {
                let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                if name.is_empty() || !name.chars().all(is_name) {
                    problems.push(format!("{at}.names: {name:?} is no name of a call"));
                }
            }
            let action = action(
                &format!("{at}.action"),
                &self.action,
                self.errno_ret,
                problems,
            );
            let mut conditions = Vec::new();
            for (n, argument) in self.args.into_iter().flatten().enumerate() {
                conditions.extend(argument.check(&format!("{at}.args[{n}]"), problems));
            }
            let (includes, excludes) = (
                self.includes.unwrap_or_default(),
                self.excludes.unwrap_or_default(),
            );
            let here = |arches: &[String]| arches.iter().any(|arch| arch == host.architecture);
            let wanted = includes.arches.as_deref();
            let mut for_us = wanted.is_none_or(|arches| arches.is_empty() || here(arches))
                && !here(excludes.arches.as_deref().unwrap_or_default());
            for (field, kernel, wanted) in [
                ("includes", includes.min_kernel, true),
                ("excludes", excludes.min_kernel, false),
            ] {
                let Some(text) = kernel else { continue };
                match version(&text) {
                    Some(least) => for_us &= (host.kernel >= least) == wanted,
                    None => problems.push(format!(
                        "{at}.{field}.minKernel: {text:?} is no version such as 4.8"
                    )),
                }
            }
            let rule = Rule {
                names,
                action,
                conditions,
                with: capabilities(&format!("{at}.includes.caps"), includes.caps, problems),
                without: capabilities(&format!("{at}.excludes.caps"), excludes.caps, problems),
            };
            for_us.then_some(rule)
        }
    }

    impl Argument {
        fn check(self, at: &str, problems: &mut Vec<String>) -> Option<Condition> {
            if self.index > 5 {
                problems.push(format!("{at}.index: {} is not within 0 to 5", self.index));
            }
            let (comparison, value) = match self.op.as_str() {
                "SCMP_CMP_NE" => (Comparison::NotEqual, self.value),
                "SCMP_CMP_LT" => (Comparison::Less, self.value),
                "SCMP_CMP_LE" => (Comparison::LessOrEqual, self.value),
                "SCMP_CMP_EQ" => (Comparison::Equal, self.value),
                "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, self.value),
                "SCMP_CMP_GT" => (Comparison::Greater, self.value),
                "SCMP_CMP_MASKED_EQ" => (Comparison::Masked(self.value), self.value_two),
                other => {
                    problems.push(format!(
                        "{at}.op: {other:?} is no comparison, such as SCMP_CMP_EQ"
                    ));
                    return None;
                }
            };
            Some(Condition {
                argument: self.index,
                comparison,
                value,
            })
        }
    }

    fn action(at: &str, name: &str, errno: Option<u32>, problems: &mut Vec<String>) -> Action {
        match name {
            "SCMP_ACT_ALLOW" => return Action::Allow,
            "SCMP_ACT_LOG" => return Action::Log,
            "SCMP_ACT_TRAP" => return Action::Trap,
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => return Action::KillThread,
            "SCMP_ACT_KILL_PROCESS" => return Action::KillProcess,
            "SCMP_ACT_ERRNO" => {
                let number = errno.unwrap_or(libc::EPERM.unsigned_abs());
                match u16::try_from(number) {
                    Ok(fits) if number <= MAX_ERRNO => return Action::Errno(fits),
                    Ok(_) | Err(_) => problems.push(format!(
                        "{at}: {number} is no number of an error, which are up to {MAX_ERRNO}"
                    )),
                }
            }
            "SCMP_ACT_NOTIFY" | "SCMP_ACT_TRACE" => problems.push(format!(
                "{at}: {name} needs somebody who answers, whom containers here do not have; take SCMP_ACT_ERRNO"
            )),
            _ => problems.push(format!("{at}: {name:?} is no action, such as SCMP_ACT_ERRNO")),
        }
        // Never used: there is a problem.
        Action::KillProcess
    }

    fn capabilities(
        at: &str,
        names: Option<Vec<String>>,
        problems: &mut Vec<String>,
    ) -> Vec<String> {
        let mut known = Vec::new();
        for name in names.into_iter().flatten() {
            match capability_name(&name) {
                Some(bare) => known.push(bare.to_owned()),
                None => problems.push(format!("{at}: {name:?} is no capability")),
            }
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::Filter;

    const HOST: Host = Host {
        architecture: "amd64",
        native: "SCMP_ARCH_X86_64",
        relatives: &["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        kernel: (6, 1),
    };

    fn parse(text: &str) -> Result<SeccompProfile, BadProfile> {
        SeccompProfile::parse_for(text.as_bytes(), &HOST)
    }

    /// Of a profile with one such rule.
    fn rule(text: &str) -> Option<Rule> {
        let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{text}]}}"#);
        let profile = parse(&text).unwrap();
        profile.0.rules.first().cloned()
    }

    #[test]
    fn dockers_form_is_read_with_its_conditions() {
        let rule_with = |more: &str| {
            rule(&format!(
                r#"{{"names": ["clone", "mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "comment": "why"{more}}}"#
            ))
        };
        let read = rule_with(
            r#", "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
               "includes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["amd64"], "minKernel": "4.8"}, "excludes": {"caps": ["CAP_BPF"]}"#,
        );
        let read = read.unwrap();
        assert_eq!(read.action, Action::Errno(38));
        assert_eq!(
            (read.with, read.without),
            (vec!["SYS_ADMIN".to_owned()], vec!["BPF".to_owned()])
        );
        let masked = Condition {
            argument: 0,
            comparison: Comparison::Masked(0x7E02_0000),
            value: 0,
        };
        assert_eq!(read.conditions, [masked]);
        for elsewhere in [
            r#", "includes": {"arches": ["s390x"]}"#,
            r#", "excludes": {"arches": ["amd64"]}"#,
            r#", "includes": {"minKernel": "6.2"}"#,
            r#", "excludes": {"minKernel": "6.1"}"#,
        ] {
            assert_eq!(rule_with(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_all_at_once_with_its_place() {
        let bad = r#"{"defaultAction": "SCMP_ACT_NOTIFY", "architectures": ["SCMP_ARCH_S390X"], "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["re ad"], "action": "SCMP_ACT_FROWN"},
                         {"names": [], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000, "includes": {"caps": ["CAP_FLY"]}},
                         {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 0, "op": "is"}]}]}"#;
        let problems = parse(bad).unwrap_err().problems;
        for place in [
            "defaultAction",
            "architectures",
            "flags",
            "syscalls[0].names",
            "syscalls[0].action",
            "syscalls[1].names",
            "syscalls[1].action",
            "syscalls[1].includes.caps",
            "syscalls[2].args[0].index",
            "syscalls[2].args[0].op",
        ] {
            let told = problems.iter().any(|problem| problem.starts_with(place));
            assert!(told, "{place} is not in {problems:?}");
        }
        for text in [
            "",
            "[]",
            "{}",
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "sysCalls": []}"#,
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(SeccompProfile::parse(&vec![b' '; MAX_FILE + 1]).is_err());
    }

    #[test]
    fn a_profile_compiles_for_the_capabilities_and_is_the_same_after_a_journey() {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["{}"],
                "syscalls": [{{"names": ["mkdir", "mkdirat", "not_yet_a_call"], "action": "SCMP_ACT_ERRNO", "excludes": {{"caps": ["CAP_SYS_ADMIN"]}}}},
                             {{"name": "personality", "action": "SCMP_ACT_KILL_PROCESS",
                               "args": [{{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}}, {{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}}]}}]}}"#,
            Host::this().native
        );
        let profile = SeccompProfile::parse(text.as_bytes()).unwrap();
        assert_eq!(profile.unknown_calls(), ["not_yet_a_call"]);
        let json = serde_json::to_string(&profile).unwrap();
        assert_eq!(
            serde_json::from_str::<SeccompProfile>(&json).unwrap(),
            profile
        );
        let compile = |capabilities: &[&str]| {
            let filter = Filter {
                capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
                profile: Some(profile.clone()),
            };
            filter.compile().unwrap()
        };
        assert!(compile(&[]).len() > compile(&["SYS_ADMIN"]).len());
    }
}
