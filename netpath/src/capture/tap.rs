//! Packet sockets: everything that passes some interfaces of a namespace.
//!
//! The kernel shows a packet to such a socket on its way in before any tc program has it, and on its way out after all of
//! them. A packet that `redirect_peer` brings into a pod comes in there as by any other way.

use std::{
    io::{self, ErrorKind, IoSliceMut},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    time::Duration,
};

use nix::{
    cmsg_space, libc,
    net::if_::if_nametoindex,
    sys::{
        socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt},
        time::{TimeSpec, TimeValLike as _},
    },
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::{CaptureError, Captured};
use crate::net::Netns;

/// Bytes of packets that wait in the kernel; what comes beyond them is lost, and counted.
const ROOM: usize = 16 << 20;
/// Packets that are read at once, so that no more are in memory.
const BATCH: usize = 64;

/// A packet socket.
pub(super) struct Tap {
    socket: Socket,
    /// Of its interfaces, in the order they were named.
    ifindexes: Vec<u32>,
    /// Number of the first of its points.
    first: usize,
    buffer: Vec<u8>,
    /// Packets lost so far, as the kernel last told.
    lost: u32,
}

impl Tap {
    /// Listens on interfaces of a namespace; their points are numbered from `first` on.
    pub(super) fn open(
        netns: &Netns,
        names: &[&str],
        first: usize,
        snaplen: u32,
    ) -> Result<Self, CaptureError> {
        let doing = || format!("listening on {} in {netns}", names.join(", "));
        let listen = || {
            let ifindexes = names.iter().map(|name| if_nametoindex(*name)).collect::<Result<Vec<_>, _>>()?;
            let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all))?;
            socket.attach_filter(&only(&ifindexes))?;
            setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
            setsockopt(&socket, sockopt::RxqOvfl, &1)?;
            Ok((socket, ifindexes))
        };
        let opened: io::Result<_> = netns.enter(listen)?;
        let (socket, ifindexes) = opened.map_err(|error| CaptureError::new(doing(), error))?;
        let buffer = vec![0; snaplen as usize];
        let mut tap = Self { socket, ifindexes, first, buffer, lost: 0 };
        // What came before the filter was there.
        while tap.next()?.is_some() {}
        Ok(tap)
    }

    /// Packets that the kernel had no room for; it tells with the next one that it has room for.
    pub(super) fn lost(&self) -> u64 {
        self.lost.into()
    }

    /// Reads what is there, up to a number of packets.
    pub(super) fn read(&mut self, into: &mut Vec<Captured>) -> Result<(), CaptureError> {
        for _ in 0..BATCH {
            match self.next()? {
                Some(packet) => into.extend(packet),
                None => break,
            }
        }
        Ok(())
    }

    /// The next packet; `None` if there is none, `Some(None)` for one of another interface.
    fn next(&mut self) -> Result<Option<Option<Captured>>, CaptureError> {
        let mut control = cmsg_space!(TimeSpec, u32);
        let mut parts = [IoSliceMut::new(&mut self.buffer)];
        // With MSG_TRUNC, the length is that of the whole packet.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let fd = self.socket.as_raw_fd();
        let message = match recvmsg::<LinkAddr>(fd, &mut parts, Some(&mut control), flags) {
            Ok(message) => message,
            Err(errno) => match io::Error::from(errno).kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => return Ok(None),
                // An interface went down, or away.
                ErrorKind::NetworkDown => return Ok(Some(None)),
                _ => return Err(CaptureError::new("reading packets", errno)),
            },
        };
        let (length, from) = (message.bytes, message.address);
        let mut time = Duration::ZERO;
        for told in message.cmsgs().map_err(|errno| CaptureError::new("reading packets", errno))? {
            match told {
                ControlMessageOwned::ScmTimestampns(at) => {
                    time = Duration::from_nanos(at.num_nanoseconds().unsigned_abs());
                }
                ControlMessageOwned::RxqOvfl(lost) => self.lost = lost,
                _ => {}
            }
        }
        let Some(from) = from else { return Ok(Some(None)) };
        let Some(at) = self.ifindexes.iter().position(|ifindex| *ifindex as usize == from.ifindex()) else {
            return Ok(Some(None));
        };
        Ok(Some(Some(Captured {
            point: self.first + at,
            outgoing: from.pkttype() == libc::PACKET_OUTGOING,
            time,
            frame: self.buffer[..length.min(self.buffer.len())].to_vec(),
            length: length as u32,
            tuple: None,
            in_pod: None,
            flags: String::new(),
        })))
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket filter that lets pass only what is seen on these interfaces.
fn only(ifindexes: &[u32]) -> Vec<SockFilter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let ifindex = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX) as u32;
    let mut program = vec![SockFilter::new(LOAD, 0, 0, ifindex)];
    for (at, own) in ifindexes.iter().enumerate() {
        // Over the other questions and the refusal.
        let over = (ifindexes.len() - at) as u8;
        program.push(SockFilter::new(JUMP_IF_EQUAL, over, 0, *own));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program
}
