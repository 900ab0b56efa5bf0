//! What agents lend: a second ledger per agent beside the ordinary one, shared by the same rules, and counted apart.
//!
//! An agent says how much revocable tasks may take on it, all together. That is offered in offers of its own, to
//! frameworks that can deal with it. What they hold of it is in no ordinary sum: it is not part of a role's share, of a
//! quota's guarantee or limit, or of what the cluster has. So who takes what would lie idle is not offered less of
//! what is promised, and a promise is never kept with what can be taken back.

use std::collections::BTreeMap;

use mezzo_api::model::{Capability, Resources, RoleName};

use super::{
    ConnId, Core, Ledger, Turn,
    agents::AgentEntry,
    frameworks::{FrameworkEntry, RoleEntry},
};
use crate::allocator::{AgentFilters, Quantities};

/// In which of an agent's two ledgers something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    /// What the agent has.
    Ordinary,
    /// What it lends.
    Revocable,
}

impl Supply {
    /// From where a task takes.
    #[must_use]
    pub fn of(revocable: bool) -> Self {
        if revocable {
            Self::Revocable
        } else {
            Self::Ordinary
        }
    }
}

/// What one agent lends.
#[derive(Debug, Default)]
pub(super) struct Lent {
    pub(super) ledger: Ledger,
    pub(super) filters: AgentFilters,
}

/// Sums over all agents: of what they lend, and of what roles hold of it, offers included.
#[derive(Debug, Default)]
pub(super) struct LentSums {
    pub(super) total: Quantities,
    pub(super) roles: BTreeMap<RoleName, Quantities>,
}

impl AgentEntry {
    pub(super) fn ledger(&self, supply: Supply) -> &Ledger {
        match supply {
            Supply::Ordinary => &self.ledger,
            Supply::Revocable => &self.lent.ledger,
        }
    }

    pub(super) fn ledger_mut(&mut self, supply: Supply) -> &mut Ledger {
        match supply {
            Supply::Ordinary => &mut self.ledger,
            Supply::Revocable => &mut self.lent.ledger,
        }
    }

    pub(super) fn filters(&self, supply: Supply) -> &AgentFilters {
        match supply {
            Supply::Ordinary => &self.filters,
            Supply::Revocable => &self.lent.filters,
        }
    }

    pub(super) fn filters_mut(&mut self, supply: Supply) -> &mut AgentFilters {
        match supply {
            Supply::Ordinary => &mut self.filters,
            Supply::Revocable => &mut self.lent.filters,
        }
    }
}

impl RoleEntry {
    pub(super) fn held(&self, supply: Supply) -> &Quantities {
        match supply {
            Supply::Ordinary => &self.held,
            Supply::Revocable => &self.held_revocable,
        }
    }

    pub(super) fn held_mut(&mut self, supply: Supply) -> &mut Quantities {
        match supply {
            Supply::Ordinary => &mut self.held,
            Supply::Revocable => &mut self.held_revocable,
        }
    }
}

impl FrameworkEntry {
    /// In its outstanding offers.
    pub(super) fn offered(&self, supply: Supply) -> &Quantities {
        match supply {
            Supply::Ordinary => &self.in_offers.0,
            Supply::Revocable => &self.in_offers.1,
        }
    }

    pub(super) fn offered_mut(&mut self, supply: Supply) -> &mut Quantities {
        match supply {
            Supply::Ordinary => &mut self.in_offers.0,
            Supply::Revocable => &mut self.in_offers.1,
        }
    }

    /// Whether it can deal with volumes that several tasks have at once.
    pub(super) fn shares(&self) -> bool {
        self.info
            .capabilities
            .contains(&Capability::SharedResources)
    }

    pub(super) fn takes(&self, supply: Supply) -> bool {
        match supply {
            Supply::Ordinary => true,
            Supply::Revocable => self
                .info
                .capabilities
                .contains(&Capability::RevocableResources),
        }
    }
}

impl Core {
    /// What there is to share now.
    pub(super) fn supplies(&self) -> impl Iterator<Item = Supply> + use<> {
        let lends = self.lent.total != Quantities::default();
        std::iter::once(Supply::Ordinary).chain(lends.then_some(Supply::Revocable))
    }

    pub(super) fn roles_mut(&mut self, supply: Supply) -> &mut BTreeMap<RoleName, Quantities> {
        match supply {
            Supply::Ordinary => &mut self.roles,
            Supply::Revocable => &mut self.lent.roles,
        }
    }

    /// An agent says how much it lends. Where offers and tasks have more than that, the offers are taken back; the
    /// tasks are the agent's to judge.
    pub(super) fn agent_slack(&mut self, turn: &mut Turn<'_>, conn: ConnId, total: Resources) {
        let Some(agent_id) = self.agent_conns.get(&conn).cloned() else {
            return;
        };
        let Some(entry) = self.agents.get_mut(&agent_id) else {
            return;
        };
        entry.declare_lent(&mut self.lent, total);
        if !entry.lent.ledger.covers() {
            self.rescind_offers_of(turn, &agent_id, Supply::Revocable);
        }
        self.view.touch_agent(&agent_id);
        self.reconsider(&agent_id);
    }
}

impl AgentEntry {
    /// It lends so much from now on.
    pub(super) fn declare_lent(&mut self, sums: &mut LentSums, total: Resources) {
        sums.total.sub_pools(self.lent.ledger.total());
        sums.total.add(&total);
        self.lent.ledger.declare(total.into());
    }
}
