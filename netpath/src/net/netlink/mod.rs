//! A netlink connection to one namespace: requests and their answers. The verbs are in the files below.

mod address;
mod apart;
mod inspect;
mod link;
mod neighbour;
mod qdisc;
mod route;
mod rule;
mod survey;
mod vxlan;
mod watch;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use nix::errno::Errno;
use rtnetlink::{
    Handle,
    packet_core::{
        NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    },
    packet_route::RouteNetlinkMessage,
    sys::AsyncSocket,
};
use tokio::{
    runtime,
    sync::Mutex,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{NetError, Netns};

pub use address::Address;
pub use inspect::{Filter, LinkState};
pub use link::{Link, LinkDetail, Settings, SettingsV6, VethEnd};
pub use qdisc::Shape;
pub use route::{KernelRoute, ROUTE_PROTOCOL, Route, RouteKind};
pub(super) use rule::Rule;
pub(super) use survey::Inside;
pub use survey::Survey;
pub use vxlan::Tunnel;
pub use watch::{Hints, Watch};

/// An answer takes microseconds, and seconds while namespaces are torn down under the kernel's one lock for links.
const ANSWER: Duration = Duration::from_secs(30);
/// How often a dump is asked for again because the table changed under it.
const DUMP_ATTEMPTS: usize = 10;
/// Pause before a dump is asked for again because another is under way.
const BUSY: Duration = Duration::from_millis(2);
/// Length of the request's header, which the kernel repeats in an error.
const HEADER: usize = 16;
/// Attribute of an extended acknowledgement that holds the kernel's words (`NLMSGERR_ATTR_MSG`).
const ACK_MESSAGE: u16 = 1;

/// A netlink connection to one namespace. Clones share it; it closes with the last one.
#[derive(Clone, Debug)]
pub struct Netlink {
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    netns: Netns,
    handle: Handle,
    task: AbortHandle,
    /// Held while a table is read: a socket has one dump at a time, and the kernel answers `EBUSY` to a second.
    dumping: Mutex<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// Opens a socket inside `netns`; it stays bound to it. Needs a tokio runtime with I/O and time.
    pub async fn connect(netns: &Netns) -> Result<Self, NetError> {
        let doing = format!("open a netlink socket in {netns}");
        let runtime = runtime::Handle::current();
        let opened = netns
            .enter_async(move || {
                let _reactor = runtime.enter();
                let (mut connection, handle, _) = rtnetlink::new_connection()?;
                connection.set_forward_ack(true);
                connection.set_forward_done(true);
                let socket = connection.socket_mut().socket_mut();
                // The kernel's words for an error, without a copy of the request in front of them.
                socket.set_ext_ack(true)?;
                socket.set_cap_ack(true)?;
                // The kernel then filters dumps itself: a node may hold a full BGP table.
                socket.set_netlink_get_strict_chk(true)?;
                Ok((connection, handle))
            })
            .await?;
        let (connection, handle) = opened.map_err(|error: std::io::Error| NetError::io(doing, &error))?;
        let task = tokio::spawn(connection).abort_handle();
        Ok(Self {
            connection: Arc::new(Connection {
                netns: netns.clone(),
                handle,
                task,
                dumping: Mutex::default(),
            }),
        })
    }

    /// Sends a request and waits until the kernel has acknowledged it; what it sent before that, for a `get`.
    async fn request(
        &self,
        doing: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        Ok(self.exchange(doing, message, NLM_F_REQUEST | NLM_F_ACK | flags).await?.0)
    }

    /// Reads a whole table, again if it changed meanwhile.
    async fn dump(
        &self,
        doing: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        let _turn = self.connection.dumping.lock().await;
        for _ in 0..DUMP_ATTEMPTS {
            match self.exchange(doing, message.clone(), NLM_F_REQUEST | NLM_F_DUMP).await {
                Ok((answers, false)) => return Ok(answers),
                Ok((_, true)) => {}
                // Whoever asked before us was cancelled, and its dump is not at its end.
                Err(error) if error.is(Errno::EBUSY) => sleep(BUSY).await,
                Err(error) => return Err(error),
            }
        }
        Err(NetError::new(
            doing,
            format!("the table changed under each of {DUMP_ATTEMPTS} attempts; try again"),
        ))
    }

    /// One request, all its answers, and whether the kernel says that they are inconsistent.
    async fn exchange(
        &self,
        doing: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), NetError> {
        let closed = || NetError::new(doing, "the netlink connection is closed");
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut answers = self.connection.handle.clone().request(request).map_err(|_| closed())?;
        let (mut received, mut interrupted) = (Vec::new(), false);
        loop {
            let answer = timeout(ANSWER, answers.next())
                .await
                .map_err(|_| NetError::new(doing, format!("no answer from the kernel within {ANSWER:?}")))?
                .ok_or_else(closed)?;
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => received.push(message),
                NetlinkPayload::Error(error) => {
                    let Some(code) = error.code else { return Ok((received, interrupted)) };
                    let words = error.header.get(HEADER..).and_then(kernel_words);
                    return Err(NetError::kernel(doing, code.get().abs(), words.as_deref()));
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    let words = kernel_words(&done.extended_ack);
                    return Err(NetError::kernel(doing, -done.code, words.as_deref()));
                }
                NetlinkPayload::Done(_) => return Ok((received, interrupted)),
                _ => return Err(NetError::new(doing, "the kernel lost answers (overrun); try again")),
            }
        }
    }
}

/// The message of an extended acknowledgement, if there is one.
fn kernel_words(attributes: &[u8]) -> Option<String> {
    NlasIterator::new(attributes)
        .flatten()
        .find(|attribute| attribute.kind() == ACK_MESSAGE)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
}

/// Turns errors that mean "it is so already" into success.
fn already<T: Default>(result: Result<T, NetError>, fine: &[Errno]) -> Result<T, NetError> {
    match result {
        Err(error) if fine.iter().any(|errno| error.is(*errno)) => Ok(T::default()),
        other => other,
    }
}
