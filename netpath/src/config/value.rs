//! The rules of each setting.

use std::{
    fmt::Display,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use toml::Spanned;

use super::{
    AgentFlags, Cgroup, ConfigError, Firewall, Instance, Paths, Place,
    file::{File, OneOrMore},
};
use crate::{
    datapath::AttachKind,
    model::{
        Family, Inbound, MIN_MTU_V6, Mode, PrefixError, Protected, check_block, example_block, order_blocks,
        parse_prefix,
    },
};

/// What names blocks beside the file.
const BLOCK_FLAG: &str = "--block or NETPATH_BLOCK";
/// Uplinks a node can have; the kernel tables have room for as many.
const MAX_UPLINKS: usize = 8;
/// Longest path of a unix socket, bytes: `sun_path` without its end.
const MAX_SOCKET: usize = 107;
/// Smallest MTU: what every IPv4 host must be able to receive (RFC 791).
const MIN_MTU: u32 = 576;
/// Largest MTU: the length field of IPv4.
const MAX_MTU: u32 = 65_535;

/// What there is to choose from.
pub(super) struct Source<'a> {
    pub(super) flags: &'a AgentFlags,
    pub(super) file: &'a File,
    pub(super) path: &'a Path,
}

/// A setting somebody made, and where.
pub(super) struct Given<T> {
    pub(super) key: &'static str,
    pub(super) value: T,
    place: Place,
}

impl<T> Given<T> {
    pub(super) fn error(&self, reason: impl Into<String>, instead: impl Into<String>) -> ConfigError {
        let (reason, instead) = (reason.into(), instead.into());
        ConfigError { place: self.place.clone(), key: Some(self.key), reason, instead }
    }

    fn prefix_error(&self, wrong: PrefixError) -> ConfigError {
        self.error(wrong.reason, wrong.instead)
    }
}

impl Source<'_> {
    /// The flag if it is given, else the file's value.
    pub(super) fn given<T: Clone>(
        &self,
        key: &'static str,
        flag: (&'static str, Option<&T>),
        file: Option<&Spanned<T>>,
    ) -> Option<Given<T>> {
        let (name, flag) = flag;
        let from_file = || file.map(|value| self.in_file(key, value));
        flag.map(|value| Given { key, value: value.clone(), place: Place::Flag(name) }).or_else(from_file)
    }

    /// The flags if there are any, else the file's list.
    pub(super) fn list(
        &self,
        key: &'static str,
        (name, flags): (&'static str, &[String]),
        file: Option<&Vec<Spanned<String>>>,
    ) -> Vec<Given<String>> {
        if flags.is_empty() {
            return file.into_iter().flatten().map(|value| self.in_file(key, value)).collect();
        }
        flags.iter().map(|value| Given { key, value: value.clone(), place: Place::Flag(name) }).collect()
    }

    pub(super) fn in_file<T: Clone>(&self, key: &'static str, value: &Spanned<T>) -> Given<T> {
        let line = self.file.line(value.span().start);
        Given { key, value: value.get_ref().clone(), place: Place::File(self.path.to_owned(), Some(line)) }
    }
}

pub(super) fn node(source: &Source<'_>) -> Result<String, ConfigError> {
    let flag = ("--node or NETPATH_NODE", source.flags.node.as_ref());
    let given = source.given("node", flag, source.file.node.as_ref()).unwrap_or_else(|| {
        let value = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Given { key: "node", value: value.trim().to_owned(), place: Place::Default }
    });
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=253).contains(&given.value.len()) && given.value.chars().all(allowed) {
        return Ok(given.value);
    }
    let reason = format!("is '{}', which is not a host name", given.value);
    Err(given.error(reason, "write node = \"NAME\" with letters, digits, '.', '_' and '-'"))
}

pub(super) fn uplinks(source: &Source<'_>) -> Result<Vec<String>, ConfigError> {
    let flags = ("--uplink or NETPATH_UPLINKS", source.flags.uplinks.as_slice());
    let given = source.list("uplinks", flags, source.file.uplinks.as_ref());
    for (at, uplink) in given.iter().enumerate() {
        let name = &uplink.value;
        let usable = (1..=15).contains(&name.len())
            && !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
            && !matches!(name.as_str(), "." | "..");
        if !usable {
            return Err(uplink.error(
                format!("holds '{name}', which is not an interface's name"),
                "write uplinks = [\"eth0\"]; 'ip link' lists the names",
            ));
        }
        if given[..at].iter().any(|earlier| earlier.value == *name) {
            return Err(uplink.error(format!("holds '{name}' twice"), "name each interface once"));
        }
        if at >= MAX_UPLINKS {
            return Err(uplink.error(
                format!("holds more than {MAX_UPLINKS} interfaces"),
                format!("name {MAX_UPLINKS} at most"),
            ));
        }
    }
    Ok(given.into_iter().map(|uplink| uplink.value).collect())
}

