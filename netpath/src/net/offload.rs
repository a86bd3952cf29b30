//! Offloads of a link, as `ethtool -K` sets them: requests to the kernel's generic netlink family `ethtool`.
//!
//! The kernel's numbers are in include/uapi/linux/{genetlink,ethtool_netlink}.h.

use std::io;

use rtnetlink::{
    packet_core::{
        DecodeError, DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST,
        NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, Nla as _,
        NlaBuffer, NlasIterator,
    },
    sys::{Socket, protocols::NETLINK_GENERIC},
};

use super::{NetError, Netns};

/// An offload by the kernel's name for it, and whether it is to be on.
pub type Offload = (&'static str, bool);

/// The family that tells of families.
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const DEV_NAME: u16 = 2;
const HEADER_FLAGS: u16 = 3;
const OMIT_REPLY: u32 = 2;
const BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// Room for an answer: the description of a family.
const LARGEST: usize = 32 * 1024;

/// Sets offloads of a link in a namespace; those that are not named stay. Nothing is announced if nothing changes. Blocks for
/// some system calls.
///
/// # Errors
/// The kernel's reason: there is no such link, or it knows no such offload.
pub fn set_offloads(netns: &Netns, link: &str, offloads: &[Offload]) -> Result<(), NetError> {
    let doing = format!("set the offloads of {link} in {netns}");
    netns.enter(|| set(link, offloads).map_err(|error| error.within(&doing)))?
}

fn set(link: &str, offloads: &[Offload]) -> Result<(), NetError> {
    let socket = open().map_err(|error| NetError::io("open a netlink socket", &error))?;
    let family = family(&socket)?;
    let bits: Vec<_> = offloads
        .iter()
        .map(|(name, on)| {
            let mut bit = vec![text(BIT_NAME, name)];
            bit.extend(on.then(|| DefaultNla::new(BIT_VALUE, Vec::new())));
            nest(BIT, &bit)
        })
        .collect();
    let flags = DefaultNla::new(HEADER_FLAGS, OMIT_REPLY.to_ne_bytes().to_vec());
    let attributes = vec![
        nest(FEATURES_HEADER, &[text(DEV_NAME, link), flags]),
        nest(FEATURES_WANTED, &[nest(BITS, &bits)]),
    ];
    ask(&socket, Generic { family, command: FEATURES_SET, attributes }).map(drop)
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    socket.bind_auto()?;
    Ok(socket)
}

/// The number that the kernel has given to ethtool's family.
fn family(socket: &Socket) -> Result<u16, NetError> {
    let attributes = vec![text(FAMILY_NAME, "ethtool")];
    let answers = ask(socket, Generic { family: CONTROLLER, command: GET_FAMILY, attributes })?;
    let id = |attribute: &DefaultNla| {
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        (attribute.kind() == FAMILY_ID).then(|| value.try_into().ok()).flatten().map(u16::from_ne_bytes)
    };
    answers
        .iter()
        .flat_map(|answer| &answer.attributes)
        .find_map(id)
        .ok_or_else(|| NetError::new("look up the netlink family ethtool", "the kernel tells no number"))
}

/// Sends a request, and reads until the kernel has acknowledged it.
fn ask(socket: &Socket, request: Generic) -> Result<Vec<Generic>, NetError> {
    let doing = "ask the kernel about offloads";
    let mut request = NetlinkMessage::from(request);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).map_err(|error| NetError::io(doing, &error))?;
    let mut answers = Vec::new();
    loop {
        bytes.clear();
        bytes.reserve(LARGEST);
        socket.recv(&mut bytes, 0).map_err(|error| NetError::io(doing, &error))?;
        let answer = NetlinkMessage::<Generic>::deserialize(&bytes)
            .map_err(|error| NetError::new(doing, format!("an answer that nobody understands: {error}")))?;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => answers.push(message),
            NetlinkPayload::Error(error) => match error.code {
                None => return Ok(answers),
                Some(code) => return Err(NetError::kernel(doing, code.get().abs(), None)),
            },
            _ => return Err(NetError::new(doing, "the kernel lost answers (overrun)")),
        }
    }
}

/// A message of a generic family.
#[derive(Clone, Debug)]
struct Generic {
    family: u16,
    command: u8,
    attributes: Vec<DefaultNla>,
}

/// Bytes of its header: command, version, two of nothing.
const HEADER: usize = 4;
const VERSION: u8 = 1;

impl NetlinkSerializable for Generic {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, rest) = buffer.split_at_mut(HEADER);
        header.copy_from_slice(&[self.command, VERSION, 0, 0]);
        self.attributes.as_slice().emit(rest);
    }
}

impl NetlinkDeserializable for Generic {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let rest = payload.get(HEADER..).unwrap_or_default();
        let attribute = |found: Result<_, DecodeError>| {
            let found: NlaBuffer<&[u8]> = found?;
            Ok(DefaultNla::new(found.kind(), found.value().to_vec()))
        };
        let attributes = NlasIterator::new(rest).map(attribute).collect::<Result<_, DecodeError>>()?;
        let command = payload.first().copied().unwrap_or_default();
        Ok(Self { family: header.message_type, command, attributes })
    }
}

impl From<Generic> for NetlinkPayload<Generic> {
    fn from(message: Generic) -> Self {
        Self::InnerMessage(message)
    }
}

fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), &[0]].concat())
}

fn nest(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; inner.buffer_len()];
    inner.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{VethEnd, testing};

    /// What ethtool prints of an offload.
    fn shown(netns: &Netns, link: &str, name: &str) -> String {
        let output = netns
            .enter(|| std::process::Command::new("ethtool").args(["-k", link]).output())
            .unwrap()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name} among:\n{text}")).to_owned()
    }

    #[test]
    fn offloads_are_set_by_name_and_back() {
        testing::with_pair(|pair| async move {
            let end = |name, netns| VethEnd { name, mac: None, netns };
            pair.node.add_veth(&end("a", None), &end("b", Some(&pair.pod_ns)), None).await.unwrap();
            let is = |name: &str| shown(&pair.pod_ns, "b", name);
            let names = ["tx-checksum-ip-generic", "tx-checksum-sctp", "generic-receive-offload"];
            assert_eq!(names.map(is), ["on", "on", "off"]);
            let wanted = [("tx-checksum-ip-generic", false), ("tx-checksum-sctp", false), ("rx-gro", true)];
            for _ in 0..2 {
                set_offloads(&pair.pod_ns, "b", &wanted).unwrap();
                assert_eq!(names.map(is), ["off", "off", "on"]);
            }
            set_offloads(&pair.pod_ns, "b", &wanted.map(|(name, on)| (name, !on))).unwrap();
            assert_eq!(names.map(is), ["on", "on", "off"]);
            assert_eq!(shown(&pair.node_ns, "a", names[0]), "on", "the other end's own");
        });
    }

    #[test]
    fn no_such_link_and_no_such_offload_are_told() {
        testing::with_pair(|pair| async move {
            let gone = set_offloads(&pair.pod_ns, "b", &[("rx-gro", true)]).unwrap_err();
            assert!(
                gone.is(nix::errno::Errno::ENODEV) && gone.to_string().contains("offloads of b"),
                "{gone}"
            );
            let unknown = set_offloads(&pair.pod_ns, "lo", &[("rx-nothing", true)]).unwrap_err();
            assert!(unknown.errno.is_some(), "{unknown}");
        });
    }
}
