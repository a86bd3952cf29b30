//! The machine around netpath.

use std::time::Duration;

use super::{
    Facts, Finding,
    report::{Faults, Outcome},
};

/// Kernel memory beside the flow table, bytes: the other tables, programs, and what the agent itself takes.
const BESIDE_FLOWS: u64 = 96 << 20;
/// What an entry of the flow table takes, bytes.
const FLOW: u64 = 200;
/// NETPATH_ variables that are no flags of the agent: the command line's own, and those of build and tests.
const OTHER_VARIABLES: [&str; 2] = ["NETPATH_INSTANCE", "NETPATH_LOG"];
const BUILD_VARIABLES: [&str; 6] = [
    "NETPATH_EBPF_",
    "NETPATH_BPF_LINKER",
    "NETPATH_BIN",
    "NETPATH_SKIP_FILE",
    "NETPATH_FUZZ_",
    "NETPATH_MEASURE",
];

/// Whether pins have a place.
pub(super) fn bpffs(facts: &Facts) -> Finding {
    let dir = facts.paths.pin_dir.display();
    if facts.host.bpffs {
        return Finding::ok(format!("{dir} is on a bpffs"));
    }
    if !facts.paths.pin_dir.starts_with("/sys/fs/bpf") {
        return Finding::failed(
            format!("{dir} is not on a bpffs, and netpath mounts one only on /sys/fs/bpf"),
            format!("mount one above {dir}, or remove pin_dir from {}", facts.file.display()),
        );
    }
    let seen = format!("{dir} is not on a bpffs: without pins, programs go when the agent does");
    let advice = "`mount -t bpf bpf /sys/fs/bpf`; the agent does so when it starts";
    if facts.agent.process.is_some() { Finding::failed(seen, advice) } else { Finding::warning(seen, advice) }
}

/// Whether the pins outlive the agent.
pub(super) fn bpffs_shared(facts: &Facts) -> Finding {
    match facts.host.bpffs_of_host {
        _ if !facts.host.bpffs => Finding::not_applicable("there is no bpffs yet"),
        None => {
            Finding::not_applicable("the node is a network namespace of its own: its pins go with its mounts")
        }
        Some(true) => Finding::ok("the bpffs is that of the host's mount namespace"),
        Some(false) => Finding::failed(
            "the bpffs is mounted in a private mount namespace: pins go when its last process ends",
            "mount it on the host: `nsenter -t 1 -m mount -t bpf bpf /sys/fs/bpf`, and start the agent without \
             PrivateMounts=, ProtectKernelTunables= and the like in its unit",
        ),
    }
}

/// Whether the agent's cgroup has room for the tables, whose memory the kernel charges to it.
pub(super) fn cgroup(facts: &Facts) -> Finding {
    let Some(mount) = &facts.host.cgroup2 else {
        return Finding::not_applicable(
            "cgroup version 2 is not mounted; only the node's own way to published ports needs it",
        );
    };
    let mounted = format!("cgroup version 2 is on {}", mount.display());
    let limit = facts.agent.process.as_ref().and_then(|process| process.memory_limit);
    let need = facts.flow_entries() * FLOW + BESIDE_FLOWS;
    match limit.filter(|limit| *limit < need) {
        None => Finding::ok(mounted),
        Some(limit) => Finding::warning(
            format!(
                "{mounted}, and the agent's memory is limited to {} MiB; its tables take up to {} MiB of it",
                limit >> 20,
                need >> 20
            ),
            format!("`systemctl set-property netpath.service MemoryMax={}M`", (2 * need) >> 20),
        ),
    }
}

/// Whether times in logs mean something. Flows live by the monotonic clock, so nothing else depends on it.
pub(super) fn clock(facts: &Facts) -> Finding {
    let clock = &facts.host.clock;
    let services = clock.services.join(", ");
    // A day: packages may be built in another time zone's tomorrow.
    if clock.now + Duration::from_secs(86_400) < clock.built {
        let days = clock.built.duration_since(clock.now).unwrap_or_default().as_secs() / 86_400;
        return Finding::warning(
            format!("the clock is {days} days before the time at which this program was built"),
            "`timedatectl set-ntp true`, or set it by `date -s`; times in logs and events are wrong until then",
        );
    }
    if clock.services.is_empty() {
        return Finding::not_applicable(
            "no time service runs here; flows live by the monotonic clock, and do not care",
        );
    }
    if services == "systemd-timesyn" && !clock.synchronized {
        return Finding::warning(
            "systemd-timesyncd runs, and has not set the clock yet",
            "see `timedatectl timesync-status`; is its server reachable?",
        );
    }
    Finding::ok(format!("{services} sets the clock: {}", humantime::format_rfc3339_seconds(clock.now)))
}

