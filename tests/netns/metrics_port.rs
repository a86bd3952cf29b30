//! The port of metrics beside clients that are slow or hostile.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use netpath::net::Netns;
use netpath_tests::{
    for_both_families,
    node::{Node, add_address, run_in},
    scene::Family,
    wait::until,
};
use socket2::{Domain, Socket, Type};

const LISTEN: &str = "[metrics]\nlisten = [\"0.0.0.0:9464\", \"[::]:9464\"]\n";
/// Time that whoever behaves well may have to wait beside those who do not: a place takes a second to be somebody else's.
const SOON: Duration = Duration::from_secs(5);
/// How long the agent suffers one connection, and some more for a slow machine.
const SUFFERED: Duration = Duration::from_secs(10 + 5);
/// Between two bytes of a dripping client.
const DRIP: Duration = Duration::from_millis(100);

/// Where metrics are served, and the namespace all clients are in.
#[derive(Clone)]
struct Port {
    netns: Netns,
    end: SocketAddr,
}

impl Port {
    fn of(node: &Node, family: &Family) -> Self {
        let end = if family.name == "ipv6" { "[fd00:9464::1]:9464" } else { "127.94.0.1:9464" };
        let port = Self { netns: node.topology.node.netns.clone(), end: end.parse().unwrap() };
        port.own(port.end.ip());
        port
    }

    /// An address of a client; of IPv6 in a network of its own.
    fn client(&self, number: u8) -> IpAddr {
        let text = match self.end.is_ipv6() {
            true => format!("fd00:9464:0:{number:x}::9"),
            false => format!("127.94.1.{number}"),
        };
        let address = text.parse().unwrap();
        self.own(address);
        address
    }

    /// Makes an IPv6 address the node's; of IPv4 all of 127.0.0.0/8 are.
    fn own(&self, address: IpAddr) {
        let present = || run_in(&self.netns, "ip", &["-6", "-o", "address"]);
        if address.is_ipv6() && !present().contains(&format!(" {address}/")) {
            add_address(&self.netns, address, "lo");
        }
    }

