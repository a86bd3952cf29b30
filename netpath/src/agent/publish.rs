//! Published ports: ports of the node that lead to pods.
//!
//! The table holds those of the pods that are ready. A socket of the node is no obstacle later on: an engine such as podman
//! binds what it has published itself, to keep it from others.

use std::{
    cell::LazyCell,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use netpath_common::abi::{Flow, FlowKey, Rewrite};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    Agent, AgentError, blocking,
    events::protocol_name,
    holder, lock,
    node::Seen,
    ports::Ports,
    registry::{Entry, container},
};
use crate::{
    api::types::{PodSet, Published},
    compile,
    datapath::{DatapathError, FlowTable, Walk},
    model::{Pod, PodState, Publication, Transport},
};

impl Agent {
    /// All publications, by pod, with the connections that go by them now.
    ///
    /// # Errors
    /// If the flow table cannot be read.
    pub async fn published(&self) -> Result<Vec<Published>, AgentError> {
        let pods: Vec<Pod> =
            lock(&self.registry).pods().filter(is_ready).map(|entry| entry.pod.clone()).collect();
        let row = |pod: &Pod, one: &Publication| Published {
            address: one.address.map_or_else(|| "*".to_owned(), |address| address.to_string()),
            port: one.port,
            ports: one.count,
            protocol: protocol_name(one.protocol.number()),
            pod: pod.name.to_string(),
            pod_port: one.pod_port,
            connections: 0,
        };
        let table = compile::published(&pods);
        let all = pods.iter().flat_map(|pod| pod.publications.iter().map(move |one| (pod, one)));
        // The others stand by.
        let leading = all.filter(|(pod, one)| compile::leads(&table, pod, one));
        let mut rows: Vec<_> = leading.map(|(pod, one)| (pod.id, one.clone(), row(pod, one))).collect();
        let count = move |flows: &mut FlowTable| {
            count_connections(flows, &mut rows)?;
            Ok(rows)
        };
        Ok(self.on_flows(count).await?.into_iter().map(|(_, _, row)| row).collect())
    }

    /// Whether no socket of the node has a port that is to be published, but for those that an engine has for the container.
    pub(super) async fn check_sockets(
        &self,
        pod: &str,
        container: Option<&str>,
        wanted: &[Publication],
    ) -> Result<(), AgentError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let (all, container) = (wanted.to_vec(), container.map(str::to_owned));
        let used = move || {
            // Mostly there is no socket, and nobody has to know.
            let own = LazyCell::new(|| container.as_deref().map(holder::sockets_of).unwrap_or_default());
            all.iter().find_map(|one| {
                let is_own = |socket: SocketAddr| holder::have(&own, one.protocol, socket);
                Some((one.clone(), used_ports(one).find(|(socket, _)| !is_own(*socket))?))
            })
        };
        match blocking(used).await {
            None => Ok(()),
            Some((publication, (socket, error))) => Err(AgentError::PortInUse {
                pod: pod.to_owned(),
                publication: publication.to_string(),
                who: match error.kind() {
                    io::ErrorKind::AddrInUse => format!("a socket of the node, which has {socket}"),
                    _ => format!("perhaps a socket of the node: asking for {socket}: {error}"),
                },
                engines: None,
            }),
        }
    }

    /// The publications that a pod shall have by a request; none of the new ones is taken.
    pub(super) async fn changed_publications(
        &self,
        pod: &Pod,
        request: &PodSet,
    ) -> Result<Vec<Publication>, AgentError> {
        let invalid = |reason: String| AgentError::Invalid { pod: pod.name.to_string(), reason };
        let read = |texts: &[String]| {
            let parsed = texts.iter().map(|text| text.parse().map_err(|error| invalid(format!("{error}"))));
            parsed.collect::<Result<Vec<Publication>, _>>()
        };
        let (mut add, remove) = (read(&request.publish)?, read(&request.unpublish)?);
        let mut wanted = pod.publications.clone();
        for one in &remove {
            let at = wanted.iter().position(|own| own == one);
            wanted.remove(at.ok_or_else(|| invalid(format!("it does not publish {one}")))?);
        }
        add.retain(|one| !wanted.contains(one));
        self.check_sockets(pod.name.as_str(), container(pod), &add).await?;
        self.free_left_behind(&[], &add).await?;
        wanted.append(&mut add);
        Ok(wanted)
    }

    /// Has a pod's publications changed, in the registry and then in the state; all or nothing.
    pub(super) async fn save_settings(self: &Arc<Self>, before: &Pod, now: &Pod) -> Result<(), AgentError> {
        lock(&self.registry).set_publications(now)?;
        if let Err(error) = self.state.save(now).await {
            lock(&self.registry).set_settings(before);
            return Err(error);
        }
        lock(&self.registry).set_settings(now);
        Ok(())
    }

    /// Makes the programs lead what is published, and nothing else; ends flows by what a pod no longer publishes.
    pub(super) async fn republish(&self, before: &Pod, now: &Pod) -> Result<(), AgentError> {
        let followed = self.follow_published().await;
        let gone = before.publications.iter().filter(|one| !now.publications.contains(one));
        let gone: Vec<Publication> = gone.cloned().collect();
        let id = now.id;
        if !gone.is_empty() {
            let is_gone = move |key: &FlowKey, flow: &Flow| {
                let by = |one: &Publication| one.holds(key.proto, key.dst.to_ip(), u16::from_be(key.dport));
                flow.pod == id && flow.rewrite == Rewrite::Destination as u8 && gone.iter().any(by)
            };
            self.on_flows(move |flows| flows.remove_if(is_gone)).await?;
        }
        followed
    }

    /// Whether the table lacks a port that a pod publishes, or leads it elsewhere than to who had it first.
    pub(super) async fn lacks_published(&self, pod: &Pod) -> Result<bool, AgentError> {
        let own = compile::published([pod]);
        let wanted = compile::published(lock(&self.registry).pods().filter(is_ready).map(|entry| &entry.pod));
        let present = self.on_datapath(|datapath| datapath.published()).await?;
        Ok(own.keys().any(|key| wanted.get(key) != present.get(key)))
    }

    /// Makes the table of published ports right, whoever has changed it.
    pub(super) async fn ensure_published(&self) -> Result<(), AgentError> {
        let _one = self.node_changes.lock().await;
        self.write_published().await
    }

    /// The same after pods have come, gone or changed: the host's own ports follow. That they cannot is a problem of the node, and
    /// no reason to refuse a pod: programs lead a published port whoever else has it.
    pub(super) async fn follow_published(&self) -> Result<(), AgentError> {
        let _one = self.node_changes.lock().await;
        self.write_published().await?;
        self.note("reserved ports", &self.reserve_ports().await);
        Ok(())
    }

    async fn write_published(&self) -> Result<(), AgentError> {
        let (wanted, publishes) = {
            let registry = lock(&self.registry);
            (
                compile::published(registry.pods().filter(is_ready).map(|entry| &entry.pod)),
                registry.publishes(),
            )
        };
        self.on_datapath(move |datapath| datapath.set_published(&wanted)).await?;
        self.ensure_socket_hooks(publishes).await;
        let seen = lock(&self.node).seen.clone();
        if lock(&self.node).told.is_some_and(|told| compile::publishes(&told) != publishes) {
            self.write_tables(&seen).await?;
        }
        Ok(())
    }

    /// Tells which publications no packet comes for.
    pub(super) fn check_published(&self, seen: &Seen) -> Result<(), String> {
        let own = seen.surroundings().addresses;
        let registry = lock(&self.registry);
        let lacking = registry.pods().flat_map(|entry| {
            // All of 127.0.0.0/8 is the node's.
            let lacks = |one: &&Publication| {
                one.exact().is_some_and(|address| !address.is_loopback() && !own.contains(&address))
            };
            let words =
                |one| format!("pod {} publishes {one}: the node does not have the address", entry.pod.name);
            entry.pod.publications.iter().filter(lacks).map(words)
        });
        let words: Vec<_> = lacking.collect();
        if words.is_empty() { Ok(()) } else { Err(words.join("; ")) }
    }

    /// The ports of the node that are published.
    pub(super) fn published_ports(&self) -> Ports {
        let registry = lock(&self.registry);
        let all = registry.pods().filter(is_ready).flat_map(|entry| &entry.pod.publications);
        all.fold(Ports::parse(""), |ports, one| ports.with(&Ports::range(&one.ports())))
    }
}

