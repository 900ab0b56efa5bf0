//! Who a program runs as: the text `uid[:gid]` or `name[:group]`, and its meaning by the container's own
//! `/etc/passwd` and `/etc/group`. Those files come from an image, so they are hostile: bounded, and numbers
//! beyond 32 bits are refused. Pure: the files' text is an argument.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most bytes of a passwd or group file that are looked at.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most supplementary groups taken from a group file.
const MAX_GROUPS: usize = 256;

/// A user, and perhaps a group, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserSpec {
    user: NameOrId,
    group: Option<NameOrId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NameOrId {
    Id(u32),
    Name(String),
}

/// Why a user cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// The text is neither a number of 32 bits nor a name.
    #[error(
        "{text:?} is not a user: use a number up to 4294967294, a name, or either followed by ':' and a group"
    )]
    Malformed {
        /// What was given.
        text: String,
    },
    /// The image's passwd file has no such user.
    #[error("user {name:?} is not in the image's /etc/passwd")]
    UnknownUser {
        /// Its name.
        name: String,
    },
    /// The image's group file has no such group.
    #[error("group {name:?} is not in the image's /etc/group")]
    UnknownGroup {
        /// Its name.
        name: String,
    },
}

/// A user as the kernel wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResolvedUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) home: String,
}

impl Default for UserSpec {
    fn default() -> Self {
        Self {
            user: NameOrId::Id(0),
            group: None,
        }
    }
}

impl UserSpec {
    /// A user by number, with the group its passwd entry has (or 0).
    #[must_use]
    pub fn uid(uid: u32) -> Self {
        Self {
            user: NameOrId::Id(uid),
            group: None,
        }
    }

    /// Looks the user up in the text of a container's passwd and group files.
    pub(crate) fn resolve(&self, passwd: &str, group: &str) -> Result<ResolvedUser, UserError> {
        let entry = passwd
            .lines()
            .filter_map(PasswdEntry::parse)
            .find(|entry| match &self.user {
                NameOrId::Id(uid) => entry.uid == *uid,
                NameOrId::Name(name) => entry.name == name,
            });
        let uid = match (&self.user, &entry) {
            (NameOrId::Id(uid), _) => *uid,
            (NameOrId::Name(_), Some(entry)) => entry.uid,
            (NameOrId::Name(name), None) => {
                return Err(UserError::UnknownUser { name: name.clone() });
            }
        };
        let groups = || group.lines().filter_map(GroupEntry::parse);
        let gid = match &self.group {
            Some(NameOrId::Id(gid)) => *gid,
            Some(NameOrId::Name(name)) => groups()
                .find(|entry| entry.name == name)
                .map(|entry| entry.gid)
                .ok_or_else(|| UserError::UnknownGroup { name: name.clone() })?,
            None => entry.as_ref().map_or(0, |entry| entry.gid),
        };
        let mut seen = BTreeSet::new();
        // As in Docker: a group given explicitly is the only one.
        let additional_gids = match (&self.group, &entry) {
            (None, Some(entry)) => groups()
                .filter(|group| group.members.split(',').any(|member| member == entry.name))
                .map(|group| group.gid)
                // A file may name a group, or a member of it, twice.
                .filter(|additional| *additional != gid && seen.insert(*additional))
                .take(MAX_GROUPS)
                .collect(),
            (Some(_), _) | (None, None) => Vec::new(),
        };
        let home = entry.as_ref().map_or("/", |entry| entry.home);
        let home = if home.is_empty() { "/" } else { home };
        Ok(ResolvedUser {
            uid,
            gid,
            additional_gids,
            home: home.to_owned(),
        })
    }
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1)?;
        Some(Self {
            name,
            uid,
            gid,
            home,
        })
    }
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Self {
            name,
            gid,
            members: fields.next()?.trim_end(),
        })
    }
}

impl FromStr for NameOrId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            // The last number means "leave it as it is" to the kernel, so it cannot be a user.
            let id = text
                .parse::<u32>()
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or(())?;
            return Ok(Self::Id(id));
        }
        let name = text.len() <= 256
            && !text.starts_with('-')
            && text
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b':' && byte != b'/');
        if name {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(())
        }
    }
}

impl fmt::Display for NameOrId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(formatter, "{id}"),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}

impl FromStr for UserSpec {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let malformed = |()| UserError::Malformed {
            text: text.chars().take(300).collect(),
        };
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let user = if user.is_empty() {
            Err(())
        } else {
            user.parse()
        };
        let group = match group {
            Some("") => Err(()),
            Some(group) => group.parse().map(Some),
            None => Ok(None),
        };
        Ok(Self {
            user: user.map_err(malformed)?,
            group: group.map_err(malformed)?,
        })
    }
}

impl fmt::Display for UserSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(formatter, "{}:{group}", self.user),
            None => write!(formatter, "{}", self.user),
        }
    }
}

impl TryFrom<String> for UserSpec {
    type Error = UserError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<UserSpec> for String {
    fn from(user: UserSpec) -> Self {
        user.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/srv:/bin/sh\nbroken\nbig:x:99999999999:1::/:/";
    const GROUP: &str = "root:x:0:\nweb:x:1001:\nlog:x:7:web,other\nmail:x:8:other";

    fn resolved(text: &str) -> Result<ResolvedUser, UserError> {
        text.parse::<UserSpec>()?.resolve(PASSWD, GROUP)
    }

    #[test]
    fn a_name_brings_its_group_its_groups_and_its_home() {
        let user = resolved("web").unwrap();
        assert_eq!(
            (user.uid, user.gid, user.additional_gids, user.home.as_str()),
            (1000, 1001, vec![7], "/srv")
        );
    }

    #[test]
    fn a_number_needs_no_entry() {
        let user = resolved("4242").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (4242, 0, "/"));
        assert_eq!(resolved("4242:mail").unwrap().gid, 8);
        assert_eq!(resolved("").unwrap().uid, 0);
    }

    #[test]
    fn an_explicit_group_is_the_only_one() {
        let user = resolved("web:log").unwrap();
        assert_eq!((user.gid, user.additional_gids), (7, vec![]));
    }

    #[test]
    fn what_is_no_user_is_refused() {
        for text in [
            "4294967295",
            "4294967296",
            "99999999999999999999",
            ":1",
            "a:",
            "a b",
            "-x",
            "a/b",
        ] {
            assert!(
                matches!(resolved(text), Err(UserError::Malformed { .. })),
                "{text}"
            );
        }
        assert_eq!(
            resolved("nobody"),
            Err(UserError::UnknownUser {
                name: "nobody".into()
            })
        );
        assert_eq!(
            resolved("big"),
            Err(UserError::UnknownUser { name: "big".into() })
        );
        assert_eq!(
            resolved("web:none"),
            Err(UserError::UnknownGroup {
                name: "none".into()
            })
        );
    }
}