    fn connect(&self, from: IpAddr) -> io::Result<TcpStream> {
        let connect = || {
            let socket = Socket::new(Domain::for_address(self.end), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            socket.connect_timeout(&self.end.into(), SOON)?;
            Ok::<_, io::Error>(TcpStream::from(socket))
        };
        let stream = self.netns.enter(connect).expect("namespace")?;
        stream.set_read_timeout(Some(SUFFERED))?;
        stream.set_write_timeout(Some(SUFFERED))?;
        Ok(stream)
    }

    /// The metrics, as a well-behaved client gets them.
    fn scrape(&self, from: IpAddr) -> io::Result<String> {
        let mut stream = self.connect(from)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.split_once("\r\n\r\n") {
            Some((head, text)) if head.starts_with("HTTP/1.1 200 ") => Ok(text.to_owned()),
            _ => Err(io::Error::other(format!("{answer:?}"))),
        }
    }

    /// A well-behaved client, which tries again when it is turned away, does not do so for long.
    fn answers_soon(&self, from: IpAddr, beside: &str) {
        let begun = Instant::now();
        let mut refused = Vec::new();
        until("a well-behaved client is answered", || {
            self.scrape(from).map_err(|error| refused.push(error.to_string())).is_ok()
        });
        println!(
            "{from}: answered after {:?}, {} tries more, beside {beside}",
            begun.elapsed(),
            refused.len()
        );
        assert!(begun.elapsed() < SOON, "{:?} beside {beside}: {refused:?}", begun.elapsed());
    }
}

/// Clients that send a byte now and then, and come again when they are let go; they end with the test.
struct Dripping {
    stop: Arc<AtomicBool>,
    /// Bytes that were taken.
    taken: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Dripping {
    /// So many connections from each of the addresses.
    fn start(port: &Port, from: &[IpAddr], each: usize) -> Self {
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let spawn = |&from: &IpAddr| {
            let (port, stop, taken) = (port.clone(), Arc::clone(&stop), Arc::clone(&taken));
            std::thread::spawn(move || drip(&port, from, each, &stop, &taken))
        };
        let threads = from.iter().map(spawn).collect();
        let dripping = Self { threads, stop, taken };
        let wanted = from.len() * each;
        until("they drip", || dripping.taken.load(Ordering::Relaxed) > 3 * wanted);
        dripping
    }
}

impl Drop for Dripping {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A request that begins well and never ends.
fn drip(port: &Port, from: IpAddr, count: usize, stop: &AtomicBool, taken: &AtomicUsize) {
    let mut streams: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        for stream in &mut streams {
            let sent = match stream {
                Some(stream) => stream.write_all(b"x"),
                None => port.connect(from).and_then(|mut new| {
                    new.write_all(b"GET /metrics HTTP/1.1\r\nhost: ")?;
                    *stream = Some(new);
                    Ok(())
                }),
            };
            match sent {
                Ok(()) => _ = taken.fetch_add(1, Ordering::Relaxed),
                Err(_) => *stream = None,
            }
        }
        std::thread::park_timeout(DRIP);
    }
}

for_both_families!(
    dripping_readers_of_metrics_keep_nobody_out,
    a_reader_of_metrics_is_suffered_for_a_while,
    metrics_are_made_once_a_second_however_many_ask
);

fn dripping_readers_of_metrics_keep_nobody_out(family: Family) {
    let node = Node::start(LISTEN);
    let port = Port::of(&node, &family);
    until("it serves", || port.scrape(port.client(1)).is_ok());
    {
        let _many = Dripping::start(&port, &[port.client(2)], 60);
        for _ in 0..20 {
            // Others do not even notice.
            port.scrape(port.client(1)).expect("beside 60 dripping ones of another address");
        }
        port.answers_soon(port.client(2), "60 dripping ones of its own address");
    }
    let crowd: Vec<IpAddr> = (10..40).map(|number| port.client(number)).collect();
    let _crowd = Dripping::start(&port, &crowd, 4);
    for _ in 0..3 {
        port.answers_soon(port.client(1), "120 dripping ones of 30 addresses");
    }
    assert_eq!(node.runtime.block_on(node.client.status()).unwrap().problems, [""; 0]);
}

/// Nobody wants the place, and yet it is not theirs for ever.
fn a_reader_of_metrics_is_suffered_for_a_while(family: Family) {
    let node = Node::start(LISTEN);
    let port = Port::of(&node, &family);
    let from = port.client(1);
    until("it serves", || port.scrape(from).is_ok());
    let begun = Instant::now();
    let mut streams = [port.connect(from).unwrap(), port.connect(from).unwrap(), port.connect(from).unwrap()];
    let [head, body, ..] = &mut streams;
    head.write_all(b"GET /metrics HTTP/1.1\r\nhost: ").unwrap();
    body.write_all(b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n").unwrap();
    for stream in &streams {
        stream.set_read_timeout(Some(DRIP)).unwrap();
    }
    // The last one asks well and does not go.
    let words = [&b"x"[..], b"x", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"];
    let mut ended = [false; 3];
    until("all are let go", || {
        for ((stream, words), ended) in streams.iter_mut().zip(words).zip(&mut ended) {
            *ended = *ended || stream.write_all(words).is_err() || is_at_end(stream);
        }
        ended == [true; 3]
    });
    println!("let go after {:?}", begun.elapsed());
    assert!(begun.elapsed() < SUFFERED, "{:?}", begun.elapsed());
}

/// Reads what there is; whether the other side has hung up.
fn is_at_end(stream: &mut TcpStream) -> bool {
    let mut some = [0; 4096];
    match stream.read(&mut some) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

fn metrics_are_made_once_a_second_however_many_ask(family: Family) {
    let node = Node::start(LISTEN);
    let port = Port::of(&node, &family);
    let from = port.client(1);
    until("it serves", || port.scrape(from).is_ok());
    let begun = Instant::now();
    // Each text tells the time since the agent started, so that no two that were made are the same.
    let texts: BTreeSet<String> = (0..50).map(|_| port.scrape(from).expect("answered")).collect();
    let most = begun.elapsed().as_secs() as usize + 2;
    println!("{} texts for 50 readers in {:?}", texts.len(), begun.elapsed());
    assert!(texts.len() <= most, "{} texts in {:?}", texts.len(), begun.elapsed());
    until("it is made anew", || !texts.contains(&port.scrape(from).expect("answered")));
}
