//! What flows while agents come and go, counted to the packet.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use netpath::net::Netns;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{node::PATIENCE, packet::checksum::internet, side::ROOM};

/// Between two packets of a sender.
const PACE: Duration = Duration::from_millis(1);
/// Between two short connections of a loop.
const PAUSE: Duration = Duration::from_millis(4);
/// How long the last packets may be on their way.
const LAST: Duration = Duration::from_secs(5);
/// Last bytes of every packet: these, and its number.
const MARK: [u8; 8] = *b"netpath.";

/// Senders and what has become of what they sent.
#[derive(Default)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    probes: Vec<Arc<Probe>>,
    connections: Arc<Connections>,
    threads: Vec<JoinHandle<()>>,
}

/// The end of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets sent, each once.
    pub sent: u64,
    /// Of these, those that no answer came to.
    pub lost: u64,
    /// Connections made: short ones, and streams.
    pub connections: u64,
    /// Of these, those that ended otherwise than they should.
    pub reset: u64,
    /// Bytes that streams brought.
    pub streamed: u64,
    /// Packets of each sender.
    pub by_sender: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Connections {
    made: AtomicU64,
    broken: Mutex<Vec<String>>,
    streamed: AtomicU64,
}

/// One sender.
struct Probe {
    what: String,
    sent: AtomicU64,
    /// Answered or not, by number.
    answered: Mutex<Vec<bool>>,
}

impl Probe {
    fn note(&self, number: u64) {
        let mut answered = self.answered.lock().expect("no panic");
        let at = number as usize;
        if answered.len() <= at {
            answered.resize(at + 1, false);
        }
        answered[at] = true;
    }

    fn lost(&self) -> Vec<usize> {
        let answered = self.answered.lock().expect("no panic");
        let sent = self.sent.load(Relaxed) as usize;
        (0..sent).filter(|at| !answered.get(*at).copied().unwrap_or(false)).collect()
    }
}

impl Traffic {
    /// Datagrams to an echo server, one a millisecond, all of one flow.
    pub fn datagrams(&mut self, what: &str, from: &Netns, to: SocketAddr) {
        let open = || {
            let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
            socket.connect(&to.into())?;
            io::Result::Ok(socket)
        };
        let socket = from.enter(open).expect("namespace").expect("UDP socket");
        self.probe(what, socket, Vec::new(), |_| true);
    }

    /// Echo requests, one a millisecond, all with one identifier.
    pub fn pings(&mut self, what: &str, from: &Netns, to: IpAddr) {
        let (protocol, request, reply, header) = match to {
            IpAddr::V4(_) => (Protocol::ICMPV4, 8, 0, 20),
            IpAddr::V6(_) => (Protocol::ICMPV6, 128, 129, 0),
        };
        let open = || {
            let socket = Socket::new(Domain::for_address((to, 0).into()), Type::RAW, Some(protocol))?;
            socket.connect(&SockAddr::from(SocketAddr::from((to, 0))))?;
            io::Result::Ok(socket)
        };
        let socket = from.enter(open).expect("namespace").expect("raw socket");
        let [high, low] = [0x4e, self.probes.len() as u8];
        let own = move |answer: &[u8]| {
            answer.get(header) == Some(&reply) && answer.get(header + 4..header + 6) == Some(&[high, low])
        };
        self.probe(what, socket, vec![request, 0, 0, 0, high, low, 0, 0], own);
    }

