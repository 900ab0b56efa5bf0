//! Paths of groups: those of apps, and the root `/`.
//!
//! Pure.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::app::id::resolve;
use crate::app::{AppId, InvalidAppId};

/// The absolute path of a group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupId(Arc<str>);

impl GroupId {
    /// The group of everything.
    #[must_use]
    pub fn root() -> Self {
        Self("/".into())
    }

    /// With the leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path that `text` means when it is written in the group `base`.
    ///
    /// # Errors
    ///
    /// When that is no path.
    pub fn resolve(text: &str, base: &str) -> Result<Self, InvalidAppId> {
        resolve(text, base).map(|path| Self(path.into()))
    }

    /// The group that `app` lies in.
    #[must_use]
    pub fn of(app: &AppId) -> Self {
        Self(app.parent().into())
    }

    /// The path of `app`, as a group.
    #[must_use]
    pub fn from_app(app: &AppId) -> Self {
        Self(app.as_str().into())
    }

    /// The group it lies in; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        match self.0.rfind('/') {
            Some(0) if self.0.len() > 1 => Some(Self::root()),
            None | Some(0) => None,
            Some(at) => Some(Self(self.0[..at].into())),
        }
    }

    /// Whether it lies directly in the root: apps in it may have its name as their role.
    #[must_use]
    pub fn is_top_level(&self) -> bool {
        self.0.len() > 1 && self.0.rfind('/') == Some(0)
    }

    /// The top-level group that `app` lies in; none for those in the root.
    #[must_use]
    pub fn top_of(app: &AppId) -> Option<Self> {
        Self::of(app).upwards().find(Self::is_top_level)
    }

    /// Itself and every group it lies in.
    pub fn upwards(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self.clone()), Self::parent)
    }

    /// Whether it is `other` or lies below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        let prefix = other.0.trim_end_matches('/');
        self.0
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for GroupId {
    type Err = InvalidAppId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::resolve(text, "/")
    }
}

impl TryFrom<String> for GroupId {
    type Error = InvalidAppId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<GroupId> for String {
    fn from(id: GroupId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupId({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_knows_those_it_lies_in() {
        let id: GroupId = "/shop/service".parse().expect("valid");
        let up: Vec<String> = id.upwards().map(|id| id.to_string()).collect();
        assert_eq!(up, ["/shop/service", "/shop", "/"]);
        let shop: GroupId = "shop/".parse().expect("valid");
        assert!(id.is_within(&shop) && id.is_within(&GroupId::root()) && !shop.is_within(&id));
        let other: GroupId = "/shopping".parse().expect("valid");
        assert!(!other.is_within(&shop));
    }
}
