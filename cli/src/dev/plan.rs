//! What `mezzo dev` starts: addresses and command lines of the three servers.
//!
//! Pure, but for [`take_ports`], which asks the kernel which ports are free.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// One of the three children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Server {
    Master,
    Agent,
    Scheduler,
}

impl Server {
    pub(crate) const ALL: [Self; 3] = [Self::Master, Self::Agent, Self::Scheduler];

    /// Its verb, and the name of its log and state.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Agent => "agent",
            Self::Scheduler => "scheduler",
        }
    }
}

/// Everything that is decided before the first start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    state_dir: PathBuf,
    addresses: [SocketAddr; 3],
    insecure_registries: Vec<String>,
    resources: Option<String>,
}

impl Plan {
    /// `ports` in the order of [`Server::ALL`].
    pub(crate) fn new(
        state_dir: &Path,
        bind: IpAddr,
        ports: [u16; 3],
        insecure_registries: Vec<String>,
        resources: Option<String>,
    ) -> Self {
        let addresses = ports.map(|port| SocketAddr::new(bind, port));
        Self {
            state_dir: state_dir.to_owned(),
            addresses,
            insecure_registries,
            resources,
        }
    }

    /// Where a server listens.
    pub(crate) fn address(&self, server: Server) -> SocketAddr {
        let [master, agent, scheduler] = self.addresses;
        match server {
            Server::Master => master,
            Server::Agent => agent,
            Server::Scheduler => scheduler,
        }
    }

    /// Where a client on this machine finds a server.
    pub(crate) fn reachable(&self, server: Server) -> SocketAddr {
        let mut address = self.address(server);
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                IpAddr::V6(1_u128.into())
            });
        }
        address
    }

    /// The words after `mezzo` that start a server. The verb comes first, as `ps` shows it.
    pub(crate) fn words(&self, server: Server, our_pid: u32) -> Vec<String> {
        let state_dir = self.state_dir.join(server.name());
        let mut words: Vec<String> = vec![
            server.name().to_owned(),
            "--state-dir".to_owned(),
            // Checked to be UTF-8 when the directory was opened.
            state_dir.to_string_lossy().into_owned(),
            "--listen".to_owned(),
            self.address(server).to_string(),
            "--die-with".to_owned(),
            our_pid.to_string(),
        ];
        match server {
            Server::Master => {}
            Server::Scheduler => words.extend([
                "--master".to_owned(),
                self.reachable(Server::Master).to_string(),
            ]),
            Server::Agent => {
                words.extend([
                    "--master".to_owned(),
                    self.reachable(Server::Master).to_string(),
                ]);
                words.push("--kill-tasks-on-shutdown".to_owned());
                if self.address(server).ip().is_unspecified() {
                    words.extend(["--advertise".to_owned(), self.reachable(server).to_string()]);
                }
                for registry in &self.insecure_registries {
                    words.extend(["--insecure-registry".to_owned(), registry.clone()]);
                }
                if let Some(resources) = &self.resources {
                    words.extend(["--resources".to_owned(), resources.clone()]);
                }
            }
        }
        words
    }

    /// What a person is told when everything answers: where, and what to try next.
    pub(crate) fn ready_line(&self) -> String {
        let [master, agent, scheduler] =
            Server::ALL.map(|server| self.reachable(server).to_string());
        let mut variables = String::new();
        if master != "127.0.0.1:5050" {
            variables.push_str(&format!("MEZZO_MASTER={master} "));
        }
        if scheduler != "127.0.0.1:8080" {
            variables.push_str(&format!("MEZZO_SCHEDULER=http://{scheduler} "));
        }
        format!(
            "mezzo dev is ready: master {master}, agent {agent}, scheduler http://{scheduler}; \
             next: `{variables}mezzo app add FILE --wait`, `{variables}mezzo status`; Ctrl-C stops it"
        )
    }
}

