//! Ports that podman publishes otherwise than `-p 8080:80`: UDP, ranges, at one address of the node.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use netpath_tests::{node::run_in, wait};

use crate::engine::{Host, LENT};

/// The node's addresses: its uplink's, as everybody knows it, and those that [`more_addresses`] gives it.
const UPLINK: [&str; 2] = ["198.18.0.2", "2001:db8:18::2"];
const MORE: [&str; 2] = ["198.18.7.1", "2001:db8:7::1"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

/// Answers datagrams with its name: `PORT NAME`.
const ANSWER: &str = r#"
use Socket ":all";
socket(my $own, PF_INET6, SOCK_DGRAM, 0) or die $!;
bind($own, pack_sockaddr_in6($ARGV[0], IN6ADDR_ANY)) or die $!;
while (defined(my $from = recv($own, my $asked, 2048, 0))) { send($own, $ARGV[1], 0, $from) }
"#;

/// Prints what a server says: `PROTOCOL ADDRESS PORT`.
const ASK: &str = r#"
use Socket ":all";
my ($protocol, $where, $port) = @ARGV;
my ($family, $kind) = ($where =~ /:/ ? AF_INET6 : AF_INET, $protocol eq "udp" ? SOCK_DGRAM : SOCK_STREAM);
my $address = inet_pton($family, $where);
my $to = $family == AF_INET6 ? pack_sockaddr_in6($port, $address) : pack_sockaddr_in($port, $address);
alarm 5;
socket(my $own, $family, $kind, 0) or die $!;
connect($own, $to) or die $!;
send($own, "GET / HTTP/1.0\r\n\r\n", 0) or die $!;
defined(recv($own, my $said, 2048, $protocol eq "udp" ? 0 : MSG_WAITALL)) or die $!;
print $said;
"#;

/// Who asks.
#[derive(Clone, Copy, Debug)]
enum Place {
    Outside,
    Node,
    Container(&'static str),
}

/// What a server says to somebody; nothing if there is none.
fn said(host: &Host, place: Place, protocol: &str, to: SocketAddr) -> String {
    let (address, port) = (to.ip().to_string(), to.port().to_string());
    let line = format!("perl -e '{ASK}' {protocol} {address} {port}");
    let output = match place {
        Place::Outside => {
            let outside = &host.surroundings.0.outside.netns;
            let mut perl = std::process::Command::new("perl");
            perl.args(["-e", ASK, protocol, &address, &port]);
            outside.enter(|| perl.output()).expect("namespace").expect("perl")
        }
        Place::Node => host.as_process(&line),
        Place::Container(name) => host.machine.try_run(&format!("podman exec {name} /usr/bin/{line}")),
    };
    if !output.status.success() {
        println!("{place:?} asks {to}/{protocol}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until whoever may ask at these addresses, of one family each, gets an answer that ends with this.
fn answers(host: &Host, places: &[Place], protocol: &str, addresses: &[&str], port: u16, with: &str) {
    for place in places {
        for address in addresses {
            let to = SocketAddr::new(address.parse().expect("address"), port);
            let mut last = String::new();
            wait::until(&format!("{place:?} gets {with:?} from {to}/{protocol}"), || {
                last = said(host, *place, protocol, to);
                last.trim_end().ends_with(with)
            });
        }
    }
}

/// Nobody of these is answered there.
fn is_silent(host: &Host, places: &[Place], protocol: &str, addresses: &[&str], port: u16) {
    for place in places {
        for address in addresses {
            let to = SocketAddr::new(address.parse().expect("address"), port);
            assert_eq!(said(host, *place, protocol, to), "", "{place:?} asks {to}/{protocol}");
        }
    }
}

/// Starts a container that answers datagrams with its name.
fn answering(host: &Host, flags: &str, name: &str) {
    host.run(&format!(
        "podman run -d {LENT} {flags} --name {name} image /usr/bin/perl -e '{ANSWER}' 53 {name}"
    ));
}

/// Starts a container whose page is its name.
fn serving(host: &Host, flags: &str, name: &str) {
    let line = format!("echo {name} > /www/index.html; exec httpd -f -h /www -p 80");
    host.run(&format!("podman run -d {LENT} {flags} --name {name} image sh -c '{line}'"));
}

/// Gives the node one more address of each family, and has the router know.
fn more_addresses(host: &Host) {
    for (own, uplink) in MORE.iter().zip(UPLINK) {
        let flag = if own.contains(':') { "-6" } else { "-4" };
        host.run(&format!("ip {flag} address add {own} dev up0"));
        let router = &host.surroundings.0.router.netns;
        assert_eq!(run_in(router, "ip", &[flag, "route", "add", own, "via", uplink]), "");
    }
}

const PLACES: [Place; 4] =
    [Place::Outside, Place::Node, Place::Container("client"), Place::Container("first")];

#[test]
fn podman_udp_flows_follow_to_the_next_container_ipv4_and_ipv6() {
    let host = Host::start();
    answering(&host, "-p 5353:53/udp", "first");
    serving(&host, "", "client");
    assert_eq!(host.pod("first").published, ["5353:53/udp"]);
    answers(&host, &PLACES, "udp", &UPLINK, 5353, "first");
    answers(&host, &[Place::Node], "udp", &LOOPBACK, 5353, "first");
    is_silent(&host, &[Place::Outside, Place::Node], "tcp", &UPLINK, 5353);

    // Clients that stay, as resolvers do.
    let outside = &host.surroundings.0.outside.netns;
    let clients = [("0.0.0.0", UPLINK[0]), ("::", UPLINK[1])].map(|(own, to)| {
        let own: IpAddr = own.parse().expect("address");
        let socket = outside.enter(|| UdpSocket::bind((own, 0))).expect("namespace").expect("socket");
        socket.connect((to, 5353)).expect("connected");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("time-out");
        socket
    });
    let from = |client: &UdpSocket, who: &str| {
        let mut buffer = [0; 64];
        // Refused, as long as nobody publishes it, or lost.
        let length = client.send(b"?").and_then(|_| client.recv(&mut buffer)).unwrap_or(0);
        &buffer[..length] == who.as_bytes()
    };
    for client in &clients {
        wait::until("the first answers", || from(client, "first"));
    }
    let first = host.pod("first");
    host.run("podman rm -f -t 0 first");
    // Takes the address that the first had, if it is given to the next who comes.
    serving(&host, "", "between");
    answering(&host, "-p 5353:53/udp", "second");
    assert_ne!(host.pod("second").addresses, first.addresses);
    for client in &clients {
        wait::until("the second answers", || from(client, "second"));
    }
    answers(&host, &[Place::Node, Place::Container("client")], "udp", &UPLINK, 5353, "second");
    host.run("podman rm -f -t 0 -a");
    host.is_clean();
}

#[test]
fn podman_publishes_ranges_of_ports_ipv4_and_ipv6() {
    let host = Host::start();
    let line = "for port in 8000 8001 8002 8003; do busybox mkdir /tmp/$port; echo of $port > /tmp/$port/index.html; \
                httpd -h /tmp/$port -p $port; done; sleep 1000";
    host.run(&format!("podman run -d {LENT} -p 8100-8103:8000-8003 --name first image sh -c '{line}'"));
    serving(&host, "", "client");
    println!("{:?}", host.pod("first").published);
    for (port, inside) in [(8100, 8000), (8101, 8001), (8102, 8002), (8103, 8003)] {
        answers(&host, &PLACES, "tcp", &UPLINK, port, &format!("of {inside}"));
        answers(&host, &[Place::Node], "tcp", &LOOPBACK, port, &format!("of {inside}"));
    }
    is_silent(&host, &PLACES, "tcp", &UPLINK, 8104);
    is_silent(&host, &PLACES, "tcp", &UPLINK, 8099);
    // One of them is enough.
    let refused = host.machine.try_run("podman run -d -p 8090-8100:80-90 image");
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && why.contains("it is in use"), "{why}");
    host.run("podman rm -f -t 0 -a");
    assert_eq!(host.run("netpath publish ls -o json"), "[]");
    host.is_clean();
}

#[test]
fn podman_publishes_at_one_address_of_the_node_ipv4_and_ipv6() {
    let host = Host::start();
    more_addresses(&host);
    serving(&host, &format!("-p {}:8080:80 -p [{}]:8080:80", MORE[0], MORE[1]), "first");
    serving(&host, "-p 127.0.0.1:8081:80 -p [::1]:8081:80", "client");
    answers(&host, &PLACES, "tcp", &MORE, 8080, "first");
    is_silent(&host, &PLACES, "tcp", &UPLINK, 8080);
    is_silent(&host, &[Place::Node], "tcp", &LOOPBACK, 8080);
    // One at the node's loopback is for the node alone.
    answers(&host, &[Place::Node], "tcp", &LOOPBACK, 8081, "client");
    is_silent(&host, &PLACES, "tcp", &[UPLINK, MORE].concat(), 8081);
    // The same port at other addresses is somebody else's.
    serving(&host, &format!("-p {}:8080:80 -p [{}]:8080:80", UPLINK[0], UPLINK[1]), "other");
    answers(&host, &PLACES, "tcp", &UPLINK, 8080, "other");
    answers(&host, &PLACES, "tcp", &MORE, 8080, "first");
    is_silent(&host, &[Place::Node], "tcp", &LOOPBACK, 8080);
    answering(&host, &format!("-p {}:5353:53/udp -p [{}]:5353:53/udp", MORE[0], MORE[1]), "dns");
    answers(&host, &PLACES, "udp", &MORE, 5353, "dns");
    is_silent(&host, &PLACES, "udp", &UPLINK, 5353);
    host.run("podman rm -f -t 0 -a");
    host.is_clean();
}
