//! Subnets as operators write them, `172.28.0.0/16`: checked once, exact afterwards. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Not a subnet that containers can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {problem}")]
pub struct InvalidSubnet {
    text: String,
    problem: String,
}

/// IPv4 addresses for containers: a network of 4 to 16,777,216 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

/// IPv6 addresses for containers: a network of at least 2^32 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv6Subnet {
    network: Ipv6Addr,
    prefix: u8,
}

impl Ipv4Subnet {
    /// 172.28.0.0/16: private, and next to what Docker takes first rather than in it.
    pub const DEFAULT: Self = Self {
        network: Ipv4Addr::new(172, 28, 0, 0),
        prefix: 16,
    };

    /// Its first address, which no link has.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// How many bits all its addresses share.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// How many addresses there are, the first (the network) and the last (broadcast) included.
    #[must_use]
    pub fn size(self) -> u32 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The machine's own address in it.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        self.nth(1)
    }

    /// The n-th address, counted from the network's.
    #[must_use]
    pub fn nth(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network).wrapping_add(offset % self.size()))
    }

    /// Which one an address is, if it is one of these.
    #[must_use]
    pub fn offset(self, address: Ipv4Addr) -> Option<u32> {
        let offset = u32::from(address).wrapping_sub(u32::from(self.network));
        (offset < self.size()).then_some(offset)
    }
}

impl Ipv6Subnet {
    /// Its first address, which no link has.
    #[must_use]
    pub fn network(self) -> Ipv6Addr {
        self.network
    }

    /// How many bits all its addresses share.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The machine's own address in it.
    #[must_use]
    pub fn gateway(self) -> Ipv6Addr {
        self.nth(1)
    }

    /// The n-th address, counted from the network's.
    #[must_use]
    pub fn nth(self, offset: u32) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.network) + u128::from(offset))
    }
}

/// Address and prefix of `a.b.c.d/n`.
fn split<A: FromStr>(text: &str, longest: u8) -> Result<(A, u8), InvalidSubnet> {
    let bad = |problem: &str| InvalidSubnet {
        text: text.chars().take(80).collect(),
        problem: problem.to_owned(),
    };
    let (address, prefix) = text
        .split_once('/')
        .ok_or_else(|| bad("is no subnet: write it as address/prefix, such as 172.28.0.0/16"))?;
    let address = address
        .parse()
        .map_err(|_| bad("does not begin with an address of that version of IP"))?;
    let prefix = prefix
        .parse()
        .ok()
        .filter(|prefix| *prefix <= longest)
        .ok_or_else(|| bad("does not end with a prefix length"))?;
    Ok((address, prefix))
}

fn usable(address: IpAddr) -> bool {
    !(address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

impl FromStr for Ipv4Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let bad = |problem: String| InvalidSubnet {
            text: text.chars().take(80).collect(),
            problem,
        };
        let (address, prefix): (Ipv4Addr, u8) = split(text, 32)?;
        if !(8..=30).contains(&prefix) {
            return Err(bad("must have a prefix of 8 to 30".to_owned()));
        }
        let network = Ipv4Addr::from(u32::from(address) & (u32::MAX << (32 - prefix)));
        if network != address {
            return Err(bad(format!(
                "is not the beginning of a subnet; {network}/{prefix} is"
            )));
        }
        if !usable(network.into()) {
            return Err(bad("is not for machines".to_owned()));
        }
        Ok(Self { network, prefix })
    }
}

impl FromStr for Ipv6Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let bad = |problem: String| InvalidSubnet {
            text: text.chars().take(80).collect(),
            problem,
        };
        let (address, prefix): (Ipv6Addr, u8) = split(text, 128)?;
        if !(16..=96).contains(&prefix) {
            return Err(bad("must have a prefix of 16 to 96".to_owned()));
        }
        let network = Ipv6Addr::from(u128::from(address) & (u128::MAX << (128 - prefix)));
        if network != address {
            return Err(bad(format!(
                "is not the beginning of a subnet; {network}/{prefix} is"
            )));
        }
        if !usable(network.into()) || network.segments()[0] & 0xffc0 == 0xfe80 {
            return Err(bad("is not for machines".to_owned()));
        }
        Ok(Self { network, prefix })
    }
}

impl fmt::Display for Ipv4Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Display for Ipv6Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl TryFrom<String> for Ipv4Subnet {
    type Error = InvalidSubnet;

    fn try_from(text: String) -> Result<Self, InvalidSubnet> {
        text.parse()
    }
}

impl TryFrom<String> for Ipv6Subnet {
    type Error = InvalidSubnet;

    fn try_from(text: String) -> Result<Self, InvalidSubnet> {
        text.parse()
    }
}

impl From<Ipv4Subnet> for String {
    fn from(subnet: Ipv4Subnet) -> Self {
        subnet.to_string()
    }
}

impl From<Ipv6Subnet> for String {
    fn from(subnet: Ipv6Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_exact_or_refused_with_the_cure() {
        for good in ["172.28.0.0/16", "10.0.0.0/8", "192.168.7.4/30"] {
            assert_eq!(good.parse::<Ipv4Subnet>().unwrap().to_string(), good);
        }
        for good in ["fd00:6d7a::/64", "fd00::/16", "2001:db8::/96"] {
            assert_eq!(good.parse::<Ipv6Subnet>().unwrap().to_string(), good);
        }
        let error = "172.28.3.1/16".parse::<Ipv4Subnet>().unwrap_err();
        assert!(error.to_string().contains("172.28.0.0/16 is"), "{error}");
        for bad in [
            "",
            "172.28.0.0",
            "172.28.0.0/31",
            "172.28.0.0/7",
            "172.28.0.0/x",
            "fd00::/64",
            "127.0.0.0/8",
            "224.0.0.0/8",
            "172.28.0.0/-1",
            "172.28.0.0/256",
        ] {
            assert!(bad.parse::<Ipv4Subnet>().is_err(), "{bad}");
        }
        for bad in ["fd00::/97", "fe80::/64", "ff00::/16", "::/16", "10.0.0.0/8"] {
            assert!(bad.parse::<Ipv6Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_counted_from_the_network() {
        let subnet = Ipv4Subnet::DEFAULT;
        assert_eq!(subnet.gateway(), Ipv4Addr::new(172, 28, 0, 1));
        assert_eq!(subnet.nth(256), Ipv4Addr::new(172, 28, 1, 0));
        assert_eq!(subnet.offset(Ipv4Addr::new(172, 28, 1, 0)), Some(256));
        assert_eq!(subnet.offset(Ipv4Addr::new(172, 29, 0, 0)), None);
        assert_eq!(subnet.offset(Ipv4Addr::new(172, 27, 0, 0)), None);
        let six: Ipv6Subnet = "fd00::/64".parse().unwrap();
        assert_eq!(six.nth(65_536).to_string(), "fd00::1:0");
    }
}
