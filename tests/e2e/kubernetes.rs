//! What a cluster is given: the manifest, and the image that it names. No cluster runs here: podman starts the manifest's
//! containers with what it says of them, as kubelet would.

use std::{collections::BTreeSet, fs, path::Path};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Container, PodSpec},
};
use netpath_tests::{node::binary, wait};

use crate::{engine::Host, systemd::CONFIGURATION};

const MANIFEST: &str = include_str!("../../packaging/kubernetes/netpath.yaml");
const CONTAINERFILE: &str = include_str!("../../packaging/kubernetes/Containerfile");

fn manifest() -> DaemonSet {
    serde_yaml_ng::from_str(MANIFEST).expect("a DaemonSet")
}

fn pod_of(set: &DaemonSet) -> &PodSpec {
    set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).expect("a pod")
}

fn containers(pod: &PodSpec) -> impl Iterator<Item = &Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers)
}

#[test]
fn kubernetes_manifest_has_only_fields_that_there_are() {
    let set = manifest();
    // A field of another name, or in another place, is none of the type's, and lost.
    let written: serde_json::Value = serde_yaml_ng::from_str(MANIFEST).expect("YAML");
    assert_eq!(serde_json::to_value(&set).expect("JSON"), written);
    let spec = set.spec.as_ref().expect("spec");
    let labels = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
    assert_eq!(spec.selector.match_labels, labels, "else the API server refuses it");
    let pod = pod_of(&set);
    let volumes: BTreeSet<_> = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    let mounts = containers(pod).flat_map(|one| one.volume_mounts.iter().flatten());
    let mounted: BTreeSet<_> = mounts.map(|mount| mount.name.as_str()).collect();
    assert_eq!(mounted, volumes);
    let images: BTreeSet<_> = containers(pod).map(|one| one.image.as_deref()).collect();
    let version = format!("registry.example/netpath:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(images, BTreeSet::from([Some(version.as_str())]));
    assert!(CONTAINERFILE.contains(&version));
}

/// The command line that has podman start one of the manifest's containers.
fn podman_run(pod: &PodSpec, one: &Container, flags: &str) -> String {
    let mut line = format!("podman run {flags}");
    if pod.host_network == Some(true) {
        line += " --network host";
    }
    if pod.host_pid == Some(true) {
        line += " --pid host";
    }
    if one.security_context.as_ref().and_then(|context| context.privileged) == Some(true) {
        line += " --privileged";
    }
    for mount in one.volume_mounts.iter().flatten() {
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name).expect("volume");
        let from = &volume.host_path.as_ref().expect("a path of the node").path;
        let mode = if mount.read_only == Some(true) { "ro" } else { "rw" };
        let shared = match mount.mount_propagation.as_deref() {
            Some("Bidirectional") => "rshared",
            Some("HostToContainer") => "rslave",
            _ => "rprivate",
        };
        line += &format!(" -v {from}:{}:{mode},{shared}", mount.mount_path);
    }
    for variable in one.env.iter().flatten() {
        let value = variable.value.as_deref().unwrap_or("node1");
        line += &format!(" --env {}={value}", variable.name);
    }
    format!("{line} localhost/netpath {}", one.args.iter().flatten().cloned().collect::<Vec<_>>().join(" "))
}

/// Builds the image, on what the binaries need of this machine in place of a distribution.
fn build(host: &Host) {
    let dir = host.machine.path("/root/build");
    fs::create_dir_all(dir.join("context")).expect("directory");
    for name in ["netpath", "netpath-cni"] {
        fs::copy(binary().with_file_name(name), dir.join("context").join(name)).expect("binary");
    }
    fs::write(dir.join("Containerfile"), CONTAINERFILE).expect("Containerfile");
    let libraries = "cd /root/build && mkdir -p base/run base/usr/bin base/var && ln -s /run base/var/run && \
        for file in $(ldd /usr/bin/netpath | grep -o '/[^ ]*'); do cp --parents -L $file base; done";
    host.run(libraries);
    host.run("tar -C /root/build/base -c . | podman import - localhost/base");
    host.run(
        "podman build -q --build-arg BASE=localhost/base -f /root/build/Containerfile -t localhost/netpath \
         /root/build/context",
    );
}

#[test]
fn kubernetes_image_runs_the_node_as_the_manifest_has_it_ipv4_and_ipv6() {
    let host = Host::start();
    // As on a node: the agent is no service of its own, and mounts are shared with who asks for it.
    host.run("netpath cni uninstall; systemctl stop netpath; mount --make-rshared /; mkdir -p /opt/cni/bin");
    build(&host);
    let said = host.run("podman run --rm --network none --entrypoint netpath-cni --env CNI_COMMAND=VERSION localhost/netpath </dev/null");
    assert!(said.contains("1.1.0"), "{said}");

    let set = manifest();
    let pod = pod_of(&set);
    for volume in pod.volumes.iter().flatten().filter_map(|volume| volume.host_path.as_ref()) {
        if volume.type_.as_deref() == Some("DirectoryOrCreate") {
            host.run(&format!("mkdir -p {}", volume.path));
        }
    }
    fs::write(host.machine.path("/etc/netpath/netpath.toml"), CONFIGURATION).expect("configuration");
    let install = &pod.init_containers.as_ref().expect("it installs the plugin")[0];
    host.run(&podman_run(pod, install, "--rm"));
    assert!(Path::new(&host.machine.path("/opt/cni/bin/netpath-cni")).exists());
    let start = || {
        host.run(&podman_run(pod, &pod.containers[0], "-d --name agent"));
        let probe = pod.containers[0].readiness_probe.as_ref().and_then(|probe| probe.exec.as_ref());
        let probe = probe.and_then(|probe| probe.command.as_ref()).expect("a command").join(" ");
        wait::until("it is ready", || {
            host.machine.try_run(&format!("podman exec agent {probe}")).status.success()
        });
    };
    start();
    host.run("podman run -d --name web -p 8080:80 image");
    host.run("podman run -d --name client image sleep 1000");
    let (client, web) = (host.shell("client"), host.shell("web"));
    let works = || host.is_published(8080, &[("another container", &client), ("itself", &web)]);
    works();
    host.serves(&host.pod("web"));
    // An update: pods keep their network, and the next agent finds all of it.
    host.run("podman rm -f -t 30 agent");
    works();
    start();
    works();
    host.run("podman network reload web");
    works();
    host.run("podman rm -f -t 0 web client");
    host.is_clean();
    host.run("podman exec agent netpath uninstall");
    assert!(!host.machine.path("/opt/cni/bin/netpath-cni").exists());
    assert!(!host.run("ls /etc/cni/net.d /sys/fs/bpf").contains("netpath"));
}
