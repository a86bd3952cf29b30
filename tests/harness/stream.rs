//! Flows that run on while a cluster fails, at a fixed pace: what of them was lost, when, and for how long nothing came.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use netpath::net::Netns;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::{side::ROOM, wait};

/// Between two packets of a flow, and between two blocks of a connection.
const PACE: Duration = Duration::from_millis(5);
/// How long the last packets may be on their way.
const LAST: Duration = Duration::from_secs(1);
/// How often a receiver looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);
/// Numbers of one block of a connection.
const BLOCK: u64 = 128;
/// That many packets tell that a flow goes on.
const SOME: usize = 20;

/// Running flows; they end with this value.
#[derive(Default)]
pub struct Streams {
    stop: Arc<AtomicBool>,
    /// All senders have stopped.
    stopped: Arc<AtomicBool>,
    flows: Vec<Flow>,
    connections: Vec<Arc<Connection>>,
    senders: Vec<JoinHandle<()>>,
    receivers: Vec<JoinHandle<()>>,
}

/// Numbered datagrams one way.
struct Flow {
    what: String,
    to: SocketAddr,
    /// When each was sent, by number.
    sent: Arc<Mutex<Vec<Instant>>>,
    /// Which came when, as they came.
    came: Arc<Mutex<Vec<(u64, Instant)>>>,
}

/// One long TCP connection, whose content is checked.
#[derive(Default)]
struct Connection {
    what: String,
    blocks: AtomicU64,
    broken: Mutex<Option<String>>,
}

/// What became of a flow.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Its name.
    pub what: String,
    /// IPv6, else IPv4.
    pub v6: bool,
    /// Packets sent, each once.
    pub sent: u64,
    /// When those were sent that never came.
    pub lost: Vec<Instant>,
    /// Packets that came behind one that was sent later.
    pub reordered: u64,
    /// The longest time without a packet.
    pub gap: Duration,
}

impl Streams {
    /// Datagrams from one pod to another, 200 a second.
    pub fn datagrams(&mut self, what: &str, from: (&Netns, IpAddr), to: (&Netns, IpAddr)) {
        let server = bound(to.0, (to.1, 0).into());
        let flow = Flow {
            what: what.to_owned(),
            to: server.local_addr().expect("address"),
            sent: Arc::default(),
            came: Arc::default(),
        };
        let client = bound(from.0, (from.1, 0).into());
        let (stop, sent, to) = (Arc::clone(&self.stop), Arc::clone(&flow.sent), flow.to);
        self.senders.push(thread::spawn(move || {
            let mut next = Instant::now();
            while !stop.load(Relaxed) {
                let number = {
                    let mut sent = sent.lock().expect("no panic");
                    sent.push(Instant::now());
                    sent.len() as u64 - 1
                };
                // What is refused is lost. Not connected: no packet is kept back by an error that an earlier one brought.
                let _ = client.send_to(&number.to_be_bytes(), to);
                next += PACE;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }));
        self.receive(&flow, server);
        self.flows.push(flow);
    }

    fn receive(&mut self, flow: &Flow, server: UdpSocket) {
        let (stopped, came) = (Arc::clone(&self.stopped), Arc::clone(&flow.came));
        self.receivers.push(thread::spawn(move || {
            let mut last = Instant::now();
            let mut ends = false;
            // As long as there is something to read it is read, however late.
            while !ends || last.elapsed() < LAST {
                if !ends && stopped.load(Relaxed) {
                    (ends, last) = (true, Instant::now());
                }
                let mut number = [0; 8];
                if server.recv_from(&mut number).is_ok() {
                    last = Instant::now();
                    came.lock().expect("no panic").push((u64::from_be_bytes(number), last));
                }
            }
        }));
    }

    /// A pod has been made anew: what is sent to it is received there from now on.
    pub fn received_in(&mut self, netns: &Netns, address: IpAddr) {
        let flows = std::mem::take(&mut self.flows);
        for flow in flows.iter().filter(|flow| flow.to.ip() == address) {
            self.receive(flow, bound(netns, flow.to));
        }
        self.flows = flows;
    }

    /// A connection from one pod to another: a kilobyte every five milliseconds, all of it looked at.
    pub fn connection(&mut self, what: &str, from: (&Netns, IpAddr), to: (&Netns, IpAddr)) {
        let listener = to.0.enter(|| TcpListener::bind((to.1, 0))).expect("namespace").expect("listener");
        let address = listener.local_addr().expect("address");
        let writer = from.0.enter(|| TcpStream::connect(address)).expect("namespace").expect("connected");
        let reader = listener.accept().expect("accepted").0;
        let told = Arc::new(Connection { what: what.to_owned(), ..Connection::default() });
        self.connections.push(Arc::clone(&told));
        let (stop, writes) = (Arc::clone(&self.stop), Arc::clone(&told));
        self.senders.push(thread::spawn(move || writes.note(write_blocks(writer, &stop))));
        let stop = Arc::clone(&self.stop);
        self.senders.push(thread::spawn(move || told.note(read_blocks(reader, &stop, &told.blocks))));
    }

    /// Waits until each flow and connection has gone on; `when` says when.
    pub fn go_on(&self, when: &str) {
        self.these_go_on(when, |_| true);
    }

    /// The same for those that are chosen by name.
    pub fn these_go_on(&self, when: &str, chosen: impl Fn(&str) -> bool) {
        let flows: Vec<_> = self.flows.iter().filter(|flow| chosen(&flow.what)).collect();
        let connections: Vec<_> = self.connections.iter().filter(|one| chosen(&one.what)).collect();
        let came = || flows.iter().map(|flow| flow.came.lock().expect("no panic").len());
        let blocks = || connections.iter().map(|one| one.blocks.load(Relaxed));
        let (came_before, blocks_before): (Vec<_>, Vec<_>) = (came().collect(), blocks().collect());
        wait::until(&format!("traffic goes on {when}: {came_before:?} {blocks_before:?}"), || {
            self.check();
            came().zip(&came_before).all(|(now, before)| now > before + SOME)
                && blocks().zip(&blocks_before).all(|(now, before)| now > *before)
        });
    }

    fn check(&self) {
        for one in &self.connections {
            let broken = one.broken.lock().expect("no panic");
            assert_eq!(*broken, None, "the connection {}", one.what);
        }
    }

    /// Ends the flows, waits for what is on its way, and counts.
    pub fn finish(mut self) -> Vec<Counted> {
        self.stop.store(true, Relaxed);
        self.senders.drain(..).for_each(|thread| thread.join().expect("a sender"));
        self.stopped.store(true, Relaxed);
        self.receivers.drain(..).for_each(|thread| thread.join().expect("a receiver"));
        self.check();
        let counted: Vec<_> = self.flows.iter().map(Flow::count).collect();
        for one in &counted {
            let Counted { what, sent, lost, reordered, gap, .. } = one;
            println!("{what}: sent {sent} lost {} reordered {reordered} gap {gap:?}", lost.len());
            if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
                println!("  lost between {:?} and {:?} before the end", first.elapsed(), last.elapsed());
            }
        }
        counted
    }
}

