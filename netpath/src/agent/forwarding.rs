//! Whether the node's own stack does for pods what the programs leave to it.

use nix::errno::Errno;

use super::blocking;
use crate::net::{NetError, sysctl};

/// What the problem is called, and the sysctl.
pub(super) const ALL: &str = "net.ipv6.conf.all.forwarding";
/// There since Linux 6.17: with it one interface forwards, and netpath sees to those of pods. Before, all do or none; and
/// what changes the whole node is for who runs it to set.
const ONE: &str = "net.ipv6.conf.default.force_forwarding";

/// Says what does not work on this node, if pods have IPv6.
pub(super) async fn check(has_v6: bool) -> Result<(), String> {
    if !has_v6 {
        return Ok(());
    }
    let (all, one) = blocking(|| (read(ALL), read(ONE))).await;
    let (all, one) = (all.map_err(|error| error.to_string())?, one.map_err(|error| error.to_string())?);
    judge(all.as_deref(), one.is_some())
}

/// What the problem with `datapath.firewall` is called.
pub(super) const FIREWALL: &str = "datapath.firewall";

/// Says by which uplinks nobody gets through the node's FORWARD chains, as its stack forwards nothing that comes by them.
/// `families` are those that pods have: IPv4, IPv6.
pub(super) async fn check_uplinks(uplinks: Vec<String>, families: [bool; 2]) -> Result<(), String> {
    let closed = move || {
        let own = |uplink: &String| -> Result<Vec<String>, NetError> {
            let v4 = format!("net/ipv4/conf/{uplink}/forwarding");
            let mut wrong = Vec::new();
            if families[0] && read(&v4)?.as_deref() == Some("0") {
                wrong.push(v4);
            }
            let forced = format!("net/ipv6/conf/{uplink}/force_forwarding");
            let all = || read("net/ipv6/conf/all/forwarding");
            if families[1] && all()?.as_deref() == Some("0") && read(&forced)?.as_deref() != Some("1") {
                wrong.push(forced);
            }
            Ok(wrong)
        };
        uplinks.iter().map(own).collect::<Result<Vec<_>, _>>()
    };
    let wrong = blocking(closed).await.map_err(|error| error.to_string())?.concat();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "it is 'forward', and the node's stack forwards nothing there: nobody outside reaches a published port; set {} to 1 \
         (force_forwarding from Linux 6.17 on, net/ipv6/conf/all/forwarding before), in /etc/sysctl.d as well",
        wrong.join(", ")
    ))
}

/// A node without IPv6 has another problem.
fn judge(all: Option<&str>, one_alone: bool) -> Result<(), String> {
    if one_alone || all != Some("0") {
        return Ok(());
    }
    Err(format!(
        "it is 0, and this kernel (below 6.17) then lets the node answer no pod over IPv6: no 'packet too big', hence no \
         path MTU, no fragments, no 'time exceeded' for traceroute; set it with 'sysctl -w {ALL}=1' and in /etc/sysctl.d, \
         and before that net.ipv6.conf.DEV.accept_ra=2 for each interface that has its routes from router advertisements \
         (the uplinks have it from netpath)"
    ))
}

/// `None` if the kernel has no such key.
fn read(key: &str) -> Result<Option<String>, NetError> {
    match sysctl::read(key) {
        Err(error) if error.is(Errno::ENOENT) => Ok(None),
        value => value.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_that_cannot_do_it_for_one_interface_has_the_problem() {
        for (all, one_alone) in
            [(Some("1"), false), (Some("2"), false), (Some("0"), true), (None, false), (None, true)]
        {
            assert_eq!(judge(all, one_alone), Ok(()), "{all:?} {one_alone}");
        }
        let problem = judge(Some("0"), false).unwrap_err();
        for words in ["sysctl -w net.ipv6.conf.all.forwarding=1", "accept_ra=2", "path MTU", "time exceeded"]
        {
            assert!(problem.contains(words), "{words}: {problem}");
        }
    }
}
