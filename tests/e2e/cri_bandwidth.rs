//! Kubernetes' annotations for bandwidth, as containerd hands them on, and what streams make of them.

use std::{
    io::{self, Write as _},
    net::{IpAddr, TcpListener},
    time::{Duration, Instant},
};

use crate::cri::{Cri, Message, sandbox};

/// Bytes that are sent each way, and what Kubernetes' annotations allow of them in a second: 16 Mbit/s in, 8 out.
const AMOUNT: usize = 4_000_000;
const RATES: [(&str, f64); 2] = [("ingress", 2_000_000.0), ("egress", 1_000_000.0)];

/// How long a container takes to get, and to send, so much; each a whole connection with a server outside.
fn both_ways(cri: &Cri, container: &str, server: IpAddr) -> [Duration; 2] {
    let outside = &cri.host.surroundings.0.outside.netns;
    let listener = outside.enter(|| TcpListener::bind((server, 0))).expect("namespace").expect("listener");
    let port = listener.local_addr().expect("address").port();
    let (gets, sends) = (
        format!("nc {server} {port} </dev/null | busybox wc -c"),
        format!("busybox head -c {AMOUNT} /dev/zero | nc {server} {port}"),
    );
    std::thread::scope(|scope| {
        let served = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a connection");
            let first = Instant::now();
            stream.write_all(&vec![0; AMOUNT]).expect("written");
            drop(stream);
            let (mut stream, _) = listener.accept().expect("a connection");
            let second = Instant::now();
            assert_eq!(io::copy(&mut stream, &mut io::sink()).expect("read"), AMOUNT as u64);
            (first, second.elapsed())
        });
        assert_eq!(cri.exec(container, &["sh", "-c", &gets]).trim(), AMOUNT.to_string());
        // What is written waits here for as long as the other side has not got it.
        let got = Instant::now();
        cri.exec(container, &["sh", "-c", &sends]);
        let (first, egress) = served.join().expect("server");
        [got - first, egress]
    })
}

#[test]
fn cri_bandwidth_annotations_limit_streams_ipv4_and_ipv6() {
    let cri = Cri::start();
    let mut limited = sandbox("limited");
    for (way, rate) in [("ingress", "16M"), ("egress", "8M")] {
        // An entry of the map of annotations.
        let annotation = Message::new().text(1, &format!("kubernetes.io/{way}-bandwidth")).text(2, rate);
        limited = limited.message(7, &annotation);
    }
    let free = sandbox("free");
    let ids = [&limited, &free].map(|config| cri.run_with(config));
    let containers = [cri.container(&ids[0], &limited), cri.container(&ids[1], &free)];
    let pod = cri.host.pod("shop.limited");
    let rates = [&pod.ingress_bandwidth, &pod.egress_bandwidth].map(|one| one.as_ref().map(|one| one.rate));
    assert_eq!(rates, [Some(16_000_000), Some(8_000_000)], "{pod:#?}");
    for server in ["198.18.1.2", "2001:db8:18:1::2"] {
        let server = server.parse().expect("address");
        let [limited, free] = containers.each_ref().map(|container| both_ways(&cri, container, server));
        println!("{server}: limited {limited:?}, free {free:?}");
        for (((way, rate), limited), free) in RATES.into_iter().zip(limited).zip(free) {
            let least = AMOUNT as f64 / rate;
            // Headers count, which makes it longer; what may pass at once and what waits in queues make it shorter.
            let range = 0.85 * least..2.0 * least;
            assert!(
                range.contains(&limited.as_secs_f64()),
                "{way} {server}: {limited:?} and not {range:?} s"
            );
            assert!(free.as_secs_f64() < range.start / 2.0, "{way} {server}: without a limit {free:?}");
        }
    }
    ids.iter().for_each(|id| cri.remove(id));
    cri.host.is_clean();
}
