//! A framework's description, checked before anything is connected.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mezzo_api::{
    credential::Credential,
    masters::Masters,
    model::{Capability, FrameworkId, FrameworkInfo, OfferFilter, RoleName},
};
use thiserror::Error;

use crate::Framework;

/// Every problem of a description.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("framework: {}", problems.join("; "))]
pub struct InvalidConfig {
    /// One sentence each, with the name of the setting.
    pub problems: Vec<String>,
}

/// Describes a framework; [`Builder::spawn`] makes it live.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    id: Option<FrameworkId>,
    master_term: u64,
    masters: Vec<String>,
    credential: Credential,
    roles: Vec<String>,
    suppressed: bool,
    failover_timeout: Duration,
    user: String,
    principal: String,
    hostname: String,
    webui_url: String,
    labels: BTreeMap<String, String>,
    offer_filters: BTreeMap<RoleName, OfferFilter>,
    capabilities: BTreeSet<Capability>,
    queue: usize,
    call_timeout: Duration,
}

/// A description without mistakes.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) info: FrameworkInfo,
    pub(crate) master_term: u64,
    pub(crate) suppressed: bool,
    pub(crate) masters: Masters,
    pub(crate) credential: Credential,
    pub(crate) queue: usize,
    pub(crate) call_timeout: Duration,
}

