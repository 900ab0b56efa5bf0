//! Names of apps: absolute paths such as `/shop/cart`, and the task ids made from them.
//!
//! Pure.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mezzo_api::model::TaskId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// So long that a task id made from it still has at most 255 bytes.
const MAX_LEN: usize = 190;

/// The absolute path of an app.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppId(Arc<str>);

/// Ordered as the text, so that all that lies below a path is found together.
impl Borrow<str> for AppId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A path that cannot name an app.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct InvalidAppId {
    problem: String,
}

impl AppId {
    /// With the leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As task ids and file names write it: `shop_cart`.
    #[must_use]
    pub fn safe_path(&self) -> String {
        self.0[1..].replace('/', "_")
    }

    /// A task id that has not been used before if `unique` has not.
    #[must_use]
    pub fn task_id(&self, unique: Uuid) -> TaskId {
        format!("{}.instance-{unique}._app.1", self.safe_path())
            .parse()
            .expect("an app id holds only a-z, 0-9, `.`, `-` and `/`, and is short")
    }

    /// The name of an instance of a pod; its tasks' ids begin with it.
    #[must_use]
    pub fn instance_id(&self, unique: Uuid) -> TaskId {
        format!("{}.instance-{unique}", self.safe_path())
            .parse()
            .expect("an app id holds only a-z, 0-9, `.`, `-` and `/`, and is short")
    }

    /// Whether the app lies below the group `prefix` (an absolute path), or is it.
    #[must_use]
    pub fn is_within(&self, prefix: &str) -> bool {
        let prefix = prefix.trim_end_matches('/');
        self.0
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl AppId {
    /// The path that `text` means when it is written at `base`: absolute ones mean themselves; `.` and `..` are resolved.
    ///
    /// # Errors
    ///
    /// When that is no path of an app.
    pub fn resolve(text: &str, base: &str) -> Result<Self, InvalidAppId> {
        let path = resolve(text, base)?;
        if path == "/" {
            let shown: String = text.chars().take(80).collect();
            let problem = format!("{shown:?} names the root, not an app");
            return Err(InvalidAppId { problem });
        }
        Ok(Self(path.into()))
    }

    /// The path of the group that it lies in; `/` for most.
    #[must_use]
    pub fn parent(&self) -> &str {
        match self.0.rfind('/') {
            None | Some(0) => "/",
            Some(at) => &self.0[..at],
        }
    }
}

impl FromStr for AppId {
    type Err = InvalidAppId;

    /// Takes absolute and relative paths (relative to `/`), resolves `.` and `..`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::resolve(text, "/")
    }
}

/// The absolute path that `text` means when it is written at `base`, an absolute path.
pub(crate) fn resolve(text: &str, base: &str) -> Result<String, InvalidAppId> {
    let refuse = |problem: String| Err(InvalidAppId { problem });
    let shown: String = text.chars().take(80).collect();
    if text.len() > MAX_LEN {
        return refuse(format!("is longer than {MAX_LEN} bytes"));
    }
    let mut segments: Vec<&str> = Vec::new();
    if !text.starts_with('/') {
        segments.extend(base.split('/').filter(|segment| !segment.is_empty()));
    }
    let trimmed = text.strip_prefix('/').unwrap_or(text);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    if trimmed.is_empty() && text != "/" {
        return refuse("is empty; an app needs a name such as \"/web\"".to_owned());
    }
    for segment in trimmed.split('/').filter(|_| text != "/") {
        match segment {
            "." => {}
            ".." => {
                if segments.pop().is_none() {
                    return refuse(format!("{shown:?} leads above the root"));
                }
            }
            name if is_segment(name) => segments.push(name),
            "" => return refuse(format!("{shown:?} has an empty part between slashes")),
            other => {
                return refuse(format!(
                    "{shown:?} is not valid: {other:?} must be made of lower-case letters, digits, and `-` or `.` \
                     between them"
                ));
            }
        }
    }
    let path = format!("/{}", segments.join("/"));
    if path.len() > MAX_LEN {
        return refuse(format!(
            "{shown:?} in {base} is longer than {MAX_LEN} bytes"
        ));
    }
    Ok(path)
}

/// Dot-separated labels of a-z, 0-9 and inner `-`.
fn is_segment(segment: &str) -> bool {
    segment.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}

impl TryFrom<String> for AppId {
    type Error = InvalidAppId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AppId> for String {
    fn from(id: AppId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppId({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute() {
        for (given, want) in [
            ("sleep", "/sleep"),
            ("/sleep", "/sleep"),
            ("/shop/cart/", "/shop/cart"),
            ("shop/./cart", "/shop/cart"),
            ("/shop/old/../cart", "/shop/cart"),
            ("a.b-c.1", "/a.b-c.1"),
        ] {
            assert_eq!(
                given.parse::<AppId>().map(|id| id.to_string()),
                Ok(want.to_owned())
            );
        }
    }

    #[test]
    fn relative_paths_begin_where_they_are_written() {
        for (text, base, want) in [
            ("cart", "/shop", "/shop/cart"),
            ("/cart", "/shop", "/cart"),
            ("../../db", "/shop/service/web", "/shop/db"),
            ("../db", "/shop/web", "/shop/db"),
            ("cart", "/", "/cart"),
        ] {
            let got = AppId::resolve(text, base).map(|id| id.to_string());
            assert_eq!(got, Ok(want.to_owned()));
        }
        assert!(AppId::resolve("..", "/shop").is_err(), "the root");
        assert!(AppId::resolve("../..", "/shop").is_err(), "above the root");
        assert!(AppId::resolve(&"x".repeat(100), &format!("/{}", "y".repeat(100))).is_err());
    }

    #[test]
    fn paths_that_could_escape_or_confuse_are_refused() {
        for given in [
            "",
            "/",
            "//",
            "a//b",
            "/..",
            "../x",
            "a/../..",
            "Sleep",
            "a b",
            "-a",
            "a-",
            "a..b",
            "a_b",
            "é",
            "a\\b",
            "a/..\u{0}",
            &"x".repeat(191),
        ] {
            assert!(given.parse::<AppId>().is_err(), "{given:?}");
        }
    }

    #[test]
    fn the_longest_id_still_makes_a_task_id() {
        let id: AppId = "x".repeat(189).parse().expect("short enough");
        assert!(id.task_id(Uuid::nil()).as_str().len() <= 255);
        let id: AppId = "/group/app".parse().expect("valid");
        assert_eq!(
            id.task_id(Uuid::nil()).as_str(),
            "group_app.instance-00000000-0000-0000-0000-000000000000._app.1"
        );
    }

    #[test]
    fn a_group_holds_its_apps_and_not_its_namesakes() {
        let id: AppId = "/shop/cart".parse().expect("valid");
        assert!(id.is_within("/shop") && id.is_within("/") && id.is_within("/shop/cart"));
        assert!(!id.is_within("/sh") && !id.is_within("/shop/c"));
    }
}
