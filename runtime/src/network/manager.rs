//! Who has which place in the network: the only state of containers' networks. Each change is on disk (the lease) before
//! the kernel hears of it, and gone from the kernel before it goes from the disk.
//!
//! Blocking; the runtime calls it from threads that may wait. What is special about plug-ins is in [`plugged`].

mod plugged;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bridge::{self, Bridge, Made};
use super::cni::{self, Cni};
use super::conntrack;
use super::error::NetworkError;
use super::lease::{Lease, Leases};
use super::namespace;
use super::nftables::{Filter, Forward, PortProtocol};
use super::pool::Pool;
use super::{Attachment, NetworkConfig, NetworkRequest};
use crate::id::ContainerId;
use plugged::attachment_of;

/// The networks of one instance.
#[derive(Debug)]
pub(crate) struct Networks {
    config: NetworkConfig,
    boot_id: String,
    /// The note on the bridge.
    owner: String,
    leases: Leases,
    cni: Cni,
    namespaces: Arc<namespace::Pool>,
    filter: Filter,
    state: Mutex<State>,
    /// Held while the bridge and its table are made, so that they are made once, and while lines are removed.
    making: Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// In the subnet that leases of running containers are of, which may be another than the configuration's.
    bridge: Bridge,
    numbers: Pool,
    leases: BTreeMap<ContainerId, Lease>,
    /// In networks of plug-ins.
    plugged: BTreeMap<ContainerId, cni::Record>,
    ports: HashMap<(PortProtocol, u16), ContainerId>,
    /// Of ended containers: their addresses are free once their links are gone.
    ending: VecDeque<Lease>,
    /// A thread removes links.
    is_removing: bool,
    /// Of containers that are not started yet.
    namespaces: HashMap<ContainerId, OwnedFd>,
    made: Option<Made>,
}

impl State {
    fn new(bridge: Bridge, leases: Vec<Lease>) -> Self {
        let mut state = Self {
            numbers: Pool::new(bridge.ipv4.size()),
            bridge,
            leases: BTreeMap::new(),
            plugged: BTreeMap::new(),
            ports: HashMap::new(),
            ending: VecDeque::new(),
            is_removing: false,
            namespaces: HashMap::new(),
            made: None,
        };
        for lease in leases {
            state.take_note(lease);
        }
        state
    }

    fn take_note(&mut self, lease: Lease) {
        if let Some(number) = self.bridge.ipv4.offset(lease.ipv4) {
            self.numbers.take_exactly(number);
        }
        for map in &lease.ports {
            self.ports
                .insert((map.protocol, map.host_port), lease.container.clone());
        }
        self.leases.insert(lease.container.clone(), lease);
    }

    /// From here on its ports are free, but not yet its address.
    fn forget(&mut self, lease: Lease) {
        self.leases.remove(&lease.container);
        self.ports.retain(|_, holder| *holder != lease.container);
        self.ending.push_back(lease);
    }

    /// The links of an ended container are gone.
    fn give_back(&mut self, lease: &Lease) {
        if let Some(number) = self.bridge.ipv4.offset(lease.ipv4) {
            self.numbers.give_back(number);
        }
    }

    fn forwards(&self) -> Vec<Forward> {
        self.leases.values().flat_map(Lease::forwards).collect()
    }
}

/// The kernel keeps 255 bytes of a note.
const MAX_NOTE: usize = 200;