impl Builder {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: None,
            master_term: 0,
            masters: Vec::new(),
            credential: Credential::default(),
            roles: vec!["*".to_owned()],
            suppressed: false,
            failover_timeout: Duration::ZERO,
            user: String::new(),
            principal: String::new(),
            hostname: String::new(),
            webui_url: String::new(),
            labels: BTreeMap::new(),
            offer_filters: BTreeMap::new(),
            capabilities: BTreeSet::new(),
            queue: 1024,
            call_timeout: Duration::from_secs(20),
        }
    }

    /// What the framework can deal with beyond the ordinary: without [`Capability::RevocableResources`] no offer is
    /// revocable, without [`Capability::SharedResources`] no offer has a volume that several tasks may have at once.
    #[must_use]
    pub fn capabilities(mut self, capabilities: impl IntoIterator<Item = Capability>) -> Self {
        self.capabilities = capabilities.into_iter().collect();
        self
    }

    /// host:port of every master: the one that leads is found among them.
    #[must_use]
    pub fn masters<S: Into<String>>(mut self, masters: impl IntoIterator<Item = S>) -> Self {
        self.masters = masters.into_iter().map(Into::into).collect();
        self
    }

    /// Shown to masters that ask for one; nothing by default.
    #[must_use]
    pub fn credential(mut self, credential: Credential) -> Self {
        self.credential = credential;
        self
    }

    /// The id of an earlier subscription, to get its tasks back.
    #[must_use]
    pub fn id(mut self, id: Option<FrameworkId>) -> Self {
        self.id = id;
        self
    }

    /// The highest term ([`crate::Event::Subscribed`]) that an earlier process was told. A master of a lower one was deposed, or put back
    /// from an old copy, and does not know what runs: it is not followed, as one is not whose term is lower than this process was told.
    #[must_use]
    pub fn master_term(mut self, term: u64) -> Self {
        self.master_term = term;
        self
    }

    /// How long the master keeps tasks while nobody is subscribed. The default, zero, kills them at once.
    #[must_use]
    pub fn failover_timeout(mut self, timeout: Duration) -> Self {
        self.failover_timeout = timeout;
        self
    }

    /// For which roles it takes offers; `*` alone by default.
    #[must_use]
    pub fn roles<S: Into<String>>(mut self, roles: impl IntoIterator<Item = S>) -> Self {
        self.roles = roles.into_iter().map(Into::into).collect();
        self
    }

    /// No offers before [`crate::Calls::revive`].
    #[must_use]
    pub fn suppressed(mut self, suppressed: bool) -> Self {
        self.suppressed = suppressed;
        self
    }

    /// Which agents are worth an offer in that role; the master looks before it offers.
    #[must_use]
    pub fn offer_filter(mut self, role: RoleName, filter: OfferFilter) -> Self {
        self.offer_filters.insert(role, filter);
        self
    }

    /// For people.
    #[must_use]
    pub fn webui_url(mut self, url: &str) -> Self {
        self.webui_url = url.to_owned();
        self
    }

    /// For people.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = user.to_owned();
        self
    }

    /// Where it runs, for people.
    #[must_use]
    pub fn hostname(mut self, hostname: &str) -> Self {
        self.hostname = hostname.to_owned();
        self
    }

    /// Whom it claims to be.
    #[must_use]
    pub fn principal(mut self, principal: &str) -> Self {
        self.principal = principal.to_owned();
        self
    }

    /// Opaque to mezzo.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Events that may wait to be read; 1024 by default.
    #[must_use]
    pub fn queue(mut self, events: usize) -> Self {
        self.queue = events;
        self
    }

    /// How long a call waits for its answer; 20 s by default.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Looks for mistakes, as [`Builder::spawn`] does.
    ///
    /// ```
    /// # use mezzo_framework::Framework;
    /// let told = Framework::builder("x").masters(["m1"]).roles(["a b"]).check().unwrap_err();
    /// assert!(told.to_string().contains("masters[0]") && told.to_string().contains("roles[0]"));
    /// ```
    ///
    /// # Errors
    ///
    /// With every mistake.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        self.clone().checked().map(drop)
    }

    /// Subscribes in the background, from now on and again and again. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// With every mistake of the description. That no master can be reached is no error: it is tried again.
    pub fn spawn(self) -> Result<Framework, InvalidConfig> {
        Ok(Framework::spawn(self.checked()?))
    }

    fn checked(self) -> Result<Checked, InvalidConfig> {
        let mut problems = Vec::new();
        if self.name.is_empty() {
            problems.push("`name` is empty".to_owned());
        }
        if self.masters.is_empty() {
            problems.push(
                "`masters` is empty: give host:port of each, such as 127.0.0.1:5050".to_owned(),
            );
        }
        for (i, master) in self.masters.iter().enumerate() {
            if let Err(error) = Masters::parse(master) {
                problems.push(format!("`masters[{i}]`: {error}"));
            }
        }
        let masters = Masters::parse(&self.masters.join(","));
        let mut roles = BTreeSet::new();
        for (i, role) in self.roles.iter().enumerate() {
            match role.parse::<RoleName>() {
                Ok(role) => drop(roles.insert(role)),
                Err(error) => problems.push(format!("`roles[{i}]`: {error}")),
            }
        }
        if self.roles.is_empty() {
            problems.push("`roles` is empty; leave it out for `*`".to_owned());
        }
        if let Some(role) = self
            .offer_filters
            .keys()
            .find(|role| !roles.contains(*role))
        {
            problems.push(format!(
                "`offer_filters` has one for role {role}, which is not among `roles`"
            ));
        }
        if self.queue == 0 {
            problems.push("`queue` must be at least 1".to_owned());
        }
        if self.call_timeout.is_zero() {
            problems.push("`call_timeout` must be more than zero".to_owned());
        }
        let masters = match masters {
            Ok(masters) if problems.is_empty() => masters,
            // Each by itself is one; together they may still be none.
            Err(error) if problems.is_empty() => {
                let problems = vec![format!("`masters`: {error}")];
                return Err(InvalidConfig { problems });
            }
            Ok(_) | Err(_) => return Err(InvalidConfig { problems }),
        };
        let info = FrameworkInfo {
            framework_id: self.id,
            name: self.name,
            user: self.user,
            roles: roles.into_iter().collect(),
            failover_timeout: self.failover_timeout,
            hostname: self.hostname,
            principal: self.principal,
            webui_url: self.webui_url,
            labels: self.labels,
            offer_filters: self.offer_filters,
            capabilities: self.capabilities,
        };
        Ok(Checked {
            master_term: self.master_term,
            info,
            suppressed: self.suppressed,
            masters,
            credential: self.credential,
            queue: self.queue,
            call_timeout: self.call_timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_told_at_once() {
        let told = Builder::new("")
            .masters(["m1", "m2:x", "m3:5050"])
            .queue(0)
            .checked()
            .unwrap_err();
        assert_eq!(told.problems.len(), 4, "{told}");
    }

    #[test]
    fn masters_are_host_and_port_each_once() {
        let check = |masters: &[&str]| Builder::new("x").masters(masters.to_vec()).check();
        check(&["http://m:1", "[::1]:5050"]).unwrap();
        for bad in ["m", ":1", "m:", "m:x", "https://m:1", "m:1/path"] {
            let told = check(&["m:1", bad]).unwrap_err().to_string();
            assert!(told.contains("masters[1]"), "{bad}: {told}");
        }
        let told = check(&["m:1", "m:1"]).unwrap_err().to_string();
        assert!(told.contains("twice"), "{told}");
    }
}
