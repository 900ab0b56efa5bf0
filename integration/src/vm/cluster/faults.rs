//! What a test does to a cluster: cords, links, clocks, signals. Nothing here waits for what comes of it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Cluster, MASTER, Machine};
use crate::interrupt;
use crate::vm::net;

impl Cluster {
    /// Pulls the power cord of a machine.
    pub fn pull_power(&mut self, machine: Machine) -> Result<()> {
        self.guest_mut(machine).pull_power()
    }

    /// Pulls it at the very moment that something becomes true.
    pub fn pull_power_when(
        &mut self,
        machine: Machine,
        what: &str,
        within: Duration,
        mut moment: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let (limit, start) = (self.limit(within), Instant::now());
        while !moment(self) {
            if interrupt::requested() {
                bail!("interrupted while waiting for {what}");
            }
            ensure!(
                start.elapsed() < limit,
                "waited {} s for {what}",
                limit.as_secs()
            );
            thread::sleep(Duration::from_millis(1));
        }
        self.pull_power(machine)
    }

    /// Switches it on again; its servers start.
    pub fn power_on(&mut self, machine: Machine) -> Result<()> {
        self.boots[usize::from(machine.0) - 1] += 1;
        self.guest_mut(machine).power_on()?;
        self.serve(machine)
    }

    /// Cuts a machine off from all others.
    pub fn isolate(&mut self, machine: Machine) {
        self.cut_off.insert(machine);
        for other in self.machines() {
            self.network.cut(machine.0, other.0);
        }
    }

    /// Nothing from this machine arrives at the master; the way back is open.
    pub fn mute(&mut self, machine: Machine) {
        self.cut_off.insert(machine);
        let cut = net::Weather {
            cut: true,
            ..net::Weather::default()
        };
        self.network.set(machine.0, MASTER.0, cut);
    }

    /// All links are fair again. What ran on machines that were cut off counts again from the next time that
    /// [`Cluster::wait_running`] has found its app in order.
    pub fn heal(&mut self) {
        self.network.heal();
    }

    /// Stops a machine and its clock.
    pub fn freeze(&mut self, machine: Machine) -> Result<()> {
        self.guest(machine).freeze()?;
        self.cut_off.insert(machine);
        self.frozen.insert(machine);
        Ok(())
    }

    /// Lets it go on.
    pub fn thaw(&mut self, machine: Machine) -> Result<()> {
        self.guest(machine).thaw()?;
        self.frozen.remove(&machine);
        Ok(())
    }

    /// `kill -9` of a server, by its verb; it is started again.
    pub fn kill(&self, machine: Machine, server: &str) -> Result<()> {
        self.signal(machine, "KILL", &["mezzo", server])
    }

    /// A signal to the processes whose command line begins with two words; an error if there is none.
    pub fn signal(&self, machine: Machine, signal: &str, words: &[&str; 2]) -> Result<()> {
        let [program, verb] = words;
        let script = format!(
            "found=1
            for file in $(grep -lz '^{verb}$' /proc/[0-9]*/cmdline 2>/dev/null); do
                pid=${{file#/proc/}}
                case \"$(tr '\\0' ' ' < $file)\" in
                    '{program} {verb} '*) kill -{signal} ${{pid%/cmdline}} && found=0;;
                esac
            done
            exit $found"
        );
        let sent = self.guest(machine).sh(&script).map(drop);
        sent.with_context(|| format!("send {signal} to {program} {verb} on {}", machine.name()))
    }
}
