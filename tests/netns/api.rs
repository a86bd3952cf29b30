//! The API's door: who may do what, and clients that are slow, silent or hostile.

use std::{
    io::{Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, net::UnixStream},
    },
    process::{Command, Output},
    time::{Duration, Instant},
};

use netpath::api::types::{FlowFilter, PodAdd};
use netpath_tests::{
    node::{Node, PATIENCE, binary, run_in},
    wait::until,
};
use nix::sys::socket::{MsgFlags, recv};
use rustix::process::{Gid, Uid};

const SOCKET: &str = "/run/netpath/default/agent.sock";
/// Nobody's user and group on any machine that tests run on.
const SOMEBODY: &str = "54321";
const GROUP: &str = "54322";

/// The command line as somebody else, with or without the group.
fn as_user(groups: &[&str], arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", SOMEBODY, "--regid", SOMEBODY]);
    match groups {
        [] => command.arg("--clear-groups"),
        groups => command.args(["--groups", &groups.join(",")]),
    };
    // The build's directory may be root's alone.
    command.arg("/mnt/netpath").args(arguments).output().expect("setpriv")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Root does everything; a member reads; everybody else is told why not, even where the file system let them in.
#[test]
fn root_may_change_members_may_read_and_others_may_nothing() {
    let node = Node::start("");
    std::fs::copy(binary(), "/mnt/netpath").unwrap();
    std::os::unix::fs::chown("/mnt/netpath", Some(54321), None).unwrap();
    let mode = || {
        let socket = std::fs::metadata(SOCKET).unwrap();
        (socket.mode() & 0o777, socket.gid())
    };
    assert_eq!(mode(), (0o600, 0));
    let refused = as_user(&[], &["pod", "ls"]);
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("ermission denied"), "{}", said(&refused));

    node.reconfigure(&format!("api.group = \"{GROUP}\""));
    until("SIGHUP opens the socket to the group", || mode() == (0o660, GROUP.parse().unwrap()));
    for groups in [&[GROUP][..], &["54399", GROUP]] {
        let read = as_user(groups, &["pod", "ls"]);
        assert_eq!(read.status.code(), Some(0), "{}", said(&read));
    }
    for arguments in [&["pod", "add", "x"][..], &["pod", "rm", "x"], &["flow", "flush", "--all"]] {
        let refused = as_user(&[GROUP], arguments);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {}", said(&refused));
        assert!(
            said(&refused).contains("only root may change anything"),
            "{arguments:?}: {}",
            said(&refused)
        );
    }
    let outside = as_user(&[], &["pod", "ls"]);
    assert_eq!(outside.status.code(), Some(3), "{}", said(&outside));

    // Somebody has opened the way to everybody: who comes by it is nobody the agent knows.
    let open = |path: &str, mode: u32| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    open("/run/netpath/default", 0o755);
    open(SOCKET, 0o666);
    let stranger = as_user(&["54399"], &["pod", "ls"]);
    assert_eq!(stranger.status.code(), Some(1), "{}", said(&stranger));
    assert!(said(&stranger).contains("only root may use the agent"), "{}", said(&stranger));

    node.reconfigure("");
    until("SIGHUP closes it again", || mode() == (0o600, 0));
    open(SOCKET, 0o666);
    let member = as_user(&[GROUP], &["pod", "ls"]);
    assert!(said(&member).contains("only root may use the agent"), "{}", said(&member));
    node.pod("root-may");
}

/// What a client can do wrong, each as a connection that is kept.
fn misbehave(at: usize) -> UnixStream {
    let mut stream = UnixStream::connect(SOCKET).expect("the agent accepts");
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let words = match at % 8 {
        // Silent.
        0 => Vec::new(),
        // A head that does not end, and one that is too long.
        1 => b"GET /v1/pods HTTP/1.1\r\nhost: x\r\nslow: ".to_vec(),
        2 => [&b"GET /v1/pods HTTP/1.1\r\nx: "[..], &[b'x'; 100_000]].concat(),
        // A body that does not come, and one that is too long.
        3 => b"POST /v1/pods HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{".to_vec(),
        4 => {
            [&b"POST /v1/pods HTTP/1.1\r\nhost: x\r\ncontent-length: 500000000\r\n\r\n"[..], &[b' '; 500_000]]
                .concat()
        }
        // No HTTP.
        5 => (0..=255).cycle().take(5000).collect(),
        // Questions without end, and answers that nobody reads.
        6 => b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2000),
        // Half a request, and no more to come.
        _ => b"GET /v1/po".to_vec(),
    };
    // The agent may hang up in the middle, or not read on.
    let _ = stream.write_all(&words);
    if at % 8 == 7 {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    stream
}

