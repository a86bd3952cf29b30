//! A machine with container engines and netpath, as an administrator sets it up: the agent as its service, the plugin by
//! `netpath cni install`.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Output,
    time::Duration,
};

use netpath::{api::types::Pod, net::Netns};
use netpath_tests::{machine::Machine, node::run_in, wait};

use crate::systemd::{Surroundings, install, machine_with};

/// What each container serves on port 80.
pub(crate) const PAGE: &str = "a page of a container\n";

/// What podman of Debian 12 needs to know of a machine without cgroup controllers and without CAP_SYS_RESOURCE.
const PODMAN: &str = r#"
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
default_network = "netpath"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:8192"]
pids_limit = 0
"#;

const STORAGE: &str =
    "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers\"\ngraphroot = \"/var/lib/containers\"\n";

/// Lends a container this machine's programs, such as perl and curl.
pub(crate) const LENT: &str = "-v /usr:/usr:ro -v /usr/lib:/lib:ro -v /usr/lib64:/lib64:ro";

/// Prints what a line prints in a container.
pub(crate) type Shell<'a> = &'a dyn Fn(&str) -> String;

/// A running machine with an image called `image`.
pub(crate) struct Host {
    pub(crate) machine: Machine,
    pub(crate) surroundings: Surroundings,
}

impl Host {
    /// Boots it, and starts the agent. Engines have it as their only network.
    pub(crate) fn start() -> Self {
        let (surroundings, machine) = machine_with(|root| {
            install(root, "");
            let engines = root.join("etc/containers");
            fs::create_dir_all(&engines).expect("engines");
            fs::write(engines.join("containers.conf"), PODMAN).expect("podman");
            fs::write(engines.join("storage.conf"), STORAGE).expect("storage");
            let _ = fs::remove_dir_all(root.join("etc/cni/net.d"));
            let _ = fs::remove_dir_all(root.join("var/lib/cni"));
            image(&root.join("root/image"));
        });
        machine.run("systemctl start netpath; netpath cni install");
        let change = r#"--change 'ENV PATH=/bin' --change 'CMD ["httpd","-f","-h","/www","-p","80"]'"#;
        machine.run(&format!("tar -C /root/image -c . | podman import {change} - image"));
        Self { machine, surroundings }
    }

    /// What a shell on it prints.
    pub(crate) fn run(&self, line: &str) -> String {
        self.machine.run(line)
    }

    /// What a shell on it says that is in a cgroup of the machine, as its processes are: what a test starts there is in none.
    pub(crate) fn as_process(&self, line: &str) -> Output {
        let own = "mkdir -p /sys/fs/cgroup/asks && echo 0 > /sys/fs/cgroup/asks/cgroup.procs";
        self.machine.try_run(&format!("{own} && {line}"))
    }

    /// The agent's pods.
    pub(crate) fn pods(&self) -> Vec<Pod> {
        let mut pods: Vec<Pod> = Vec::new();
        // What an engine was told is gone goes a little later.
        wait::until("what is let go is gone", || {
            pods = serde_json::from_str(&self.run("netpath pod ls -o json")).expect("pods");
            pods.iter().all(|pod| pod.state != "removing")
        });
        pods
    }

    /// The pod of the container, or of the namespace, whose name the engine told.
    pub(crate) fn pod(&self, name: &str) -> Pod {
        let pods = self.pods();
        let found = pods.iter().find(|pod| pod.name.starts_with(&format!("{name}-")));
        found.unwrap_or_else(|| panic!("no pod {name} in {pods:#?}")).clone()
    }

    /// The node's namespace.
    pub(crate) fn node(&self) -> &Netns {
        &self.surroundings.0.node.netns
    }

    /// Whether all of a pod's addresses serve the page to the node.
    pub(crate) fn serves(&self, pod: &Pod) {
        for address in pod.interfaces.iter().flat_map(|one| &one.addresses) {
            wait::until(&format!("{} serves at {address}", pod.name), || {
                self.node()
                    .enter(|| page(SocketAddr::new(*address, 80)))
                    .expect("namespace")
                    .is_ok_and(|said| said.ends_with(PAGE))
            });
        }
    }