/// The first block that somebody has named, or where an empty list of them stands.
pub(super) fn named_block(source: &Source<'_>) -> Option<Given<()>> {
    let file =
        || source.file.block.as_ref().map(|block| source.in_file("block", &Spanned::new(block.span(), ())));
    let flag = || Given { key: "block", value: (), place: Place::Flag(BLOCK_FLAG) };
    if source.flags.blocks.is_empty() { file() } else { Some(flag()) }
}

pub(super) fn blocks(source: &Source<'_>) -> Result<Vec<IpNet>, ConfigError> {
    let flags = (BLOCK_FLAG, source.flags.blocks.as_slice());
    let file = source.file.block.as_ref();
    let texts = file.map(OneOrMore::texts);
    let given = source.list("block", flags, texts.as_ref());
    let block = |given: &Given<String>| {
        let block = prefix(given)?;
        check_block(block).map_err(|wrong| given.prefix_error(wrong))?;
        Ok(block)
    };
    let blocks = given.iter().map(block).collect::<Result<Vec<_>, _>>()?;
    match (given.into_iter().next(), file) {
        (Some(given), _) => order_blocks(blocks).map_err(|wrong| given.prefix_error(wrong)),
        (None, Some(empty)) => order_blocks(blocks).map_err(|wrong| {
            let place = source.in_file("block", &Spanned::new(empty.span(), ()));
            place.prefix_error(wrong)
        }),
        (None, None) => Ok(vec![default_block()]),
    }
}

fn default_block() -> IpNet {
    parse_prefix(example_block(Family::V4)).expect("the example is a prefix")
}

pub(super) fn no_masquerade(source: &Source<'_>) -> Result<Vec<IpNet>, ConfigError> {
    let flags = ("--no-masquerade or NETPATH_NO_MASQUERADE", source.flags.no_masquerade.as_slice());
    let given = source.list("no_masquerade", flags, source.file.no_masquerade.as_ref());
    let mut prefixes = given.iter().map(prefix).collect::<Result<Vec<_>, _>>()?;
    prefixes.sort();
    prefixes.dedup();
    Ok(prefixes)
}

/// A prefix without host bits.
fn prefix(given: &Given<String>) -> Result<IpNet, ConfigError> {
    parse_prefix(&given.value).map_err(|wrong| given.prefix_error(wrong))
}

pub(super) fn inbound(source: &Source<'_>) -> Result<Inbound, ConfigError> {
    let flag = ("--inbound or NETPATH_INBOUND", source.flags.inbound.as_ref());
    let Some(given) = source.given("inbound", flag, source.file.inbound.as_ref()) else {
        return Ok(Inbound::default());
    };
    Inbound::parse(&given.value).ok_or_else(|| {
        given.error(
            format!("is '{}'", given.value),
            "write \"cluster\" (pods and nodes) or \"any\" (everybody)",
        )
    })
}

pub(super) fn protect(source: &Source<'_>) -> Result<Vec<Protected>, ConfigError> {
    let flags = ("--protect or NETPATH_PROTECT", source.flags.protect.as_slice());
    let read = |given: Given<String>| {
        given.value.parse().map_err(|reason| {
            given.error(
                format!("has '{}', {reason}", given.value),
                "write protocols with ports, such as protect = [\"tcp:2379-2380\", \"udp:53\"]",
            )
        })
    };
    source.list("protect", flags, source.file.protect.as_ref()).into_iter().map(read).collect()
}

pub(super) fn attach(source: &Source<'_>) -> Result<Option<AttachKind>, ConfigError> {
    let flag = ("--attach or NETPATH_DATAPATH_ATTACH", source.flags.attach.as_ref());
    let given = source.given("datapath.attach", flag, source.file.datapath.attach.as_ref());
    match given.as_ref().map(|given| (given, given.value.as_str())) {
        None | Some((_, "auto")) => Ok(None),
        Some((_, "tcx")) => Ok(Some(AttachKind::Tcx)),
        Some((_, "clsact")) => Ok(Some(AttachKind::Clsact)),
        Some((given, other)) => {
            Err(given
                .error(format!("is '{other}'"), "write \"auto\", \"tcx\" (since Linux 6.6) or \"clsact\""))
        }
    }
}

pub(super) fn mode(source: &Source<'_>) -> Result<Mode, ConfigError> {
    let flag = ("--mode or NETPATH_DATAPATH_MODE", source.flags.mode.as_ref());
    let Some(given) = source.given("datapath.mode", flag, source.file.datapath.mode.as_ref()) else {
        return Ok(Mode::default());
    };
    Mode::parse(&given.value)
        .ok_or_else(|| given.error(format!("is '{}'", given.value), "write \"tc\" or \"xdp\""))
}

