//! Taking everything away (invariant 5).

use std::{fmt::Display, fs, io, path::Path};

use ipnet::IpNet;
use nix::mount::{MntFlags, umount2};

use super::{
    AgentError, advertisements, bgp, blocking,
    found::Found,
    installed::remove_installed,
    links::{ANY_MTU, leave_netns, pod_link},
    node::block_route,
    overlay::is_tunnel,
    peers::routes_to_nodes,
    reserved::release_ports,
    start::{self, BPFFS},
    state::{HostChanges, State},
};
use crate::{
    config::{Instance, Paths},
    datapath::{is_bpffs, remove_programs},
    model::{GATEWAY_MAC, Pod, is_interface_of, tunnel_name},
    net::{Netlink, Netns},
    store::files,
};

/// Removes everything an instance put on this host, without a running agent. No error if there is nothing. Needs
/// neither the eBPF programs nor tables of this build's layout; without a store it finds links and pins by their names.
/// `force` goes on where the store cannot be read, by what the kernel tells. Returns what is left then, in words.
///
/// # Errors
/// If an agent of the instance runs, or all that failed, after trying all.
pub async fn uninstall(instance: &Instance, force: bool) -> Result<Vec<String>, AgentError> {
    start::check_root()?;
    let paths = Paths::load(instance)?;
    let _lock = start::take_lock(&paths)?;
    let netlink = Netlink::connect(&Netns::current()?).await?;
    let known = if files(&paths.store()).iter().any(|file| file.exists()) {
        recorded(&paths).await
    } else {
        Ok((Vec::new(), HostChanges::default()))
    };
    let (pods, host, left) = match known {
        Err(error) if force => {
            tracing::warn!(%error, "going on by what the kernel tells");
            let found = Found::look(instance, &paths, &netlink).await?;
            (Vec::new(), found.host, found.left)
        }
        known => {
            let (pods, host) = known?;
            (pods, host, Vec::new())
        }
    };
    remove_all(instance, &paths, pods, host, &netlink).await?;
    Ok(left)
}

/// What the store knows.
async fn recorded(paths: &Paths) -> Result<(Vec<Pod>, HostChanges), AgentError> {
    let (state, pods) = State::load(start::open_store(paths).await?).await?;
    Ok((pods, state.host().await))
}

/// Removes pods, then what keeps their packets from leaking, then the records. If something fails the records stay, so
/// that trying again goes on from there.
pub(super) async fn remove_all(
    instance: &Instance,
    paths: &Paths,
    pods: Vec<Pod>,
    host: HostChanges,
    netlink: &Netlink,
) -> Result<(), AgentError> {
    let mut failures = Failures::default();
    // First, so that engines ask for no more pods.
    failures.note(remove_installed(paths));
    if let Some(files) = &host.bird {
        failures.note(bgp::remove(files).await);
    }
    for pod in pods {
        for at in 0..pod.interfaces.len() {
            failures.note(pod_link(&pod, at, ANY_MTU).remove(netlink).await);
        }
        failures.note(leave_netns(&pod).await);
    }
    Netns::leave_directory(&paths.netns_dir);
    failures.note(remove_strays(instance, netlink).await);
    // Before what tells which of them are ours.
    failures.note(remove_routes_to_nodes(&host.routes, netlink).await);
    for prefix in host.routes {
        failures.note(netlink.delete_route(&block_route(prefix)).await);
    }
    failures.note(release_ports(&host.reserved_ports).await);
    failures.note(release_advertisements(&host.accept_ra, netlink).await);
    let pin_dir = paths.pin_dir.clone();
    failures.note(blocking(move || remove_programs(&pin_dir)).await);
    remove_empty_parent(&paths.pin_dir);
    if host.mounted_bpffs {
        failures.note(unmount_bpffs());
    }
    if failures.0.is_empty() {
        failures.note(remove_files(paths));
    }
    if failures.0.is_empty() { Ok(()) } else { Err(AgentError::Several(failures.0)) }
}

/// Sets `accept_ra` back on interfaces, whatever they are called now.
async fn release_advertisements(raised: &[u32], netlink: &Netlink) -> Result<(), AgentError> {
    if raised.is_empty() {
        return Ok(());
    }
    for link in netlink.links().await?.into_iter().filter(|link| raised.contains(&link.index)) {
        advertisements::release(&link.name).await?;
    }
    Ok(())
}

/// Removes routes to other nodes' blocks: they are of pools, which the records name.
async fn remove_routes_to_nodes(within: &[IpNet], netlink: &Netlink) -> Result<(), AgentError> {
    let survey = netlink.survey().await?;
    for route in routes_to_nodes(&survey, within) {
        netlink.delete_route(route).await?;
    }
    Ok(())
}

/// Removes the device for tunnels, and links of pods that no store knows any more.
async fn remove_strays(instance: &Instance, netlink: &Netlink) -> Result<(), AgentError> {
    for link in netlink.links().await? {
        let ours = link.kind.as_deref() == Some("veth") && link.mac == GATEWAY_MAC.0;
        let tunnel = link.name == tunnel_name(instance.name()) && is_tunnel(&link);
        if ours && is_interface_of(instance.name(), &link.name) || tunnel {
            netlink.delete_link(link.index).await?;
        }
    }
    Ok(())
}

/// Unmounts the bpffs that the agent mounted, unless it came not so far or somebody has put something else there.
fn unmount_bpffs() -> Result<(), AgentError> {
    let doing = || format!("unmounting {BPFFS}");
    if !is_bpffs(Path::new(BPFFS))? {
        return Ok(());
    }
    for entry in fs::read_dir(BPFFS).map_err(AgentError::io(doing()))? {
        let name = entry.map_err(AgentError::io(doing()))?.file_name();
        // The kernel puts these into every bpffs.
        if name != "maps.debug" && name != "progs.debug" {
            return Ok(());
        }
    }
    umount2(BPFFS, MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| AgentError::io(doing())(errno.into()))
}