/// 200 idle connections and 200 bad ones at once: others are served all the while, and in the end nothing is left of them.
#[test]
fn slow_and_hostile_clients_keep_nobody_waiting() {
    let node = Node::start("");
    let worst = |what: &str| {
        let mut worst = Duration::ZERO;
        for at in 0..10 {
            let begun = Instant::now();
            node.runtime.block_on(node.client.status()).expect(what);
            let name = format!("p{at}");
            node.add(&PodAdd { name: name.clone(), ..PodAdd::default() });
            node.runtime.block_on(node.client.pod_rm(&name)).expect(what);
            worst = worst.max(begun.elapsed());
        }
        println!("{what}: at most {worst:?} for a status, a pod and its end");
        worst
    };
    let alone = worst("alone");
    let idle: Vec<_> = (0..200).map(|_| UnixStream::connect(SOCKET).expect("the agent accepts")).collect();
    let beside_idle = worst("beside 200 idle connections");
    let bad: Vec<_> = (0..200).map(misbehave).collect();
    let beside_bad = worst("beside 200 bad ones more");
    for (what, time) in [("idle", beside_idle), ("bad", beside_bad)] {
        // A place takes a second to be somebody else's; the machine may be slow besides.
        assert!(time < alone * 4 + Duration::from_secs(4), "beside {what} ones: {time:?}, alone {alone:?}");
    }
    // All of them are hung up on, without their doing.
    for stream in idle.into_iter().chain(bad) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = stream;
        let ended = std::io::copy(&mut stream, &mut std::io::sink());
        let slow = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!slow, "a bad client is still there");
    }
    assert_eq!(node.runtime.block_on(node.client.status()).unwrap().problems, [""; 0]);
    assert!(node.runtime.block_on(node.client.pods()).unwrap().is_empty(), "no half request made a pod");
}

/// A client that does not read what it asked for is hung up on.
#[test]
fn a_client_that_never_reads_its_events_is_let_go() {
    let node = Node::start("");
    let a = node.pod("a");
    let mut deaf = UnixStream::connect(SOCKET).unwrap();
    deaf.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let flood = ["-c", "400", "-i", "0.002", "-W", "0.1", "224.0.0.1"];
    // The socket takes some hundred events before one stays unread, and it is ten seconds from there.
    until("the agent hangs up", || {
        run_in(&a.netns, "ping", &flood);
        deaf.write_all(b"\r").is_err()
    });
    let mut rest = Vec::new();
    let _ = deaf.read_to_end(&mut rest);
    println!("{} bytes were on their way", rest.len());
    assert!(rest.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&rest));
    assert!(node.runtime.block_on(node.client.status()).is_ok());
}

/// A connection of a member of the group.
fn as_member() -> UnixStream {
    // A thread's own credentials: the kernel notes those of the thread that connects.
    let connect = || {
        rustix::thread::set_thread_res_gid(Gid::from_raw(54322), Gid::from_raw(54322), Gid::from_raw(54322))?;
        rustix::thread::set_thread_res_uid(Uid::from_raw(54321), Uid::from_raw(54321), Uid::from_raw(54321))?;
        UnixStream::connect(SOCKET)
    };
    std::thread::scope(|threads| threads.spawn(connect).join().expect("no panic")).expect("a member connects")
}

/// Members who list flows and do not read the lists keep root's lists from nobody, nor all lists of other members.
#[test]
fn members_who_do_not_read_their_lists_keep_root_waiting_for_none() {
    const FLOWS: u16 = 6000;
    let node =
        Node::start(&format!("[api]\ngroup = \"{GROUP}\"\n[flows]\ncapacity = 32768\nper_pod = 10000"));
    let a = node.pod("a");
    a.netns
        .enter(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            (1..=FLOWS).for_each(|port| _ = socket.send_to(b"x", ("198.18.1.2", port)).unwrap());
        })
        .unwrap();
    let list = || {
        let begun = Instant::now();
        let flows = node.runtime.block_on(node.client.flows_by(&FlowFilter::default())).expect("flows");
        (flows.len(), begun.elapsed())
    };
    let (flows, alone) = list();
    assert!(flows >= usize::from(FLOWS), "{flows} flows are more than sockets hold");
    let lists: Vec<UnixStream> = (0..30)
        .map(|_| {
            let mut stream = as_member();
            stream.write_all(b"GET /v1/flows HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    let begun = |stream: &&UnixStream| {
        let mut first = [0];
        recv(stream.as_raw_fd(), &mut first, MsgFlags::MSG_PEEK).is_ok()
    };
    until("members' lists begin", || lists.iter().filter(begun).count() >= 2);
    let (_, beside) = list();
    println!("{flows} flows: {alone:?} alone, {beside:?} beside {} that are not read", lists.len());
    assert!(beside < alone + Duration::from_secs(4), "{alone:?} alone, {beside:?} beside members' lists");
    // Each is suffered for some seconds, then it is the next one's turn.
    until("other members' lists begin", || lists.iter().filter(begun).count() >= 4);
}
