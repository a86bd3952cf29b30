//! The agent: whether it runs, may do its work, and is well.

use super::{
    Facts, Finding,
    facts::{Stored, capability},
    report::{Faults, Outcome},
};

/// What the agent cannot do without, and for what. CAP_SYS_ADMIN holds CAP_BPF and CAP_PERFMON within it.
const NEEDED: [(u32, &str, &str); 4] = [
    (capability::NET_ADMIN, "CAP_NET_ADMIN", "links, routes and sysctls"),
    (capability::SYS_ADMIN, "CAP_SYS_ADMIN", "namespaces and mounts"),
    (capability::BPF, "CAP_BPF", "programs and tables"),
    (capability::PERFMON, "CAP_PERFMON", "what the verifier refuses to others"),
];

/// Whether the configuration is valid.
pub(super) fn config(facts: &Facts) -> Finding {
    match &facts.config {
        Ok(_) if facts.file_there => Finding::ok(format!("{} is valid", facts.file.display())),
        Ok(_) => {
            Finding::ok(format!("there is no {}: defaults and NETPATH_ variables hold", facts.file.display()))
        }
        Err(error) => Finding::failed(error.to_string(), error.instead.clone()),
    }
}

/// Whether it answers.
pub(super) fn reachable(facts: &Facts) -> Finding {
    let reason = match &facts.agent.status {
        Ok(status) => {
            let seen =
                format!("process {} of version {}, up {} s", status.pid, status.version, status.uptime_s);
            return Finding::ok(seen);
        }
        Err(reason) => reason,
    };
    match &facts.agent.process {
        Some(process) => Finding::failed(
            format!("process {} holds {}, but: {reason}", process.pid, facts.paths.lock().display()),
            format!(
                "read its log (`journalctl -u netpath`); if it hangs, {}: nothing is cut",
                facts.restart()
            ),
        ),
        None => Finding::failed(
            reason.clone(),
            format!(
                "`systemctl start netpath`, or `netpath {}agent run`; pods and flows live on meanwhile. If it does run, \
                 name its configuration with --config FILE",
                facts.options()
            ),
        ),
    }
}

/// What it says itself.
pub(super) fn problems(facts: &Facts) -> Finding {
    match &facts.agent.status {
        Err(_) => no_agent(),
        Ok(status) if status.problems.is_empty() => Finding::ok("the agent has no problems"),
        Ok(status) => Finding::failed(
            status.problems.join("; "),
            "each says what to do; the agent tries again within 10 s, and its log (`journalctl -u netpath`) says more",
        ),
    }
}

/// Whether agent and command line are of one build.
pub(super) fn version(facts: &Facts) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    match &facts.agent.status {
        Err(_) => no_agent(),
        Ok(status) if status.version == own => Finding::ok(format!("both are {own}")),
        Ok(status) => Finding::warning(
            format!("the agent is {}, this program {own}", status.version),
            format!("{}; flows go on", facts.restart()),
        ),
    }
}

/// Whether this is the network namespace that the agent works in.
pub(super) fn namespace(facts: &Facts) -> Finding {
    match &facts.agent.process {
        None => no_agent(),
        Some(_) if !facts.entered => Finding::ok("this is the agent's network namespace"),
        Some(process) => Finding::ok(format!(
            "the agent (process {}) is in another network namespace than this shell; everything here is about that one",
            process.pid
        )),
    }
}

/// Whether it may do its work.
pub(super) fn capabilities(facts: &Facts) -> Finding {
    let Some(process) = &facts.agent.process else { return no_agent() };
    let set = |number: u32| process.capabilities & (1 << number) != 0;
    let contained =
        |number| matches!(number, capability::BPF | capability::PERFMON) && set(capability::SYS_ADMIN);
    let lacking: Vec<_> = NEEDED.iter().filter(|(number, ..)| !set(*number) && !contained(*number)).collect();
    if lacking.is_empty() {
        return Finding::ok("the agent has what it needs");
    }
    let words: Vec<_> = lacking.iter().map(|(_, name, what)| format!("{name} ({what})")).collect();
    let all: Vec<_> = NEEDED.iter().map(|(_, name, _)| *name).collect();
    Finding::failed(
        format!("process {} lacks {}", process.pid, words.join(", ")),
        format!(
            "in its unit: CapabilityBoundingSet={0} and AmbientCapabilities={0}; then `systemctl daemon-reload` and {1}",
            all.join(" "),
            facts.restart()
        ),
    )
}

/// Whether it comes near a limit. Locked memory is none: kernels from 5.11 on charge tables to the cgroup instead.
pub(super) fn limits(facts: &Facts) -> Finding {
    let Some(process) = &facts.agent.process else { return no_agent() };
    let open = process.open_files;
    match process.open_files_limit {
        Some(limit) if open * 5 > limit * 4 => Finding::warning(
            format!("{open} of {limit} files are open"),
            format!("LimitNOFILE=65536 in its unit, then `systemctl daemon-reload` and {}", facts.restart()),
        ),
        Some(limit) => {
            Finding::ok(format!("{open} of {limit} files are open; locked memory has no limit for eBPF"))
        }
        None => Finding::ok(format!("{open} files are open, without a limit")),
    }
}

