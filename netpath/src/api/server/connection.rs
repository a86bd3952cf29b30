//! Connections: so many at once and no more, each with deadlines. Where there is no room, the one that has been silent
//! longest makes some.

use std::{
    collections::BTreeMap,
    future::Future,
    io::{self, IoSlice},
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
/// How long a connection may be silent before it is asked to make room.
const SILENT: Duration = Duration::from_secs(1);

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
        Self::accept(self).await.map(|(stream, _)| (stream, Peer::Stranger))
    }
}

/// What is known of a connection.
pub(super) struct Client {
    /// Requests at work.
    busy: AtomicUsize,
    /// When a byte last went in or out.
    progress: Mutex<Instant>,
    leave: Notify,
}

impl Client {
    fn new() -> Self {
        Self { busy: AtomicUsize::new(0), progress: Mutex::new(Instant::now()), leave: Notify::new() }
    }

    /// As long as it is held, the client has a reason to be silent.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    fn moved(&self) {
        *lock(&self.progress) = Instant::now();
    }

    /// How long it has been silent without a reason.
    fn silent(&self) -> Option<Duration> {
        (self.busy.load(Ordering::Relaxed) == 0).then(|| lock(&self.progress).elapsed())
    }
}

/// See [`Client::busy`].
pub(super) struct Busy(Arc<Client>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.moved();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Room for so many connections.
pub(super) struct Room {
    limit: usize,
    clients: Mutex<(u64, BTreeMap<u64, Arc<Client>>)>,
    left: Notify,
}

impl Room {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, clients: Mutex::default(), left: Notify::new() })
    }

    /// A place, perhaps that of a client that has been silent for longest.
    fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut clients = lock(&self.clients);
        let (next, all) = &mut *clients;
        if all.len() >= self.limit {
            let silent = |(number, client): (&u64, &Arc<Client>)| Some((client.silent()?, *number));
            let (_, number) = all.iter().filter_map(silent).filter(|(time, _)| *time >= SILENT).max()?;
            all.remove(&number)?.leave.notify_one();
        }
        let number = *next;
        *next += 1;
        let client = Arc::new(Client::new());
        all.insert(number, Arc::clone(&client));
        Some(Place { room: Arc::clone(self), number, client })
    }

    /// The same, as soon as there is one.
    async fn wait(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.enter() {
                return place;
            }
            let _ = timeout(PAUSE, self.left.notified()).await;
        }
    }

    /// Ends all connections that nothing is being done for.
    fn clear(&self) {
        for client in lock(&self.clients).1.values().filter(|client| client.silent().is_some()) {
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
/// are taken, so that they cannot keep anybody waiting.
pub(super) async fn serve(
    listener: impl Accept,
    (rooted, others): (Arc<Room>, Arc<Room>),
    router: Router,
    ended: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_header_size(HEAD_LIMIT);
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
                place = rooted.wait() => Some(place),
                () = &mut ended => break,
            },
            _ => others.enter(),
        };
        // Without a place the connection closes here.
        let Some(place) = place else { continue };
        let client = Arc::clone(&place.client);
        let io = TokioIo::new(Connection { io, client: Arc::clone(&place.client), unread: None });
        let service = router.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&client));
            request.extensions_mut().insert(peer);
            request
        });
        let served = graceful.watch(http.serve_connection(io, TowerToHyperService::new(service)));
        tokio::spawn(async move {
            tokio::select! {
                // What a client does wrong is its own affair.
                _ = served => {}
                () = place.client.leave.notified() => {}
            }
        });
    }
    rooted.clear();
    others.clear();
    graceful.shutdown().await;
}

/// A client's connection: notes when it moves, and ends when what is written stays unread.
struct Connection<I> {
    io: I,
    client: Arc<Client>,
    unread: Option<Pin<Box<Sleep>>>,
}

impl<I> Connection<I> {
    fn written<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.unread = None;
            self.client.moved();
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
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() {
            self.client.moved();
        }
        read
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

    #[test]
    fn a_place_is_made_of_who_has_been_silent_for_long_and_has_no_reason() {
        let room = Room::new(2);
        let silence = |place: &Place, time: Duration| {
            *lock(&place.client.progress) = Instant::now().checked_sub(time).unwrap();
        };
        let (first, second) = (room.enter().unwrap(), room.enter().unwrap());
        assert!(room.enter().is_none(), "both have just come");
        silence(&first, 5 * SILENT);
        silence(&second, 9 * SILENT);
        let reason = second.client.busy();
        let third = room.enter().expect("the first one's");
        assert!(room.enter().is_none());
        drop(first);
        assert!(room.enter().is_none(), "its place is another's by now");
        drop(reason);
        assert!(room.enter().is_none(), "an answer is on its way");
        silence(&second, SILENT);
        let fourth = room.enter().expect("the second one's");
        drop(third);
        assert!(room.enter().is_some());
        drop(fourth);
    }
}
