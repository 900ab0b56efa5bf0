//! Where state is kept in etcd: `etcd://host:port,host:port/prefix`. Pure.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

const SCHEME: &str = "etcd://";
const DEFAULT_PREFIX: &str = "/mezzo";
/// No etcd has more members.
const MOST_MEMBERS: usize = 32;

/// Members of one etcd, and the prefix of all keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    members: Vec<String>,
    prefix: String,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is no address of etcd: {problem}; give etcd://host:port,host:port/prefix")]
pub struct InvalidAddress {
    text: String,
    problem: String,
}

impl Address {
    /// `host:port` of each member.
    #[must_use]
    pub fn members(&self) -> &[String] {
        &self.members
    }

    /// Begins with a slash and does not end with one.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The same etcd with a prefix beside this one, `PREFIX-name`: servers of two kinds may be given one address, and neither
    /// reads what is the other's.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        Self {
            members: self.members.clone(),
            prefix: format!("{}-{name}", self.prefix),
        }
    }

    /// A key below the prefix.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let wrong = |problem: String| InvalidAddress {
            text: text.to_owned(),
            problem,
        };
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| wrong(format!("it does not begin with {SCHEME}")))?;
        let (members, prefix) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let members: Vec<String> = members.split(',').map(str::to_owned).collect();
        if members.len() > MOST_MEMBERS {
            return Err(wrong(format!("more than {MOST_MEMBERS} members")));
        }
        for (i, member) in members.iter().enumerate() {
            check_member(member).map_err(&wrong)?;
            if members[..i].contains(member) {
                return Err(wrong(format!("{member} stands there twice")));
            }
        }
        let prefix = match prefix.trim_end_matches('/') {
            "" => DEFAULT_PREFIX,
            prefix => prefix,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !prefix[1..]
            .split('/')
            .all(|part| !part.is_empty() && part.chars().all(plain))
        {
            return Err(wrong(format!(
                "the prefix {prefix} has other characters than letters, digits and -_. between its slashes"
            )));
        }
        Ok(Self {
            members,
            prefix: prefix.to_owned(),
        })
    }
}

fn check_member(member: &str) -> Result<(), String> {
    let (host, port) = member
        .rsplit_once(':')
        .ok_or_else(|| format!("member {member:?} has no port"))?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let host_fits = match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(plain),
    };
    if !host_fits {
        return Err(if host.contains(':') && !bracketed {
            format!("member {member:?}: an IPv6 address stands in brackets")
        } else {
            format!("member {member:?} has no host name or address")
        });
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(()),
        Ok(_) | Err(_) => Err(format!(
            "the port of member {member:?} is no number from 1 to 65535"
        )),
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.members.join(","), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_prefix_are_read_and_told_again() {
        let check = |text: &str, told: &str| {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), told);
            assert_eq!(told.parse::<Address>().unwrap(), address);
        };
        check("etcd://a:2379", "etcd://a:2379/mezzo");
        check("etcd://a:1,b-2.x:2/", "etcd://a:1,b-2.x:2/mezzo");
        check("etcd://[::1]:2379/x/prod-1/", "etcd://[::1]:2379/x/prod-1");
        let address: Address = "etcd://a:1,b:2/p".parse().unwrap();
        assert_eq!(address.members(), ["a:1", "b:2"]);
        assert_eq!(address.key("leader"), "/p/leader");
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        for (text, part) in [
            ("", "does not begin"),
            ("http://a:1", "does not begin"),
            ("etcd://", "has no port"),
            ("etcd://a", "has no port"),
            ("etcd://:1", "has no host"),
            ("etcd://a b:1", "has no host"),
            ("etcd://a:0", "1 to 65535"),
            ("etcd://a:70000", "1 to 65535"),
            ("etcd://::1:2379", "brackets"),
            ("etcd://[::x]:2379", "has no host"),
            ("etcd://a:1,", "has no port"),
            ("etcd://a:1,a:1", "twice"),
            ("etcd://a:1//x", "the prefix"),
            ("etcd://a:1/x y", "the prefix"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