    /// Has the page of a container asked for by a port of the node, from each place: by curl outside and on the node itself, and
    /// by shells in containers, at all addresses of the node that lead there.
    pub(crate) fn is_published(&self, port: u16, shells: &[(&str, Shell<'_>)]) {
        let outside = &self.surroundings.0.outside.netns;
        for address in ["198.18.0.2", "2001:db8:18::2"] {
            let to = SocketAddr::new(address.parse().expect("address"), port);
            wait::until(&format!("outside reaches {to}"), || {
                let said = run_in(outside, "curl", &["-gsS", "-m", "5", &format!("http://{to}/")]);
                if said != PAGE {
                    println!("outside asks {to}: {said}");
                }
                said == PAGE
            });
            for (who, shell) in shells {
                let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {port}");
                wait::until(&format!("{who} reaches {to}"), || shell(&ask).ends_with(PAGE));
            }
        }
        for host in ["localhost", "127.0.0.1", "[::1]", "198.18.0.2", "[2001:db8:18::2]"] {
            let output = self.as_process(&format!("curl -gsS -m 5 http://{host}:{port}/"));
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(said, PAGE, "the node asks {host}: {output:?}");
        }
    }

    /// Has curl ask for it in a container of podman's that was started with [`LENT`].
    pub(crate) fn is_published_to(&self, name: &str, port: u16) {
        for host in ["198.18.0.2", "[2001:db8:18::2]"] {
            wait::until(&format!("{name} reaches {host}:{port}"), || {
                let line = format!("podman exec {name} /usr/bin/curl -gsS -m 5 http://{host}:{port}/");
                let output = self.machine.try_run(&line);
                let reached = output.stdout == PAGE.as_bytes();
                if !reached {
                    println!("{line}: {output:?}");
                }
                reached
            });
        }
    }

    /// A shell in a container of podman's, for [`is_published`](Self::is_published).
    pub(crate) fn shell(&self, name: &'static str) -> impl Fn(&str) -> String + '_ {
        move |line| {
            let output = self.machine.try_run(&format!("podman exec {name} sh -c \"{line}\""));
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
    }

    /// Nothing of any container is on the node, and the agent has nothing to complain about.
    pub(crate) fn is_clean(&self) {
        assert_eq!(self.pods(), []);
        let left = self.run(
            "ip -o link; ip route; ip -6 route; ls -A /var/lib/netpath/default/cni-del 2>/dev/null || true",
        );
        assert!(!left.contains("np") && !left.contains(".json"), "{left}");
        let status: serde_json::Value =
            serde_json::from_str(&self.run("netpath status -o json")).expect("status");
        assert_eq!(status["problems"], serde_json::json!([]), "{status}");
    }

    /// What an engine that has no containers any more tells the plugin (`GC`).
    pub(crate) fn collect(&self) {
        let list = r#"{"cniVersion":"1.1.0","name":"netpath","cni.dev/valid-attachments":[]}"#;
        self.run(&format!("echo '{list}' | CNI_COMMAND=GC CNI_PATH=/opt/cni/bin /opt/cni/bin/netpath-cni"));
    }

    /// Stops the agent, without anything being removed.
    pub(crate) fn agent(&self, verb: &str) {
        self.run(&format!("systemctl {verb} netpath"));
    }
}

/// The root of an image: busybox and a page.
fn image(dir: &Path) {
    for name in ["bin", "etc", "tmp", "www"] {
        fs::create_dir_all(dir.join(name)).expect("image");
    }
    fs::copy("/bin/busybox", dir.join("bin/busybox")).expect("busybox-static");
    for name in ["sh", "ping", "nc", "ip", "sleep", "httpd"] {
        std::os::unix::fs::symlink("busybox", dir.join("bin").join(name)).expect("image");
    }
    fs::write(dir.join("www/index.html"), PAGE).expect("page");
}

/// What a server answers.
pub(crate) fn page(from: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&from, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}
