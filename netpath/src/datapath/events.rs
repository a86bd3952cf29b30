//! The ring of events.

use aya::maps::{MapData, RingBuf};
use netpath_common::abi::Event;
use tokio::io::unix::AsyncFd;

use super::error::{DatapathError, kernel};

/// The ring of events, to be awaited.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    #[expect(
        deprecated,
        reason = "its successor is unsafe, against types that swap their descriptor; a ring does not"
    )]
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, DatapathError> {
        Ok(Self { ring: AsyncFd::new(ring).map_err(kernel("polling the ring of events"))? })
    }

    /// The next event.
    ///
    /// # Errors
    /// The kernel's reason if the ring cannot be polled.
    pub async fn next(&mut self) -> Result<Event, DatapathError> {
        loop {
            let mut guard = self.ring.readable_mut().await.map_err(kernel("polling the ring of events"))?;
            if let Some(event) = guard.get_inner_mut().next().as_deref().and_then(parse) {
                return Ok(event);
            }
            guard.clear_ready();
        }
    }
}

/// A record of the ring, host order, laid out as [`Event`].
fn parse(bytes: &[u8]) -> Option<Event> {
    use netpath_common::abi::Addr;
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    let u16_at = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let addr_at = |at: usize| Some(Addr([u32_at(at)?, u32_at(at + 4)?, u32_at(at + 8)?, u32_at(at + 12)?]));
    Some(Event {
        time: u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?),
        src: addr_at(8)?,
        dst: addr_at(24)?,
        translated: addr_at(40)?,
        ifindex: u32_at(56)?,
        length: u32_at(60)?,
        sport: u16_at(64)?,
        dport: u16_at(66)?,
        translated_port: u16_at(68)?,
        proto: bytes[70],
        kind: bytes[71],
        reason: bytes[72],
        program: bytes[73],
        pad: [0; 6],
    })
}
