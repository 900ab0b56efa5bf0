//! A container's place in the network, and the server in it.

use std::fs;
use std::time::Duration;

use mezzo_runtime::{Attachment, Network, NetworkConfig, NetworkRequest, PortMap, PortProtocol};

use crate::common::{Node, chain, id, within};

pub(crate) fn node(configure: impl FnOnce(&mut NetworkConfig)) -> Option<Node> {
    let mut node = Node::closed()?;
    configure(&mut node.config.network);
    Some(node)
}

pub(crate) fn tcp(host_port: u16, container_port: u16) -> PortMap {
    PortMap {
        protocol: PortProtocol::Tcp,
        host_port,
        container_port,
    }
}

/// A container that serves, once it does; with its first process.
pub(crate) async fn serve(
    node: &Node,
    name: &str,
    how: &[&str],
    ports: Vec<PortMap>,
) -> (Attachment, i32) {
    let attachment = node
        .runtime()
        .prepare_network(&id(name), NetworkRequest::Bridge { ports })
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    (attachment, begin(node, name, how).await)
}

/// The server of a container that has its place in the network, once it serves.
pub(crate) async fn begin(node: &Node, name: &str, how: &[&str]) -> i32 {
    let mut spec = node.spec(&[&["serve"], how].concat());
    spec.network = Network::Prepared;
    let started = node
        .runtime()
        .start(&id(name), spec)
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    node.await_output(name, "ready").await;
    started.pid
}

pub(crate) async fn end(node: &Node, name: &str) {
    let id = id(name);
    let stopped = node.runtime().stop(&id, Duration::ZERO, 9);
    within(stopped).await.unwrap();
    within(node.runtime().wait(&id)).await.unwrap();
}

pub(crate) fn leases(node: &Node) -> usize {
    let dir = node.config.state_dir.join("network/leases");
    fs::read_dir(dir).map_or(0, Iterator::count)
}
