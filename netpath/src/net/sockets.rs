//! Sockets of the calling thread's network namespace that have a port.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

/// A socket that keeps its address and port from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its own address and port.
    pub address: SocketAddr,
    /// Its inode, as processes' `fd` directories name it.
    pub inode: u64,
}

/// TCP sockets that listen, of both families; connections keep the port from nobody.
pub fn tcp() -> Vec<Bound> {
    read(["tcp", "tcp6"], Some("0A"))
}

/// UDP sockets of both families.
pub fn udp() -> Vec<Bound> {
    read(["udp", "udp6"], None)
}

impl Bound {
    /// Whether it keeps another from this address and port: `::` is mostly both families' (IPV6_V6ONLY is not told).
    pub fn keeps(&self, wanted: SocketAddr) -> bool {
        let (own, other) = (self.address.ip(), wanted.ip());
        let family = own.is_ipv4() == other.is_ipv4();
        let meets = own == other
            || (other.is_unspecified() && family)
            || (own.is_unspecified() && (family || own.is_ipv6()));
        meets && self.address.port() == wanted.port()
    }
}

fn read(tables: [&str; 2], state: Option<&str>) -> Vec<Bound> {
    let text = |table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    let texts = tables.map(text);
    let lines = texts.iter().flat_map(|text| text.lines().skip(1));
    lines.filter_map(|line| of_line(line, state)).collect()
}

/// "sl local remote st queues timer retransmits uid timeout inode …", the local address as HEX:PORT.
fn of_line(line: &str, state: Option<&str>) -> Option<Bound> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.rsplit_once(':')?;
    let address = SocketAddr::new(local(address)?, u16::from_str_radix(port, 16).ok()?);
    let wanted = state.is_none_or(|state| fields.get(3) == Some(&state));
    wanted.then_some(Bound { address, inode: fields.get(9)?.parse().ok()? })
}

/// An address as the tables have it: words of four bytes, each as the machine's number. IPv4 in IPv6 is IPv4.
fn local(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    if hex.len() == 8 {
        return Some(IpAddr::from(word(0)?));
    }
    let words = [word(0)?, word(8)?, word(16)?, word(24)?];
    let bytes: [u8; 16] = words.concat().try_into().ok()?;
    Some(IpAddr::from(bytes).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let one = u32::from_ne_bytes([127, 0, 0, 1]);
        assert_eq!(local(&format!("{one:08X}")), Some([127, 0, 0, 1].into()));
        let word = |bytes| format!("{:08X}", u32::from_ne_bytes(bytes));
        let own = [[0x20, 1, 0xd, 0xb8], [0; 4], [0; 4], [0, 0, 0, 2]].map(word).concat();
        assert_eq!(local(&own), Some("2001:db8::2".parse().unwrap()));
        let mapped = [[0; 4], [0; 4], [0, 0, 0xff, 0xff], [127, 0, 0, 1]].map(word).concat();
        assert_eq!(local(&mapped), Some([127, 0, 0, 1].into()));
        assert_eq!((local(""), local("0100007"), local("x100007F")), (None, None, None));
    }
}