fn is_ready(entry: &&Entry) -> bool {
    entry.pod.state == PodState::Ready
}

/// Counts the flows by each publication.
fn count_connections(
    flows: &mut FlowTable,
    rows: &mut [(u32, Publication, Published)],
) -> Result<(), DatapathError> {
    let mut walk = Walk::new();
    while !rows.is_empty() && flows.advance(&mut walk)? {
        let led = walk.originals().filter(|(_, flow)| flow.rewrite == Rewrite::Destination as u8);
        for (key, flow) in led {
            let by = |(pod, one, _): &&mut (u32, Publication, Published)| {
                *pod == flow.pod && one.holds(key.proto, key.dst.to_ip(), u16::from_be(key.dport))
            };
            if let Some((_, _, row)) = rows.iter_mut().find(by) {
                row.connections += 1;
            }
        }
    }
    Ok(())
}

/// Those of a publication's ports that a socket of the node has, or that may not be asked for (`CAP_NET_BIND_SERVICE`), each with
/// its address. Of an address that the node does not have, or a protocol that the kernel has not, nothing is known.
fn used_ports(one: &Publication) -> impl Iterator<Item = (SocketAddr, io::Error)> {
    let addresses: Vec<IpAddr> = match one.address {
        Some(address) => vec![address],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    };
    let (ports, protocol) = (one.ports(), one.protocol);
    let all = addresses
        .into_iter()
        .flat_map(move |address| ports.clone().map(move |port| SocketAddr::new(address, port)));
    all.filter_map(move |socket| {
        let error = bind(protocol, socket).err()?;
        let tells = matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied);
        tells.then_some((socket, error))
    })
}

/// Has a socket of the node for a moment. It does not listen: nobody connects to it.
fn bind(protocol: Transport, address: SocketAddr) -> io::Result<()> {
    let (kind, number) = match protocol {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Sctp => (Type::STREAM, Protocol::from(i32::from(Transport::Sctp.number()))),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(number))?;
    if protocol == Transport::Tcp {
        // What has just been closed does not listen any more.
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn used(text: &str) -> Option<SocketAddr> {
        used_ports(&text.parse().unwrap()).next().map(|(socket, _)| socket)
    }

    #[test]
    fn a_port_in_use_is_found_and_a_free_one_is_not() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let ports = [tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port()];
        let [t, u] = ports;
        assert_eq!(used(&format!("{t}:80")).map(|socket| socket.port()), Some(t), "on any address");
        assert!(used(&format!("127.0.0.1:{t}:80")).is_some());
        assert!(used(&format!("[::]:{t}:80")).is_none(), "another family");
        assert!(used(&format!("{u}:80/udp")).is_some());
        assert!(used(&format!("192.0.2.77:{t}:80")).is_none(), "not an address of this machine");
        drop((tcp, udp));
        assert_eq!((used(&format!("{t}:80")), used(&format!("{u}:80/udp"))), (None, None), "and free again");
        assert_eq!((used(&format!("{t}:80")), used(&format!("{u}:80/udp"))), (None, None), "nothing is left");
    }
}
