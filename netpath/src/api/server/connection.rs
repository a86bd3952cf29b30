//! Connections: so many at once and no more, each with deadlines. Where there is no room, the one that has been without a
//! request for longest makes some.

use std::{
    collections::BTreeMap,
    future::Future,
    io::{self, IoSlice},
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::Notify,
    time::{Sleep, sleep, timeout},
};
use tower::ServiceExt as _;

use super::peer::Peer;

/// Pause after a failed accept: out of descriptors, say, which passes.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a request's head may take, and how long a connection may be without a request.
const HEAD: Duration = Duration::from_secs(10);
/// Largest head of a request, bytes.
const HEAD_LIMIT: usize = 16 * 1024;
/// How long a client may leave what it is sent unread.
const UNREAD: Duration = Duration::from_secs(10);
/// How long a connection may be without a request before it is asked to make room. Bytes do not count: who sends one now and
/// then would stay for ever.
const IDLE: Duration = Duration::from_secs(1);

/// Somewhere clients come from.
pub(super) trait Accept {
    /// Their connections.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one, and who it is.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Peer)>> + Send;
}

impl Accept for TcpListener {
    type Io = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Io, Peer)> {
        Self::accept(self).await.map(|(stream, from)| (stream, Peer::Remote(origin(from.ip()))))
    }
}

/// Whose an address is, as far as it tells: of IPv6 a network of 64 bits, since a host has all its addresses (RFC 7934).
fn origin(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// What is known of a connection.
pub(super) struct Client {
    peer: Peer,
    /// Requests at work.
    busy: AtomicUsize,
    /// When it came, or was last answered.
    since: Mutex<Instant>,
    leave: Notify,
}

impl Client {
    fn new(peer: Peer) -> Self {
        Self { peer, busy: AtomicUsize::new(0), since: Mutex::new(Instant::now()), leave: Notify::new() }
    }

    /// As long as it is held, the client is not idle.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// When it came, or was last answered: no later than it sent the request that is at work.
    pub(super) fn since(&self) -> Instant {
        *lock(&self.since)
    }

    /// How long it has been here without a request.
    fn idle(&self) -> Option<Duration> {
        (self.busy.load(Ordering::Relaxed) == 0).then(|| lock(&self.since).elapsed())
    }
}

/// See [`Client::busy`].
pub(super) struct Busy(Arc<Client>);

impl Drop for Busy {
    fn drop(&mut self) {
        *lock(&self.0.since) = Instant::now();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Room for so many connections, and for so many of one peer.
pub(super) struct Room {
    limit: usize,
    each: usize,
    clients: Mutex<(u64, BTreeMap<u64, Arc<Client>>)>,
    left: Notify,
}

impl Room {
    pub(super) fn new(limit: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { limit, each, clients: Mutex::default(), left: Notify::new() })
    }

    /// A place, perhaps that of the client that has been idle for longest; of the same peer's, if that has as many as it may.
    fn enter(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let mut clients = lock(&self.clients);
        let (next, all) = &mut *clients;
        let has_all = all.values().filter(|client| client.peer == peer).count() >= self.each;
        if has_all || all.len() >= self.limit {
            let concerned = all.iter().filter(|(_, client)| !has_all || client.peer == peer);
            let idle = concerned.filter_map(|(number, client)| Some((client.idle()?, *number)));
            let (_, number) = idle.filter(|(time, _)| *time >= IDLE).max()?;
            all.remove(&number)?.leave.notify_one();
        }
        let number = *next;
        *next += 1;
        let client = Arc::new(Client::new(peer));
        all.insert(number, Arc::clone(&client));
        Some(Place { room: Arc::clone(self), number, client })
    }

    /// The same, as soon as there is one.
    async fn wait(self: &Arc<Self>, peer: Peer) -> Place {
        loop {
            if let Some(place) = self.enter(peer) {
                return place;
            }
            let _ = timeout(PAUSE, self.left.notified()).await;
        }
    }

    /// Ends all connections that nothing is being done for.
    fn clear(&self) {
        for client in lock(&self.clients).1.values().filter(|client| client.idle().is_some()) {
            client.leave.notify_one();
        }
    }
}

/// A connection's place in a room.
struct Place {
    room: Arc<Room>,
    number: u64,
    client: Arc<Client>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.room.clients).1.remove(&self.number);
        self.room.left.notify_one();
    }
}