/// Variables that nobody reads, or that the agent may not have had.
pub(super) fn environment(facts: &Facts) -> Finding {
    let known = |name: &str| {
        facts.variables.iter().any(|known| known == name)
            || OTHER_VARIABLES.contains(&name)
            || BUILD_VARIABLES.iter().any(|start| name.starts_with(start))
    };
    let mut faults = Faults::default();
    for (name, value) in &facts.environment {
        if !known(name) {
            let near = facts.variables.iter().find(|known| is_near(name, known));
            let meant = near.map(|near| format!(", perhaps for {near}")).unwrap_or_default();
            faults.add(format!("nothing reads {name}"), format!("`unset {name}`{meant}"));
        } else if value.is_empty() {
            faults.add(format!("{name} is empty"), format!("`unset {name}`"));
        }
    }
    faults.finding(Outcome::Warning, format!("{} NETPATH_ variables are set", facts.environment.len()))
}

/// Whether one name is the other with a letter or two missing, added or changed at its end, or a plural of it.
fn is_near(name: &str, known: &str) -> bool {
    let same = name.bytes().zip(known.bytes()).take_while(|(a, b)| a == b).count();
    let shared = name.bytes().rev().zip(known.bytes().rev()).take_while(|(a, b)| a == b).count();
    same > "NETPATH_".len() && same + shared + 2 >= name.len().max(known.len())
}

/// What a source tree needs to be built again.
pub(super) fn toolchain(facts: &Facts) -> Finding {
    match &facts.host.checkout {
        None => Finding::not_applicable("this is an installed binary, which needs no toolchain"),
        Some(checkout) if checkout.lacking.is_empty() => {
            Finding::ok(format!("{} can be built", checkout.root.display()))
        }
        Some(checkout) => Finding::warning(
            format!(
                "{} cannot be built: {} is missing",
                checkout.root.display(),
                checkout.lacking.join(" and ")
            ),
            "`cargo xtask setup`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_is_missing_or_private() {
        let mut facts = Facts::healthy();
        facts.host.bpffs_of_host = Some(false);
        assert_eq!(bpffs_shared(&facts).status, Outcome::Failed);
        facts.host.bpffs = false;
        assert_eq!(bpffs_shared(&facts).status, Outcome::NotApplicable);
        assert_eq!(bpffs(&facts).status, Outcome::Failed);
        facts.agent.process = None;
        assert_eq!(bpffs(&facts).status, Outcome::Warning, "the agent will see to it");
        assert!(bpffs(&facts).advice.unwrap().contains("`mount -t bpf bpf /sys/fs/bpf`"));
        facts.paths.pin_dir = "/mnt/pins".into();
        assert!(bpffs(&facts).advice.unwrap().contains("pin_dir"));
    }

    #[test]
    fn a_cgroup_without_room_is_told() {
        let mut facts = Facts::healthy();
        facts.agent.process.as_mut().unwrap().memory_limit = Some(64 << 20);
        let finding = cgroup(&facts);
        assert_eq!(finding.status, Outcome::Warning);
        assert_eq!(finding.advice.unwrap(), "`systemctl set-property netpath.service MemoryMax=292M`");
        facts.host.cgroup2 = None;
        assert_eq!(cgroup(&facts).status, Outcome::NotApplicable);
    }

    #[test]
    fn a_clock_before_the_build_is_wrong() {
        let mut facts = Facts::healthy();
        assert_eq!(clock(&facts).status, Outcome::Ok);
        facts.host.clock.services = vec!["systemd-timesyn".into()];
        assert!(clock(&facts).seen.contains("not set the clock"));
        facts.host.clock.now = facts.host.clock.built - Duration::from_secs(10 * 86_400);
        assert!(clock(&facts).seen.contains("10 days"), "{:?}", clock(&facts));
        facts = Facts::healthy();
        facts.host.clock.services.clear();
        assert_eq!(clock(&facts).status, Outcome::NotApplicable);
    }

    #[test]
    fn unknown_variables_are_told_with_what_was_meant() {
        let mut facts = Facts::healthy();
        let set = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        facts.environment =
            set(&[("NETPATH_UPLINKS", "eth0"), ("NETPATH_LOG", "debug"), ("NETPATH_BIN", "x")]);
        assert_eq!(environment(&facts).status, Outcome::Ok);
        facts.environment =
            set(&[("NETPATH_UPLINK", "eth0"), ("NETPATH_COLOUR", "red"), ("NETPATH_MTU", "")]);
        let finding = environment(&facts);
        assert_eq!(
            finding.seen,
            "nothing reads NETPATH_UPLINK; nothing reads NETPATH_COLOUR; NETPATH_MTU is empty"
        );
        let advice = finding.advice.unwrap();
        assert!(
            advice
                .starts_with("`unset NETPATH_UPLINK`, perhaps for NETPATH_UPLINKS; `unset NETPATH_COLOUR`;")
        );
    }

    #[test]
    fn a_checkout_needs_its_tools() {
        let mut facts = Facts::healthy();
        facts.host.checkout.as_mut().unwrap().lacking.push("cargo".into());
        assert_eq!(toolchain(&facts).advice.unwrap(), "`cargo xtask setup`");
        facts.host.checkout = None;
        assert_eq!(toolchain(&facts).status, Outcome::NotApplicable);
    }
}