/// Removes the files the agent made, and their directories if nothing else is in them: the configuration may have
/// named directories that hold other things.
fn remove_files(paths: &Paths) -> Result<(), AgentError> {
    for file in files(&paths.store()).into_iter().chain([paths.socket(), paths.lock()]) {
        // Somebody has put a directory in the place of a file; what is in it is not ours.
        if file.is_dir() {
            continue;
        }
        absent(fs::remove_file(&file)).map_err(AgentError::io(format!("removing {}", file.display())))?;
    }
    // Whatever waits there is done: no pod is left.
    absent(fs::remove_dir_all(paths.spool()))
        .map_err(AgentError::io(format!("removing {}", paths.spool().display())))?;
    for dir in [&paths.state_dir, &paths.run_dir] {
        match absent(fs::remove_dir(dir)) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                return Err(AgentError::io(format!("removing {}", dir.display()))(error));
            }
            _ => remove_empty_parent(dir),
        }
    }
    Ok(())
}

/// Removes `…/netpath` above an instance's directory, unless another instance is there.
fn remove_empty_parent(dir: &Path) {
    if let Some(parent) = dir.parent().filter(|parent| parent.ends_with("netpath")) {
        // Not empty, or not there: both are as they should be.
        let _ = fs::remove_dir(parent);
    }
}

/// What is gone already is what was wanted.
pub(super) fn absent(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// What failed so far.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn note<T, E: Display>(&mut self, outcome: Result<T, E>) {
        if let Err(error) = outcome {
            self.0.push(error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        agent::testing::{named, with_node},
        net::sysctl,
        store::memory::MemoryStore,
    };

    fn paths(root: &Path) -> Paths {
        let dir = |name: &str| root.join(name).join("netpath/i");
        Paths { run_dir: dir("run"), state_dir: dir("lib"), pin_dir: dir("bpf"), netns_dir: "/".into() }
    }

    #[test]
    fn only_own_files_and_empty_directories_go() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        remove_files(&paths).unwrap();
        for dir in [&paths.run_dir, &paths.state_dir] {
            fs::create_dir_all(dir).unwrap();
        }
        for file in [paths.store(), paths.socket(), paths.lock(), paths.run_dir.join("somebody.else")] {
            fs::write(file, "").unwrap();
        }
        remove_files(&paths).unwrap();
        assert!(!root.path().join("lib/netpath").exists());
        assert!(root.path().join("lib").exists());
        let left: Vec<_> =
            fs::read_dir(&paths.run_dir).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["somebody.else"]);
        remove_files(&paths).unwrap();
    }

    /// What a crash between writing a change down and making it leaves; and values that somebody else has set since.
    #[test]
    fn what_was_not_changed_by_us_stays() {
        const PORTS: &str = "net.ipv4.ip_local_reserved_ports";
        const UP0: &str = "net/ipv6/conf/up0/accept_ra";
        const UP1: &str = "net/ipv6/conf/up1/accept_ra";
        with_node(async |node| {
            let index = async |name: &str| node.netlink.link(name).await.unwrap().unwrap().index;
            let mut ours = HostChanges {
                reserved_ports: "32768-49151".into(),
                accept_ra: vec![index("up0").await, index("up1").await, 4711],
                mounted_bpffs: true,
                ..HostChanges::default()
            };
            let instance = Instance::new("agent-tests").unwrap();
            let remove = async |host: &HostChanges| {
                remove_all(&instance, &node.config.paths, Vec::new(), host.clone(), &node.netlink)
                    .await
                    .unwrap();
                [PORTS, UP0, UP1].map(|key| sysctl::read(key).unwrap())
            };
            umount2(BPFFS, MntFlags::MNT_DETACH).unwrap_or_default();
            sysctl::write(PORTS, "8080").unwrap();
            assert_eq!(remove(&ours).await, ["8080", "1", "1"], "a crash before anything was set");
            sysctl::write(PORTS, "8081,32768-50000").unwrap();
            sysctl::write(UP0, "0").unwrap();
            sysctl::write(UP1, "2").unwrap();
            assert_eq!(
                remove(&ours).await,
                ["8081,49152-50000", "0", "1"],
                "only what is still as we set it"
            );
            ours = HostChanges::default();
            sysctl::write(UP1, "2").unwrap();
            assert_eq!(remove(&ours).await, ["8081,49152-50000", "0", "2"], "nothing was ours");
        });
    }

    /// `ip netns` makes the directory as well: it goes only if that was us and nobody has put anything in.
    #[test]
    fn the_directory_of_namespaces_goes_with_who_made_it() {
        with_node(async |node| {
            let dir = Path::new("/mnt/netns");
            for (before, inside, stays) in [(false, false, false), (true, false, true), (false, true, true)] {
                if before {
                    fs::create_dir(dir).unwrap();
                }
                let running = node.start(Arc::new(MemoryStore::default())).await.unwrap();
                let agent = Arc::clone(&running.agent);
                agent.pod_add(&named("a")).await.unwrap();
                agent.pod_rm("a").await.unwrap();
                agent.pod_add(&named("b")).await.unwrap();
                if inside {
                    fs::write(dir.join("of-somebody-else"), "").unwrap();
                }
                running.stop().await;
                agent.remove_all().await.unwrap();
                assert_eq!(dir.exists(), stays, "there before: {before}, something inside: {inside}");
                let _ = fs::remove_dir_all(dir);
            }
        });
    }
}
