//! containerd's CRI plugin, asked as kubelet asks it.

use std::{net::UdpSocket, path::PathBuf, time::Duration};

use bytes::Bytes;
use netpath::net::Netns;
use netpath_tests::wait;
use tokio::net::UnixStream;

use crate::{containerd::start, engine::Host};

/// Debian's directories, where containerd also finds the plugin for loopback. Cgroups and scores of others than the test's
/// machine has are left out.
const CONFIGURATION: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/image:latest"
disable_cgroup = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"#;

/// A message of protocol buffers, as far as these requests need one: texts, numbers and messages, by the number of their field.
#[derive(Clone, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn varint(mut self, mut value: usize) -> Self {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn number(self, field: u8, number: u16) -> Self {
        self.varint(usize::from(field) << 3).varint(usize::from(number))
    }

    fn bytes(self, field: u8, bytes: &[u8]) -> Self {
        let mut message = self.varint(usize::from(field) << 3 | 2).varint(bytes.len());
        message.0.extend_from_slice(bytes);
        message
    }

    pub(crate) fn text(self, field: u8, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    pub(crate) fn message(self, field: u8, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }
}

/// The values of a field that holds texts or messages.
fn values(message: &[u8], field: u64) -> Vec<Vec<u8>> {
    fn varint(rest: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        while let Some((byte, after)) = rest.split_first() {
            *rest = after;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let (mut rest, mut found) = (message, Vec::new());
    while !rest.is_empty() {
        let key = varint(&mut rest);
        match key & 7 {
            0 => drop(varint(&mut rest)),
            2 => {
                let length = varint(&mut rest) as usize;
                let (value, after) = rest.split_at(length);
                rest = after;
                if key >> 3 == field {
                    found.push(value.to_owned());
                }
            }
            kind => panic!("a field of kind {kind} in {message:?}"),
        }
    }
    found
}

fn text(message: &[u8], field: u64) -> String {
    let value = values(message, field).into_iter().next().unwrap_or_default();
    String::from_utf8(value).expect("text")
}

/// One call of the runtime service: the answer, or what containerd says.
async fn call(socket: PathBuf, method: &str, request: &Message) -> Result<Vec<u8>, String> {
    let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
    let (mut client, connection) = h2::client::handshake(stream).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let head = http::Request::post(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("request");
    let (answer, mut body) = client.send_request(head, false).map_err(|error| error.to_string())?;
    let mut frame = vec![0];
    frame.extend_from_slice(&(request.0.len() as u32).to_be_bytes());
    frame.extend_from_slice(&request.0);
    body.send_data(Bytes::from(frame), true).map_err(|error| error.to_string())?;
    let (head, mut body) = answer.await.map_err(|error| error.to_string())?.into_parts();
    let mut said = Vec::new();
    while let Some(chunk) = body.data().await {
        said.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
    }
    let trailers = body.trailers().await.map_err(|error| error.to_string())?.unwrap_or(head.headers);
    let told = |name: &str| trailers.get(name).map_or("", |value| value.to_str().unwrap_or("?")).to_owned();
    match told("grpc-status").as_str() {
        "0" => Ok(said.get(5..).unwrap_or_default().to_owned()),
        status => Err(format!("{method}: status {status}: {}", told("grpc-message"))),
    }
}

/// containerd as kubelet sees it.
pub(crate) struct Cri {
    pub(crate) host: Host,
    socket: PathBuf,
}

impl Cri {
    pub(crate) fn start() -> Self {
        let host = Host::start();
        host.run("netpath cni install --cni-dir /usr/lib/cni");
        start(&host, CONFIGURATION);
        let socket = host.machine.path("/run/containerd/containerd.sock");
        let cri = Self { host, socket };
        wait::until("its network is ready", || {
            // Conditions: RuntimeReady and NetworkReady, each with a status.
            let status = cri.ask("Status", &Message::new()).unwrap_or_default();
            String::from_utf8_lossy(&status).contains("NetworkReady")
                && !String::from_utf8_lossy(&status).contains("NetworkPluginNotReady")
        });
        cri
    }

    fn ask(&self, method: &str, request: &Message) -> Result<Vec<u8>, String> {
        self.host.surroundings.1.block_on(call(self.socket.clone(), method, request))
    }

    fn sure(&self, method: &str, request: &Message) -> Vec<u8> {
        self.ask(method, request).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a sandbox; its ID.
    fn run(&self, name: &str) -> String {
        self.run_with(&sandbox(name))
    }

    pub(crate) fn run_with(&self, config: &Message) -> String {
        text(&self.sure("RunPodSandbox", &Message::new().message(1, config)), 1)
    }

    /// Runs a container in a sandbox; its ID.
    pub(crate) fn container(&self, sandbox: &str, config: &Message) -> String {
        let metadata = Message::new().text(1, "main");
        let image = Message::new().text(1, "localhost/image:latest");
        let own = Message::new().message(1, &metadata).message(2, &image).text(3, "sleep").text(4, "1000");
        let own = own.text(11, "main.log").message(15, &Message::new());
        let create = Message::new().text(1, sandbox).message(2, &own).message(3, config);
        let id = text(&self.sure("CreateContainer", &create), 1);
        self.of("StartContainer", &id);
        id
    }

    /// What a command in a container prints.
    pub(crate) fn exec(&self, container: &str, command: &[&str]) -> String {
        let request = command.iter().fold(Message::new().text(1, container), |all, word| all.text(2, word));
        text(&self.sure("ExecSync", &request), 1)
    }

    /// Removes a sandbox as kubelet does.
    pub(crate) fn remove(&self, id: &str) {
        self.of("StopPodSandbox", id);
        self.of("RemovePodSandbox", id);
    }

    fn of(&self, method: &str, id: &str) -> Vec<u8> {
        self.sure(method, &Message::new().text(1, id))
    }
}

/// PodSandboxConfig.
pub(crate) fn sandbox(name: &str) -> Message {
    let metadata = Message::new().text(1, name).text(2, &format!("uid-{name}")).text(3, "shop");
    Message::new().message(1, &metadata).text(2, name).text(3, "/var/log").message(8, &Message::new())
}

#[test]
fn cri_sandboxes_run_and_go_with_a_second_del_ipv4_and_ipv6() {
    let cri = Cri::start();
    let host = &cri.host;
    let id = cri.run("web-0");
    let pod = host.pod("shop.web-0");
    let attachment = pod.attachment.clone().expect("attachment");
    assert_eq!((attachment.container.as_str(), attachment.interface.as_str()), (id.as_str(), "eth0"));
    assert_eq!(pod.labels["io.kubernetes.pod.name"], "web-0");
    host.serves(&pod);
    // PodSandboxStatus.network: the first address, and the others.
    let status = cri.of("PodSandboxStatus", &id);
    let network = values(&values(&status, 1)[0], 5).remove(0);
    assert_eq!(text(&network, 1), pod.addresses[0].to_string());
    assert_eq!(text(&values(&network, 2)[0], 1), pod.addresses[1].to_string());

    let container = cri.container(&id, &sandbox("web-0"));
    for address in ["198.18.1.2", "2001:db8:18:1::2"] {
        let said = cri.exec(&container, &["ping", "-c", "1", "-W", "3", address]);
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
    host.agent("restart");
    host.serves(&pod);

    // The first DEL is whole; the second, after the namespace has gone, has neither CNI_NETNS nor prevResult.
    cri.of("StopPodSandbox", &id);
    host.is_clean();
    cri.of("RemovePodSandbox", &id);
    host.is_clean();
}

#[test]
fn cri_sandboxes_go_while_the_agent_is_away() {
    let cri = Cri::start();
    let host = &cri.host;
    let ids = ["a", "b"].map(|name| cri.run(name));
    ["a", "b"].iter().for_each(|name| host.serves(&host.pod(&format!("shop.{name}"))));
    host.agent("stop");
    let refused = cri.ask("RunPodSandbox", &Message::new().message(1, &sandbox("c"))).expect_err("no agent");
    assert!(refused.contains("agent"), "{refused}");
    ids.iter().for_each(|id| cri.remove(id));
    host.agent("start");
    host.is_clean();
    let id = cri.run("c");
    host.serves(&host.pod("shop.c"));
    cri.remove(&id);
    host.is_clean();
}

#[test]
fn cri_host_ports_are_published_ipv4_and_ipv6() {
    let cri = Cri::start();
    let host = &cri.host;
    // PortMapping: protocol (TCP is 0, and so absent), container_port, host_port. One without a port of the node is none.
    let port = Message::new().number(2, 80).number(3, 8080);
    let mut web = sandbox("web").message(5, &port).message(5, &Message::new().number(2, 81));
    for node in ["198.18.0.2", "2001:db8:18::2"] {
        // UDP is 1; host_ip.
        let dns = Message::new().number(1, 1).number(2, 53).number(3, 5353).text(4, node);
        web = web.message(5, &dns);
    }
    let ids = [cri.run_with(&web), cri.run("client")];
    let containers = [cri.container(&ids[0], &web), cri.container(&ids[1], &sandbox("client"))];
    let [itself, another] = containers.each_ref().map(|id| {
        let cri = &cri;
        move |line: &str| cri.exec(id, &["sh", "-c", line])
    });
    let pod = host.pod("shop.web");
    let at_one = ["198.18.0.2:5353:53/udp", "[2001:db8:18::2]:5353:53/udp"];
    assert_eq!(pod.published, [&["8080:80/tcp"][..], &at_one].concat());
    host.is_published(8080, &[("another container", &another), ("itself", &itself)]);
    let sandbox_of = host.machine.path(&pod.netns.replace("/var/run/", "/run/"));
    let (inside, outside) = (Netns::open(&sandbox_of).expect("sandbox"), &host.surroundings.0.outside.netns);
    for (any, node) in [("0.0.0.0", "198.18.0.2"), ("::", "2001:db8:18::2")] {
        let bound = |netns: &Netns, port| {
            let socket = netns.enter(|| UdpSocket::bind((any, port))).expect("namespace").expect("socket");
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("time-out");
            socket
        };
        let (server, client) = (bound(&inside, 53), bound(outside, 0));
        client.connect((node, 5353)).expect("connected");
        client.send(b"?").expect("sent");
        let (_, from) = server.recv_from(&mut [0]).expect("asked");
        server.send_to(b"!", from).expect("sent");
        assert_eq!(client.recv(&mut [0]).expect("answered"), 1, "{node}");
    }
    let refused = cri.ask("RunPodSandbox", &Message::new().message(1, &sandbox("other").message(5, &port)));
    assert!(refused.as_ref().is_err_and(|error| error.contains("it is in use")), "{refused:?}");
    ids.iter().for_each(|id| cri.remove(id));
    host.is_clean();
}

#[test]
fn cri_containerd_killed_in_the_middle_leaves_nothing() {
    let cri = Cri::start();
    let host = &cri.host;
    let mut unit = "engine".to_owned();
    for round in 0..6_u32 {
        // From before it asks for a network until after the sandbox runs.
        let pause = f64::from(round) * 0.1;
        host.run(&format!(
            "systemd-run --quiet --unit killer-{round} sh -c 'sleep {pause}; kill -KILL $(pidof containerd)'"
        ));
        let run = cri.ask("RunPodSandbox", &Message::new().message(1, &sandbox(&format!("web-{round}"))));
        wait::until("containerd is dead", || {
            !host.machine.try_run(&format!("systemctl is-active {unit}")).status.success()
        });
        unit = format!("engine-{round}");
        host.run(&format!(
            "systemd-run --quiet --unit {unit} --property Delegate=yes --property KillMode=process containerd"
        ));
        wait::until("containerd answers", || cri.ask("Status", &Message::new()).is_ok());
        let listed = cri.sure("ListPodSandbox", &Message::new());
        for one in values(&listed, 1) {
            cri.remove(&text(&one, 1));
        }
        let left: Vec<_> = host.pods().into_iter().map(|pod| pod.name).collect();
        println!("round {round}: {:?}, then {left:?}", run.map(|_| "it ran"));
    }
    // What it had not written down yet it asks nobody to remove. Collecting does.
    host.collect();
    host.is_clean();
    let id = cri.run("after");
    host.serves(&host.pod("shop.after"));
    cri.remove(&id);
    host.is_clean();
}
