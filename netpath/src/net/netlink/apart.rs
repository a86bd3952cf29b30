//! One request on a socket and a thread of its own, for what the kernel takes long over: whoever sends waits inside the kernel,
//! and on the connection's socket everybody else would wait with him.

use std::io;

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{Socket, protocols::NETLINK_ROUTE},
};

use super::{HEADER, Netlink, kernel_words};
use crate::net::NetError;

/// Room for an acknowledgement, bytes: it repeats nothing of the request.
const ANSWER: usize = 8192;

impl Netlink {
    /// Sends a request in the connection's namespace, and waits until the kernel has acknowledged it.
    pub(super) async fn request_apart(
        &self,
        doing: &str,
        message: RouteNetlinkMessage,
    ) -> Result<(), NetError> {
        let doing = doing.to_owned();
        self.connection.netns.enter_async(move || ask(&doing, message)).await?
    }
}

fn ask(doing: &str, message: RouteNetlinkMessage) -> Result<(), NetError> {
    let io = |error: io::Error| NetError::io(doing, &error);
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(io)?;
    socket.set_ext_ack(true).map_err(io)?;
    socket.set_cap_ack(true).map_err(io)?;
    socket.bind_auto().map_err(io)?;
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).map_err(io)?;
    bytes.clear();
    bytes.reserve(ANSWER);
    socket.recv(&mut bytes, 0).map_err(io)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes)
        .map_err(|error| NetError::new(doing, format!("an answer that nobody understands: {error}")))?;
    match answer.payload {
        NetlinkPayload::Error(error) => match error.code {
            None => Ok(()),
            Some(code) => {
                let words = error.header.get(HEADER..).and_then(kernel_words);
                Err(NetError::kernel(doing, code.get().abs(), words.as_deref()))
            }
        },
        _ => Err(NetError::new(doing, "the kernel answered something else")),
    }
}