/// Serves until `ended`, then until what was begun is answered. Root waits for a place; others are turned away when theirs
/// are taken, so that they cannot keep anybody waiting. With `once` a connection is for one request, and ends after that time
/// whatever its client does.
pub(super) async fn serve(
    listener: impl Accept,
    (rooted, others): (Arc<Room>, Arc<Room>),
    once: Option<Duration>,
    router: Router,
    ended: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_header_size(HEAD_LIMIT);
    http.keep_alive(once.is_none());
    let graceful = GracefulShutdown::new();
    let mut ended = std::pin::pin!(ended);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut ended => break,
        };
        let (io, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("accepting a client: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let place = match peer {
            Peer::Root => tokio::select! {
                place = rooted.wait(peer) => Some(place),
                () = &mut ended => break,
            },
            _ => others.enter(peer),
        };
        // Without a place the connection closes here.
        let Some(place) = place else { continue };
        let client = Arc::clone(&place.client);
        let io = TokioIo::new(Connection { io, unread: None });
        let service = router.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&client));
            request.extensions_mut().insert(peer);
            request
        });
        let served = graceful.watch(http.serve_connection(io, TowerToHyperService::new(service)));
        tokio::spawn(async move {
            tokio::select! {
                // What a client does wrong is its own affair.
                _ = timeout(once.unwrap_or(Duration::MAX), served) => {}
                () = place.client.leave.notified() => {}
            }
        });
    }
    rooted.clear();
    others.clear();
    graceful.shutdown().await;
}

/// A client's connection: ends when what is written stays unread.
struct Connection<I> {
    io: I,
    unread: Option<Pin<Box<Sleep>>>,
}

impl<I> Connection<I> {
    fn written<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.unread = None;
            return polled;
        }
        let unread = self.unread.get_or_insert_with(|| Box::pin(sleep(UNREAD)));
        ready!(unread.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Connection<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Connection<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle_for(place: &Place, time: Duration) {
        *lock(&place.client.since) = Instant::now().checked_sub(time).unwrap();
    }

    #[test]
    fn a_place_is_made_of_who_has_been_idle_for_longest() {
        let room = Room::new(2, 2);
        let enter = || room.enter(Peer::Root);
        let (first, second) = (enter().unwrap(), enter().unwrap());
        assert!(enter().is_none(), "both have just come");
        idle_for(&first, 5 * IDLE);
        idle_for(&second, 9 * IDLE);
        let request = second.client.busy();
        let third = enter().expect("the first one's");
        assert!(enter().is_none());
        drop(first);
        assert!(enter().is_none(), "its place is another's by now");
        drop(request);
        assert!(enter().is_none(), "it has just been answered");
        idle_for(&second, IDLE);
        let fourth = enter().expect("the second one's");
        drop(third);
        assert!(enter().is_some());
        drop(fourth);
    }

    #[test]
    fn who_has_too_many_places_gets_another_for_one_of_them_only() {
        for [one, same, other] in
            [["192.0.2.1", "192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2:0:0:2", "2001:db8:0:1::1"]]
        {
            let from = |text: &str| Peer::Remote(origin(text.parse().unwrap()));
            let room = Room::new(4, 2);
            let stranger = room.enter(from(other)).unwrap();
            idle_for(&stranger, 9 * IDLE);
            let (first, _second) = (room.enter(from(one)).unwrap(), room.enter(from(same)).unwrap());
            assert!(room.enter(from(same)).is_none(), "{one}: there is room, but not for it");
            idle_for(&first, IDLE);
            let _third = room.enter(from(same)).expect("the first one's");
            let _more = room.enter(from(other)).expect("there is room");
            assert!(room.enter(from(one)).is_none(), "{one}: the idle one is not its own");
            let late = room.enter(from("203.0.113.9")).expect("the idle one's");
            drop(late);
        }
    }
}