impl Networks {
    /// Reads what is on disk; the kernel is not asked yet.
    pub(crate) fn open(config: NetworkConfig, state_dir: &Path, boot_id: &str) -> io::Result<Self> {
        let path = state_dir.display().to_string();
        // The end of a path tells more than its beginning.
        let tail: String = {
            let skip = path.chars().count().saturating_sub(MAX_NOTE / 4);
            path.chars().skip(skip).collect()
        };
        let owner = format!("mezzo {tail}");
        let leases = Leases::new(state_dir);
        let found = leases.read(boot_id)?;
        let mut bridge = Bridge {
            name: config.bridge.clone(),
            ipv4: config.ipv4,
            ipv6: config.ipv6,
            mtu: config.mtu,
            owner: owner.clone(),
        };
        if let Some(lease) = found.first()
            && (lease.subnet4, lease.subnet6) != (config.ipv4, config.ipv6)
        {
            tracing::warn!(
                running = %lease.subnet4, wanted = %config.ipv4,
                "containers run in another subnet than the configured one, which counts once they have all ended and the agent is started again"
            );
            (bridge.ipv4, bridge.ipv6) = (lease.subnet4, lease.subnet6);
        }
        let cni = Cni::new(config.cni.clone(), state_dir);
        let mut state = State::new(bridge, found);
        for record in cni.read()? {
            state.plugged.insert(record.container.clone(), record);
        }
        Ok(Self {
            config,
            boot_id: boot_id.to_owned(),
            owner,
            leases,
            cni,
            namespaces: Arc::default(),
            filter: Filter::default(),
            state: Mutex::new(state),
            making: Mutex::new(()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed by short steps that do not panic between two halves.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a start of the agent: releases what belongs to no container and makes the kernel agree with the rest.
    /// `running` are those that run, with their network namespaces.
    pub(crate) fn reconcile(
        self: &Arc<Self>,
        known: impl Fn(&ContainerId) -> bool,
        running: BTreeMap<ContainerId, PathBuf>,
    ) {
        let orphans: Vec<ContainerId> = {
            let state = self.state();
            let all = state.leases.keys().chain(state.plugged.keys());
            all.filter(|id| !known(id)).cloned().collect()
        };
        for id in orphans {
            tracing::warn!(container = %id, "network of no container, released");
            self.release(&id);
        }
        self.check_plugged(running);
        let (bridge, in_use) = {
            let state = self.state();
            (state.bridge.clone(), !state.leases.is_empty())
        };
        let there = match bridge.exists() {
            Ok(there) => there,
            // Not ours; the first container that needs it will say so.
            Err(error) => {
                if in_use {
                    tracing::error!(error = %chain(&error), "containers' bridge cannot be looked at");
                }
                return;
            }
        };
        if !there && !in_use {
            return;
        }
        if let Err(error) = self.ensure() {
            tracing::error!(error = %chain(&error), "containers' bridge cannot be set up");
        }
        let links: Vec<String> = {
            let state = self.state();
            state
                .leases
                .values()
                .map(|lease| lease.link.clone())
                .collect()
        };
        if let Err(error) = bridge.sweep_links(|name| links.iter().any(|link| link == name)) {
            tracing::warn!(%error, "links without containers cannot be removed");
        }
    }

    /// The bridge as it should be, with all lines of the maps.
    fn ensure(&self) -> Result<Made, NetworkError> {
        if let Some(made) = self.state().made {
            return Ok(made);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let (bridge, made, forwards) = {
            let state = self.state();
            (state.bridge.clone(), state.made, state.forwards())
        };
        if let Some(made) = made {
            return Ok(made);
        }
        let made = bridge.ensure(&self.filter, &forwards)?;
        self.state().made = Some(made);
        Ok(made)
    }

    /// Gives a container that is about to be started its place in the network.
    pub(crate) fn prepare(
        self: &Arc<Self>,
        id: &ContainerId,
        request: &NetworkRequest,
    ) -> Result<Attachment, NetworkError> {
        {
            let state = self.state();
            if state.leases.contains_key(id) || state.plugged.contains_key(id) {
                return Err(NetworkError::AlreadyPrepared { id: id.clone() });
            }
        }
        let prepared = match request {
            NetworkRequest::Bridge { ports } => self.prepare_bridged(id, ports),
            NetworkRequest::Cni {
                network,
                ports,
                labels,
            } => {
                let record = self
                    .cni
                    .record(&self.boot_id, id, network, (ports, labels))?;
                self.prepare_plugged(record)
            }
        };
        if prepared.is_err() {
            self.release(id);
        }
        prepared
    }

    fn prepare_bridged(
        &self,
        id: &ContainerId,
        ports: &[super::PortMap],
    ) -> Result<Attachment, NetworkError> {
        self.ensure()?;
        let lease = {
            let mut state = self.state();
            for map in ports {
                if let Some(holder) = state.ports.get(&(map.protocol, map.host_port)) {
                    return Err(NetworkError::PortTaken {
                        port: map.host_port,
                        holder: holder.clone(),
                    });
                }
            }
            if state.leases.is_empty()
                && state.plugged.is_empty()
                && state.ending.is_empty()
                && !state.is_removing
                && state.bridge.ipv4 != self.config.ipv4
            {
                // The last container of the old subnet has ended: from here on the new one counts.
                let bridge = Bridge {
                    name: self.config.bridge.clone(),
                    ipv4: self.config.ipv4,
                    ipv6: self.config.ipv6,
                    mtu: self.config.mtu,
                    owner: self.owner.clone(),
                };
                *state = State::new(bridge, Vec::new());
            }
            let number = state
                .numbers
                .take()
                .ok_or_else(|| NetworkError::NoAddress {
                    subnet: state.bridge.ipv4.to_string(),
                    taken: state.leases.len(),
                })?;
            let subnets = (state.bridge.ipv4, state.bridge.ipv6);
            let lease = Lease::new(&self.boot_id, id, subnets, number, ports);
            state.take_note(lease.clone());
            lease
        };
        self.connect(&lease)?;
        Ok(Attachment {
            addresses: lease.addresses(),
            dns: Vec::new(),
        })
    }

    fn connect(&self, lease: &Lease) -> Result<(), NetworkError> {
        let failed = |operation| {
            move |source| NetworkError::Container {
                id: lease.container.clone(),
                operation,
                source,
            }
        };
        self.leases
            .write(lease)
            .map_err(failed("note what it is given"))?;
        let mut namespace = self
            .namespaces
            .take(lease.ipv6.is_some())
            .map_err(failed("make its network namespace"))?;
        let bridge = self.state().bridge.clone();
        let mut attempt = self
            .ensure()
            .map(|made| bridge.attach(made, lease, &mut namespace))?;
        if let Err(error) = &attempt
            && matches!(
                error.raw_os_error(),
                Some(libc::ENODEV | libc::EEXIST | libc::EINVAL)
            )
        {
            // Somebody removed the bridge, or left a link of that name: everything once more, from the beginning.
            self.state().made = None;
            let _ = bridge::detach(lease);
            namespace = namespace::make(lease.ipv6.is_some())
                .map_err(failed("make its network namespace"))?;
            attempt = self
                .ensure()
                .map(|made| bridge.attach(made, lease, &mut namespace))?;
        }
        attempt.map_err(failed("make its links"))?;
        if !lease.ports.is_empty() {
            let forwards = lease.forwards();
            let opened = self.filter.add(&bridge.name, &forwards);
            let mut opened = opened.map_err(io::Error::from);
            if opened.is_err() {
                // A table that somebody changed or removed: all of it anew, this container's lines included.
                self.state().made = None;
                opened = self.ensure().map(|_| ()).map_err(io::Error::other);
            }
            opened.map_err(failed("map its ports"))?;
            conntrack::forget_streams(&lease.ports);
        }
        self.state()
            .namespaces
            .insert(lease.container.clone(), namespace.descriptor);
        Ok(())
    }

    /// What a container was given.
    pub(crate) fn attachment(&self, id: &ContainerId) -> Option<Attachment> {
        let state = self.state();
        if let Some(record) = state.plugged.get(id) {
            return Some(attachment_of(record));
        }
        state.leases.get(id).map(|lease| Attachment {
            addresses: lease.addresses(),
            dns: Vec::new(),
        })
    }

    /// The namespace of a container that is about to be started.
    pub(crate) fn namespace(&self, id: &ContainerId) -> Option<OwnedFd> {
        self.state().namespaces.get(id)?.try_clone().ok()
    }

    /// The container's first process holds its namespace from here on: with it it goes.
    pub(crate) fn started(&self, id: &ContainerId) {
        let descriptor = self.state().namespaces.remove(id);
        drop(descriptor);
    }

    /// Takes everything back from a container that has ended or never ran. Idempotent; what cannot be taken back now
    /// is taken back at the next start of the agent.
    ///
    /// Links are removed in the background: that takes the kernel tens of milliseconds each, in which nobody needs to
    /// wait for the news that the container has ended.
    pub(crate) fn release(self: &Arc<Self>, id: &ContainerId) {
        self.take_back(id);
        {
            let mut state = self.state();
            if state.is_removing || state.ending.is_empty() {
                return;
            }
            state.is_removing = true;
        }
        let networks = Arc::clone(self);
        let removing = std::thread::Builder::new()
            .name("mezzo-net-end".to_owned())
            .spawn(move || networks.remove_links());
        if let Err(error) = removing {
            tracing::warn!(%error, "no thread to remove links; they go now");
            self.remove_links();
        }
    }

    /// Until none is left.
    fn remove_links(&self) {
        loop {
            let lease = {
                let mut state = self.state();
                let Some(lease) = state.ending.pop_front() else {
                    state.is_removing = false;
                    return;
                };
                lease
            };
            if let Err(error) = bridge::detach(&lease) {
                tracing::warn!(container = %lease.container, link = lease.link, %error, "link not removed");
            }
            self.state().give_back(&lease);
        }
    }

    fn take_back(&self, id: &ContainerId) {
        let record = self.state().plugged.get(id).cloned();
        if let Some(record) = record {
            self.unplug(&record);
        }
        let (lease, bridge, descriptor) = {
            let mut state = self.state();
            let descriptor = state.namespaces.remove(id);
            let Some(lease) = state.leases.get(id).cloned() else {
                return;
            };
            (lease, state.bridge.clone(), descriptor)
        };
        drop(descriptor);
        let mut problems = Vec::new();
        if !lease.ports.is_empty() {
            // Whoever makes the table anew meanwhile must not bring these lines back.
            let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = self.filter.remove(&bridge.name, &lease.forwards()) {
                problems.push(format!("ports: {error}"));
            }
            if let Some(lease) = self.state().leases.get_mut(id) {
                lease.ports.clear();
            }
            // Whoever has its address next must not get them.
            conntrack::forget_streams(&lease.ports);
        }
        if problems.is_empty()
            && let Err(error) = self.leases.remove(id)
        {
            problems.push(format!("lease: {error}"));
        }
        if !problems.is_empty() {
            tracing::warn!(container = %id, problems = problems.join("; "), "network not all released");
        }
        self.state().forget(lease);
    }

    /// Lets go of what was kept ready.
    pub(crate) fn let_go(&self) {
        self.namespaces.clear();
        self.state().namespaces.clear();
    }

    /// Removes everything of this instance.
    pub(crate) fn purge(&self) {
        let ids: Vec<ContainerId> = {
            let state = self.state();
            let all = state.leases.keys().chain(state.plugged.keys());
            all.cloned().collect()
        };
        for id in ids {
            self.take_back(&id);
        }
        self.remove_links();
        self.let_go();
        let bridge = self.state().bridge.clone();
        match bridge.remove(&self.filter) {
            Ok(()) | Err(NetworkError::NotOurs { .. }) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), "containers' bridge cannot be removed");
            }
        }
        self.state().made = None;
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