    /// Sends and counts. `head` comes before mark and number; an ICMPv4 checksum is put in.
    fn probe(
        &mut self,
        what: &str,
        socket: Socket,
        head: Vec<u8>,
        own: impl Fn(&[u8]) -> bool + Send + 'static,
    ) {
        let probe =
            Arc::new(Probe { what: what.to_owned(), sent: AtomicU64::new(0), answered: Mutex::default() });
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &ROOM).expect("room");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("time-out");
        let reader = socket.try_clone().expect("descriptor");
        let (sender, stop) = (Arc::clone(&probe), Arc::clone(&self.stop));
        self.threads.push(thread::spawn(move || {
            while !stop.load(Relaxed) {
                let number = sender.sent.load(Relaxed);
                let mut packet = [&head[..], &MARK, &number.to_be_bytes()].concat();
                if head.first() == Some(&8) {
                    let sum = internet(&packet);
                    packet[2..4].copy_from_slice(&sum.to_be_bytes());
                }
                sender.sent.fetch_add(1, Relaxed);
                // A refusal counts as a loss, and so does an error that an earlier packet has brought.
                let _ = socket.send(&packet);
                thread::sleep(PACE);
            }
        }));
        let (receiver, stop) = (Arc::clone(&probe), Arc::clone(&self.stop));
        self.probes.push(probe);
        self.threads.push(thread::spawn(move || {
            let mut buffer = [0; 256];
            let mut last = None;
            while last.is_none_or(|last: Instant| last.elapsed() < LAST && !receiver.lost().is_empty()) {
                if stop.load(Relaxed) && last.is_none() {
                    last = Some(Instant::now());
                }
                let Ok(length) = (&reader).read(&mut buffer) else { continue };
                let Some((rest, number)) = buffer[..length].split_last_chunk::<8>() else { continue };
                if rest.ends_with(&MARK) && own(rest) {
                    receiver.note(u64::from_be_bytes(*number));
                }
            }
        }));
    }

    /// A stream of numbered blocks over one connection, read and checked to the last.
    pub fn stream(&mut self, from: &Netns, server: &Netns, address: IpAddr) {
        let listener = server.enter(|| TcpListener::bind((address, 0))).expect("namespace").expect("server");
        let to = listener.local_addr().expect("address");
        let writer = from.enter(|| TcpStream::connect(to)).expect("namespace").expect("connected");
        let (reader, _) = listener.accept().expect("accepted");
        self.connections.made.fetch_add(1, Relaxed);
        for end in [&writer, &reader] {
            end.set_read_timeout(Some(PATIENCE)).expect("time-out");
            end.set_write_timeout(Some(PATIENCE)).expect("time-out");
        }
        let (stop, connections) = (Arc::clone(&self.stop), Arc::clone(&self.connections));
        self.threads.push(thread::spawn(move || {
            let written = write_blocks(writer, &stop);
            connections.note("the writer of a stream", written);
        }));
        let connections = Arc::clone(&self.connections);
        self.threads.push(thread::spawn(move || {
            let read = read_blocks(reader, &connections.streamed);
            connections.note("the reader of a stream", read);
        }));
    }

    /// One short connection after another: a question, its answer, and the end in order.
    pub fn short_connections(&mut self, from: &Netns, server: &Netns, address: IpAddr) {
        let listener = server.enter(|| TcpListener::bind((address, 0))).expect("namespace").expect("server");
        let to = listener.local_addr().expect("address");
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // What goes wrong here goes wrong at the other end, where it is counted.
                let _ = answer(stream);
            }
        });
        let (stop, connections, from) = (Arc::clone(&self.stop), Arc::clone(&self.connections), from.clone());
        self.threads.push(thread::spawn(move || {
            while !stop.load(Relaxed) {
                let asked = from.enter(|| ask(to)).expect("namespace");
                connections.made.fetch_add(1, Relaxed);
                connections.note("a short connection", asked);
                thread::sleep(PAUSE);
            }
        }));
    }

    /// Waits until every sender has had more answers and every loop has gone on; `when` says when.
    pub fn moves(&self, when: &str) {
        let now = || {
            let answered = |probe: &Arc<Probe>| probe.answered.lock().expect("no panic").len();
            let mut all: Vec<usize> = self.probes.iter().map(answered).collect();
            all.push(self.connections.made.load(Relaxed) as usize);
            all.push(self.connections.streamed.load(Relaxed) as usize);
            all
        };
        let before = now();
        crate::wait::until(&format!("traffic goes on {when}: {before:?}"), || {
            thread::sleep(PACE);
            now().iter().zip(&before).all(|(now, before)| *now > before + 2)
        });
    }

    /// Ends it, waits for the last answers, and counts. Prints what was lost or broken.
    pub fn finish(mut self) -> Totals {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a sender");
        }
        let mut totals = Totals {
            connections: self.connections.made.load(Relaxed),
            streamed: self.connections.streamed.load(Relaxed),
            ..Totals::default()
        };
        for probe in &self.probes {
            let (sent, lost) = (probe.sent.load(Relaxed), probe.lost());
            totals.sent += sent;
            totals.by_sender.insert(probe.what.clone(), sent);
            totals.lost += lost.len() as u64;
            println!("{}: sent {sent} lost {}", probe.what, lost.len());
            if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
                println!("  lost between packets {first} and {last}");
            }
        }
        let broken = self.connections.broken.lock().expect("no panic");
        totals.reset = broken.len() as u64;
        broken.iter().take(10).for_each(|one| println!("  {one}"));
        totals
    }
}

impl Drop for Traffic {
    /// A test that fails ends its senders too.
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

impl Connections {
    fn note(&self, what: &str, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.broken.lock().expect("no panic").push(format!("{what}: {error}"));
        }
    }
}

/// 1024 numbers, the first of them `first`.
fn block(first: u64) -> Vec<u8> {
    (first..first + 1024).flat_map(u64::to_be_bytes).collect()
}

fn write_blocks(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    let mut first = 0;
    while !stop.load(Relaxed) {
        stream.write_all(&block(first))?;
        first += 1024;
        thread::sleep(PACE);
    }
    Ok(())
}

fn read_blocks(mut stream: TcpStream, streamed: &AtomicU64) -> io::Result<()> {
    let (mut first, mut buffer) = (0, vec![0; 8192]);
    loop {
        match stream.read_exact(&mut buffer) {
            Ok(()) if buffer == block(first) => first += 1024,
            Ok(()) => return Err(io::Error::other(format!("block {first} came changed"))),
            // The writer ends between two blocks.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        streamed.fetch_add(8192, Relaxed);
    }
}

fn ask(to: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.connect_timeout(&to.into(), PATIENCE).map_err(|error| {
        let own = socket.local_addr().ok().and_then(|own| own.as_socket()).map(|own| own.port());
        io::Error::other(format!("{error}, from port {own:?}"))
    })?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&MARK)?;
    let mut buffer = Vec::new();
    stream.read_to_end(&mut buffer)?;
    if buffer == MARK { Ok(()) } else { Err(io::Error::other(format!("answered {buffer:?}"))) }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = MARK;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut buffer)?;
    stream.write_all(&buffer)
}