/// The ports asked for, each seen to be free; 0 is replaced by one that the kernel chooses.
pub(crate) fn take_ports(bind: IpAddr, wanted: [u16; 3]) -> Result<[u16; 3], Failure> {
    let mut taken = Vec::new();
    let mut ports = [0; 3];
    for ((server, wanted), port) in Server::ALL.into_iter().zip(wanted).zip(&mut ports) {
        let listener = TcpListener::bind((bind, wanted)).map_err(|error| {
            let flag = format!("--{}-port", server.name());
            if error.kind() == std::io::ErrorKind::AddrInUse {
                Failure::failed(format!(
                    "port {wanted} of {bind} is in use, the {} cannot listen there: stop what uses it (`ss -ltnp sport = :{wanted}`) or give {flag}",
                    server.name()
                ))
            } else {
                Failure::failed(format!(
                    "the {} cannot listen on {bind}:{wanted}: {error}; see {flag} and --bind",
                    server.name()
                ))
            }
        })?;
        let address = listener.local_addr();
        *port = address
            .map_err(|error| Failure::failed(format!("cannot tell which port is free: {error}")))?
            .port();
        // Held until all three are known, so that they differ.
        taken.push(listener);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(bind: &str) -> Plan {
        let registries = vec!["127.0.0.1:5000".to_owned()];
        Plan::new(
            Path::new("/s"),
            bind.parse().unwrap(),
            [1, 2, 3],
            registries,
            Some("cpus:1".to_owned()),
        )
    }

    #[test]
    fn each_server_gets_its_own_state_and_knows_the_master() {
        let plan = plan("127.0.0.1");
        assert_eq!(
            plan.words(Server::Master, 7).join(" "),
            "master --state-dir /s/master --listen 127.0.0.1:1 --die-with 7"
        );
        assert_eq!(
            plan.words(Server::Scheduler, 7).join(" "),
            "scheduler --state-dir /s/scheduler --listen 127.0.0.1:3 --die-with 7 --master 127.0.0.1:1"
        );
        assert_eq!(
            plan.words(Server::Agent, 7).join(" "),
            "agent --state-dir /s/agent --listen 127.0.0.1:2 --die-with 7 --master 127.0.0.1:1 --kill-tasks-on-shutdown --insecure-registry 127.0.0.1:5000 --resources cpus:1"
        );
    }

    #[test]
    fn children_understand_their_command_lines() {
        use clap::Parser as _;
        for server in Server::ALL {
            let words = plan("127.0.0.1").words(server, 7);
            let cli =
                crate::args::Cli::try_parse_from(std::iter::once("mezzo".to_owned()).chain(words));
            assert!(cli.is_ok(), "{server:?}: {cli:?}");
        }
    }

    #[test]
    fn everything_on_all_addresses_is_still_found_on_loopback() {
        let plan = plan("0.0.0.0");
        assert_eq!(plan.address(Server::Master).to_string(), "0.0.0.0:1");
        assert_eq!(plan.reachable(Server::Master).to_string(), "127.0.0.1:1");
    }

    #[test]
    fn the_ready_line_tells_the_variables_only_where_they_are_needed() {
        let registries = Vec::new();
        let ports = [5050, 5051, 9090];
        let plan = Plan::new(
            Path::new("/s"),
            "127.0.0.1".parse().unwrap(),
            ports,
            registries,
            None,
        );
        assert_eq!(
            plan.ready_line(),
            "mezzo dev is ready: master 127.0.0.1:5050, agent 127.0.0.1:5051, scheduler http://127.0.0.1:9090; next: \
             `MEZZO_SCHEDULER=http://127.0.0.1:9090 mezzo app add FILE --wait`, \
             `MEZZO_SCHEDULER=http://127.0.0.1:9090 mezzo status`; Ctrl-C stops it"
        );
    }

    #[test]
    fn a_port_in_use_is_named_with_its_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = take_ports("127.0.0.1".parse().unwrap(), [0, port, 0])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!(
                "port {port} of 127.0.0.1 is in use, the agent cannot listen there"
            )),
            "{error}"
        );
        assert!(error.ends_with("or give --agent-port"), "{error}");
    }

    #[test]
    fn free_ports_differ() {
        let [a, b, c] = take_ports("127.0.0.1".parse().unwrap(), [0, 0, 0]).unwrap();
        assert!(a != b && b != c && a != c && a != 0);
    }
}