impl Drop for Streams {
    /// A test that fails ends its flows too.
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.stopped.store(true, Relaxed);
    }
}

impl Flow {
    fn count(&self) -> Counted {
        let (sent, came) = (self.sent.lock().expect("no panic"), self.came.lock().expect("no panic"));
        let numbers: BTreeSet<u64> = came.iter().map(|(number, _)| *number).collect();
        let lost = sent.iter().zip(0..).filter(|(_, number)| !numbers.contains(number)).map(|(at, _)| *at);
        let (mut latest, mut reordered) = (0, 0);
        for (number, _) in came.iter() {
            reordered += u64::from(*number < latest);
            latest = latest.max(*number);
        }
        let gap = came.windows(2).map(|two| two[1].1 - two[0].1).max().unwrap_or_default();
        let (what, sent) = (self.what.clone(), sent.len() as u64);
        Counted { what, v6: self.to.is_ipv6(), sent, lost: lost.collect(), reordered, gap }
    }
}

impl Counted {
    /// How long after the beginning of a time the last packet was lost in it: from then on all came.
    pub fn converged(&self, time: &Range<Instant>) -> Duration {
        let last = self.lost.iter().rfind(|at| time.contains(at));
        last.map_or(Duration::ZERO, |last| *last - time.start)
    }
}

impl Connection {
    fn note(&self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            *self.broken.lock().expect("no panic") = Some(error.to_string());
        }
    }
}

fn bound(netns: &Netns, address: SocketAddr) -> UdpSocket {
    let socket = netns.enter(|| UdpSocket::bind(address)).expect("namespace").expect("socket");
    setsockopt(&socket, RcvBufForce, &ROOM).expect("room");
    socket.set_read_timeout(Some(LOOK)).expect("time-out");
    socket
}

fn block(first: u64) -> Vec<u8> {
    (first..first + BLOCK).flat_map(u64::to_be_bytes).collect()
}

fn write_blocks(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    let mut first = 0;
    // What is broken for long fills the socket: an end has to be possible all the same.
    stream.set_write_timeout(Some(LOOK))?;
    while !stop.load(Relaxed) {
        let (block, mut written) = (block(first), 0);
        while written < block.len() && !stop.load(Relaxed) {
            match stream.write(&block[written..]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        first += BLOCK;
        thread::sleep(PACE);
    }
    Ok(())
}

fn read_blocks(mut stream: TcpStream, stop: &AtomicBool, blocks: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; block(0).len()];
    // An end that never comes does not keep the reader.
    stream.set_read_timeout(Some(LOOK))?;
    loop {
        let mut read = 0;
        while read < buffer.len() {
            match stream.read(&mut buffer[read..]) {
                Ok(0) => return Ok(()),
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if stop.load(Relaxed) => return Ok(()),
                Err(_) => {}
            }
        }
        let number = blocks.load(Relaxed);
        if buffer != block(number * BLOCK) {
            return Err(io::Error::other(format!("block {number} came changed")));
        }
        blocks.store(number + 1, Relaxed);
    }
}