pub(super) fn cgroup(source: &Source<'_>) -> Result<Cgroup, ConfigError> {
    let flag = ("--cgroup or NETPATH_DATAPATH_CGROUP", source.flags.cgroup.as_ref());
    let given = source.given("datapath.cgroup", flag, source.file.datapath.cgroup.as_ref());
    match given.as_ref().map(|given| (given, given.value.as_str())) {
        None | Some((_, "auto")) => Ok(Cgroup::Root),
        Some((_, "none")) => Ok(Cgroup::None),
        Some((_, path)) if path.starts_with('/') => Ok(Cgroup::At(path.into())),
        Some((given, other)) => Err(given.error(
            format!("is '{other}'"),
            "write \"auto\", \"none\" or the path of a cgroup, such as \"/sys/fs/cgroup\"",
        )),
    }
}

pub(super) fn firewall(source: &Source<'_>) -> Result<Firewall, ConfigError> {
    let flag = ("--firewall or NETPATH_DATAPATH_FIREWALL", source.flags.firewall.as_ref());
    let given = source.given("datapath.firewall", flag, source.file.datapath.firewall.as_ref());
    match given.as_ref().map(|given| (given, given.value.as_str())) {
        None | Some((_, "none")) => Ok(Firewall::None),
        Some((_, "forward")) => Ok(Firewall::Forward),
        Some((given, other)) => Err(given.error(format!("is '{other}'"), "write \"none\" or \"forward\"")),
    }
}

pub(super) fn mtu(source: &Source<'_>, blocks: &[IpNet]) -> Result<Option<u32>, ConfigError> {
    let flag = ("--mtu or NETPATH_MTU", source.flags.mtu.as_ref());
    let given = source.given("mtu", flag, source.file.mtu.as_ref());
    if blocks.iter().any(|block| block.addr().is_ipv6())
        && let Some(given) = given.as_ref().filter(|given| given.value < MIN_MTU_V6)
    {
        let reason = format!("is {}, and IPv6 needs {MIN_MTU_V6} (RFC 8200)", given.value);
        return Err(given.error(reason, format!("write {MIN_MTU_V6} to {MAX_MTU}, or no IPv6 block")));
    }
    within(given, &(MIN_MTU..=MAX_MTU), "such as 1500, or nothing to follow the uplink")
}

pub(super) fn within<T: PartialOrd + Display>(
    given: Option<Given<T>>,
    range: &RangeInclusive<T>,
    example: &str,
) -> Result<Option<T>, ConfigError> {
    match given {
        Some(given) if !range.contains(&given.value) => Err(given.error(
            format!("is {}", given.value),
            format!("write {} to {}, {example}", range.start(), range.end()),
        )),
        given => Ok(given.map(|given| given.value)),
    }
}

pub(super) fn paths(source: &Source<'_>, instance: &Instance) -> Result<Paths, ConfigError> {
    let (flags, file, usual) = (source.flags, source.file, instance.paths());
    let run = source.given(
        "run_dir",
        ("--run-dir or NETPATH_RUN_DIR", flags.run_dir.as_ref()),
        file.run_dir.as_ref(),
    );
    if let Some(given) = &run
        && given.value.join("agent.sock").as_os_str().len() > MAX_SOCKET
    {
        let reason = format!("is '{}', too long for the path of a socket", given.value.display());
        return Err(
            given.error(reason, format!("use a path of at most {} bytes", MAX_SOCKET - "/agent.sock".len()))
        );
    }
    let state = source.given(
        "state_dir",
        ("--state-dir or NETPATH_STATE_DIR", flags.state_dir.as_ref()),
        file.state_dir.as_ref(),
    );
    let pin = source.given(
        "pin_dir",
        ("--pin-dir or NETPATH_PIN_DIR", flags.pin_dir.as_ref()),
        file.pin_dir.as_ref(),
    );
    let netns = source.given(
        "netns_dir",
        ("--netns-dir or NETPATH_NETNS_DIR", flags.netns_dir.as_ref()),
        file.netns_dir.as_ref(),
    );
    Ok(Paths {
        run_dir: absolute(run, usual.run_dir)?,
        state_dir: absolute(state, usual.state_dir)?,
        pin_dir: absolute(pin, usual.pin_dir)?,
        netns_dir: absolute(netns, usual.netns_dir)?,
    })
}

fn absolute(given: Option<Given<PathBuf>>, usual: PathBuf) -> Result<PathBuf, ConfigError> {
    match given {
        None => Ok(usual),
        Some(given) if given.value.is_absolute() => Ok(given.value),
        Some(given) => {
            let reason = format!("is '{}', which is not absolute", given.value.display());
            Err(given.error(reason, format!("write a path like {}", usual.display())))
        }
    }
}
