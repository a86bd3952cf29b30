//! The host's ephemeral ports leave out those that bindings have, and published ones.

use super::{Agent, AgentError, blocking, lock, ports::Ports, ranges::Ranges};
use crate::{datapath::Told, net::sysctl};

const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

impl Agent {
    /// Keeps the SNAT range, what is in use of earlier ones, and published ports out of the host's ephemeral ports, beside whatever is
    /// reserved already.
    pub(super) async fn reserve_ports(&self) -> Result<(), AgentError> {
        let ours = Ports::parse(&self.state.host().await.reserved_ports);
        let present = Ports::parse(&blocking(|| sysctl::read(RESERVED_PORTS)).await?);
        let others = present.without(&ours);
        // As the programs have been told: the configuration may have changed since.
        let ranges = lock(&self.node).ranges.clone();
        let chosen = ranges.chosen.unwrap_or_else(|| self.config().snat_ports.clone());
        let mut wanted = Ports::range(&chosen).with(&self.published_ports());
        if let Some(retired) = &ranges.retired {
            // They may lie far apart with ports between that the host needs.
            wanted = wanted.with(&ours.within(&Ports::range(retired)));
        }
        let added = wanted.without(&others);
        let wanted = others.with(&added);
        // Until they are back with the host, those of an earlier range are still ours.
        self.state.record(|host| host.reserved_ports = ours.with(&added).to_string()).await?;
        if wanted != present {
            write_reserved(&wanted).await?;
        }
        self.state.record(|host| host.reserved_ports = added.to_string()).await
    }
}

/// The ports that the tables of an instance have reserved: those of the SNAT range, what may be bound outside of it, and
/// published ones.
pub(super) fn ports_of(told: &Told) -> String {
    let ranges = Ranges::of(&told.node);
    let ranges = ranges.chosen.iter().chain(ranges.retired.as_ref());
    let published = told.published.iter().map(|port| *port..=*port);
    let all = ranges.cloned().chain(published);
    all.fold(Ports::parse(""), |all, range| all.with(&Ports::range(&range))).to_string()
}

/// Takes ports off the reserved ones.
pub(super) async fn release_ports(added: &str) -> Result<(), AgentError> {
    let present = Ports::parse(&blocking(|| sysctl::read(RESERVED_PORTS)).await?);
    let left = present.without(&Ports::parse(added));
    if left != present { write_reserved(&left).await } else { Ok(()) }
}

async fn write_reserved(ports: &Ports) -> Result<(), AgentError> {
    // Nothing at all would be no write: an empty line empties the list.
    let value = format!("{ports}\n");
    blocking(move || sysctl::write(RESERVED_PORTS, &value)).await?;
    Ok(())
}