/// Whether only root and the socket's group can ask the agent or change what it reads.
pub(super) fn permissions(facts: &Facts) -> Finding {
    if facts.agent.modes.is_empty() {
        return Finding::not_applicable("there is neither a socket nor a store");
    }
    let mut faults = Faults::default();
    for file in &facts.agent.modes {
        let path = file.path.display();
        if file.owner != 0 {
            faults.add(format!("{path} belongs to user {}", file.owner), format!("`chown root {path}`"));
        }
        // Others may look into a directory, not more; a socket is written to be asked.
        let forbidden = if file.dir { 0o022 } else { 0o007 };
        if file.mode & forbidden != 0 {
            let fix = if file.dir { "go-w" } else { "o-rwx" };
            faults.add(format!("{path} has mode {:04o}", file.mode), format!("`chmod {fix} {path}`"));
        }
    }
    faults.finding(Outcome::Failed, "socket and store are root's")
}

/// Whether the state can be read.
pub(super) fn state(facts: &Facts) -> Finding {
    let store = facts.paths.store();
    match &facts.node.stored {
        Stored::Absent => Finding::not_applicable(format!("there is no {}", store.display())),
        Stored::InUse => Finding::ok("the agent has it open"),
        Stored::Sound(pods) => Finding::ok(format!("{} is sound and has {pods} pods", store.display())),
        Stored::Broken(reason) => Finding::failed(
            reason.clone(),
            format!(
                "put a backup in its place; or start without pods: `mv {0} {0}.broken`, and `netpath {1}uninstall`",
                store.display(),
                facts.options()
            ),
        ),
    }
}

fn no_agent() -> Finding {
    Finding::not_applicable("no agent answers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::Mode;

    #[test]
    fn an_agent_that_is_gone_or_hangs() {
        let mut facts = Facts::healthy();
        facts.agent.status = Err("no answer within 30s".into());
        let hangs = reachable(&facts);
        assert!(hangs.seen.starts_with("process 42 holds /run/netpath/default/lock"), "{hangs:?}");
        facts.agent.process = None;
        let gone = reachable(&facts);
        assert_eq!(gone.status, Outcome::Failed);
        assert!(gone.advice.unwrap().contains("`netpath agent run`"));
        for judge in [problems, version, namespace, capabilities, limits] {
            assert_eq!(judge(&facts).status, Outcome::NotApplicable);
        }
    }

    #[test]
    fn an_agent_says_itself_what_is_wrong() {
        let mut facts = Facts::healthy();
        let status = facts.agent.status.as_mut().unwrap();
        status.problems = vec!["uplink eth0: it has no IPv4 address".into()];
        status.version = "0.0.9".into();
        assert!(problems(&facts).seen.contains("no IPv4 address"));
        assert_eq!(version(&facts).status, Outcome::Warning);
        facts.entered = true;
        assert!(namespace(&facts).seen.contains("another network namespace"));
    }

    #[test]
    fn capabilities_that_are_missing_are_named() {
        let mut facts = Facts::healthy();
        let mut with = |bits: &[u32]| {
            let process = facts.agent.process.as_mut().unwrap();
            process.capabilities = bits.iter().fold(0, |all, bit| all | 1 << bit);
            capabilities(&facts)
        };
        assert_eq!(with(&[12, 21, 38, 39]).status, Outcome::Ok);
        assert_eq!(with(&[12, 21]).status, Outcome::Ok, "the old kind of root");
        let finding = with(&[21]);
        assert!(finding.seen.ends_with("lacks CAP_NET_ADMIN (links, routes and sysctls)"), "{finding:?}");
        let finding = with(&[12, 39]);
        assert!(
            finding.seen.contains("CAP_SYS_ADMIN") && finding.seen.contains("CAP_PERFMON"),
            "{finding:?}"
        );
        assert!(
            finding
                .advice
                .unwrap()
                .contains("CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN CAP_BPF CAP_PERFMON")
        );
    }

    #[test]
    fn limits_and_permissions() {
        let mut facts = Facts::healthy();
        facts.agent.process.as_mut().unwrap().open_files = 900;
        assert_eq!(limits(&facts).status, Outcome::Warning);
        let socket = Mode { path: "/run/s".into(), mode: 0o660, owner: 0, dir: false };
        let dir = Mode { path: "/run/d".into(), mode: 0o755, owner: 0, dir: true };
        facts.agent.modes = vec![socket.clone(), dir.clone()];
        assert_eq!(permissions(&facts).status, Outcome::Ok);
        facts.agent.modes = vec![Mode { mode: 0o666, ..socket }, Mode { mode: 0o775, owner: 7, ..dir }];
        let finding = permissions(&facts);
        assert_eq!(finding.advice.unwrap(), "`chmod o-rwx /run/s`; `chown root /run/d`; `chmod go-w /run/d`");
        facts.agent.modes.clear();
        assert_eq!(permissions(&facts).status, Outcome::NotApplicable);
    }

    #[test]
    fn a_broken_store_or_configuration() {
        let mut facts = Facts::healthy();
        for (stored, outcome) in [
            (Stored::Absent, Outcome::NotApplicable),
            (Stored::Sound(3), Outcome::Ok),
            (Stored::Broken("damaged".into()), Outcome::Failed),
        ] {
            facts.node.stored = stored;
            assert_eq!(state(&facts).status, outcome);
        }
        facts.config = Err(crate::config::ConfigError {
            place: crate::config::Place::File("/etc/netpath/netpath.toml".into(), Some(3)),
            key: Some("mtu"),
            reason: "is 1".into(),
            instead: "write 1500".into(),
        });
        let finding = config(&facts);
        assert!(
            finding.seen.contains("line 3") && finding.advice.as_deref() == Some("write 1500"),
            "{finding:?}"
        );
    }
}
