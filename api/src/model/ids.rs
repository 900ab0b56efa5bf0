//! A type per id, so that a task id never stands where an agent id is meant.
//!
//! All follow Mesos' rule: 1 to 255 bytes, no `/`, `\` or control characters, not `.` or `..`. Roles are stricter
//! in some ways and looser in others (they may be paths). Cheap to clone.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a string is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{kind} {value:?} is not valid: {problem}")]
pub struct InvalidId {
    /// "task id", "role", ...
    pub kind: &'static str,
    /// What was given, cut to 80 characters.
    pub value: String,
    /// What is wrong, and what would be right.
    pub problem: &'static str,
}

fn check_id(value: &str) -> Result<(), &'static str> {
    if value.is_empty() {
        return Err("it is empty");
    }
    if value.len() > 255 {
        return Err("it is longer than 255 bytes");
    }
    if value == "." || value == ".." {
        return Err("`.` and `..` are not names");
    }
    if value
        .chars()
        .any(|c| c == '/' || c == '\\' || c.is_control())
    {
        return Err("it holds `/`, `\\` or a control character");
    }
    Ok(())
}

/// Role names follow Mesos: `*`, or path parts joined by `/`, none empty, `.`, `..` or beginning with `-`, no
/// white space.
fn check_role(value: &str) -> Result<(), &'static str> {
    if value == "*" {
        return Ok(());
    }
    if value.is_empty() {
        return Err("it is empty; the default role is `*`");
    }
    if value.len() > 255 {
        return Err("it is longer than 255 bytes");
    }
    for part in value.split('/') {
        match part {
            "" => return Err("a part between slashes is empty"),
            "." | ".." => return Err("`.` and `..` are not roles"),
            "*" => return Err("`*` stands only alone"),
            _ if part.starts_with('-') => return Err("a part begins with `-`"),
            _ if part
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || c == '\\') =>
            {
                return Err("it holds white space, `\\` or a control character");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Secret sources are relative paths that cannot lead out of a folder, whoever resolves them.
fn check_secret_source(value: &str) -> Result<(), &'static str> {
    if value.is_empty() {
        return Err("it is empty");
    }
    if value.len() > 255 {
        return Err("it is longer than 255 bytes");
    }
    for part in value.split('/') {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if part.is_empty() {
            return Err("a part between slashes is empty; give one like `team/registry`");
        }
        if part.starts_with('.') {
            return Err("a part begins with `.`");
        }
        if !part.chars().all(plain) {
            return Err("only letters, digits, `.`, `_`, `-` and `/` are allowed");
        }
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The id that this text is: a copy of `known` where it is that one, which takes neither checks nor memory.
            ///
            /// # Errors
            ///
            /// As for reading it from text.
            pub fn read(text: &str, known: Option<&Self>) -> Result<Self, InvalidId> {
                match known {
                    Some(known) if *known.0 == *text => Ok(known.clone()),
                    Some(_) | None => text.parse(),
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(value: &str) -> Result<Self, InvalidId> {
                match $check(value) {
                    Ok(()) => Ok(Self(value.into())),
                    Err(problem) => {
                        Err(InvalidId { kind: $kind, value: value.chars().take(80).collect(), problem })
                    }
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(value: String) -> Result<Self, InvalidId> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

id!(/// Chosen by the framework, used once.
    TaskId, "task id", check_id);
id!(/// Of a task group; chosen by the framework, used once.
    GroupId, "group id", check_id);
id!(/// Given by the master at the first registration, kept by the agent on disk.
    AgentId, "agent id", check_id);
id!(/// Given by the master at the first subscription.
    FrameworkId, "framework id", check_id);
id!(/// Of one offer; can be used once.
    OfferId, "offer id", check_id);
id!(/// Of one status update that an agent keeps until it is acknowledged.
    UpdateId, "update id", check_id);
id!(/// Of a persistent volume; unique on one agent among those of a role. Never becomes a path.
    VolumeId, "volume id", check_id);
id!(/// Of a change of reservations or volumes; chosen by whoever asks for it, used once.
    OperationId, "operation id", check_id);
id!(/// Of one subscription of a framework.
    StreamId, "stream id", check_id);
id!(/// Of a maintenance window; chosen by the operator.
    WindowName, "maintenance window", check_id);
id!(/// Of a seccomp profile: a file of each agent's operator.
    ProfileName, "profile name", check_id);
id!(/// Whom resources are shared between: `*`, or a path like `eng/web`.
    RoleName, "role", check_role);

impl RoleName {
    /// The default role, `*`.
    #[must_use]
    pub fn any() -> Self {
        Self("*".into())
    }

    /// Whether it is `top` or lies below it: `eng/web` is within `eng`.
    #[must_use]
    pub fn is_within(&self, top: &Self) -> bool {
        self.0
            .strip_prefix(top.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Default for RoleName {
    fn default() -> Self {
        Self::any()
    }
}

id!(/// Where a secret comes from: a name that each agent resolves in its own folder.
    SecretSource, "secret source", check_secret_source);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_be_paths_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "a\nb",
            "a\0b",
            "../x",
            &"x".repeat(256),
        ] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad:?}");
        }
        for good in [
            "a",
            "app.instance-1._app.1",
            "...",
            "ünïcode",
            &"x".repeat(255),
        ] {
            assert!(good.parse::<TaskId>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn roles_are_paths_of_clean_parts() {
        for bad in [
            "", "/", "a/", "/a", "a//b", "-a", "a/-b", "a b", "a/*", "..", "a/../b",
        ] {
            assert!(bad.parse::<RoleName>().is_err(), "{bad:?}");
        }
        for good in ["*", "eng", "eng/prod", "a.b", "a-b"] {
            assert!(good.parse::<RoleName>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn secret_sources_stay_in_their_folder() {
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            ".a",
            "a/.b",
            "a b",
            "a\\b",
            "a\0b",
            "ü",
            &"x".repeat(256),
        ] {
            assert!(bad.parse::<SecretSource>().is_err(), "{bad:?}");
        }
        for good in ["a", "team/registry", "a.json", "A-b_c/1", &"x".repeat(255)] {
            assert!(good.parse::<SecretSource>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn serde_checks_too() {
        #[derive(Debug, Deserialize)]
        struct Holder {
            #[expect(dead_code, reason = "only its parsing is tested")]
            id: TaskId,
        }
        let bad = serde::de::value::MapDeserializer::<_, serde::de::value::Error>::new(
            [("id", "a/b")].into_iter(),
        );
        let error = Holder::deserialize(bad).expect_err("a slash is refused");
        assert!(error.to_string().contains("task id"), "{error}");
    }
}
