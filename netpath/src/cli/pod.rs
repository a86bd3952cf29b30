//! `netpath pod`.

mod bandwidth;
pub(super) mod exec;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Subcommand;

use super::{
    Global,
    network::yes,
    output::{Column, Format, fields, print, table},
    units::{bytes, list},
    wait,
};
use crate::api::types::{Bandwidth, Pod, PodAdd, PodInterface, PodSet};

/// Pods: network namespaces with an address of the node's block.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a pod: a namespace with an interface, an address and a route
    Add(AddArgs),
    /// Change a pod while it runs
    ///
    /// What it sends next follows the change. Flows that are translated already stay so until they end.
    #[command(after_help = "Examples:
  netpath pod set web --masquerade no
  netpath pod set web --mode xdp
  netpath pod set web --publish 8443:443 --unpublish 8080:80/tcp
  netpath pod set web --ingress-bandwidth 20M --egress-bandwidth none")]
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    Set {
        /// Name of the pod
        name: String,
        /// Whether its traffic to outside may carry the node's address, as its networks say (yes), or never does (no)
        #[arg(long, value_name = "YES", value_parser = yes, group = "change")]
        masquerade: Option<bool>,
        /// Which way its packets take to other pods of the node: tc or xdp
        #[arg(long, value_name = "MODE", group = "change")]
        mode: Option<String>,
        /// Ports of the node that lead to the pod from now on, as for 'pod add'; may be repeated
        #[arg(long, value_name = "PORTS", group = "change")]
        publish: Vec<String>,
        /// Those that no longer do, as 'pod show' has them; connections by them end
        #[arg(long, value_name = "PORTS", group = "change")]
        unpublish: Vec<String>,
        /// What it may get from now on, as for 'pod add', or none to take the limit off
        #[arg(long, value_name = "RATE[:BURST]", value_parser = bandwidth::changed, group = "change")]
        ingress_bandwidth: Option<Bandwidth>,
        /// What it may send from now on, likewise
        #[arg(long, value_name = "RATE[:BURST]", value_parser = bandwidth::changed, group = "change")]
        egress_bandwidth: Option<Bandwidth>,
    },
    /// Remove pods with everything made for them
    #[command(after_help = "Examples:
  netpath pod rm web
  netpath pod rm web db")]
    Rm {
        /// Names of the pods
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Return when they are cut off: interfaces and namespaces go a little later
        #[arg(long)]
        no_wait: bool,
    },
    /// List pods
    #[command(after_help = "Examples:
  netpath pod ls
  netpath pod ls -o json | jq -r '.[] | .name + \" \" + .addresses[0]'")]
    Ls,
    /// Show all that is known of a pod
    Show {
        /// Name of the pod
        name: String,
    },
    /// Run a command in a pod's network namespace
    ///
    /// Only the network is the pod's: files, users and processes stay the caller's. The command takes netpath's place, so
    /// signals reach it and its exit status is the one seen; 126 if it cannot be run, 127 if it is not found.
    #[command(after_help = "Examples:
  netpath pod exec web -- ip addr
  netpath pod exec web -- sh")]
    Exec {
        /// Name of the pod
        name: String,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<std::ffi::OsString>,
    },
}

/// `pod add`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netpath pod add web
  netpath pod add db --ip 10.244.0.9 --label tier=data
  netpath pod add ct --netns /proc/4711/ns/net
  netpath pod add web --publish 8080:80 --publish 53:53/udp
  netpath pod add side --network pod:web
  netpath pod add backup --ingress-bandwidth 50M --egress-bandwidth 10M
  netpath pod add router --network front --network back --allow-address 203.0.113.80")]
pub struct AddArgs {
    /// Name of the pod, unique on the node
    name: String,
    /// Network to join; repeated, the pod has an interface in each: eth0, eth1, … [default: the default network]
    ///
    /// Or one of: none, a loopback interface and nothing else; host, the node's own namespace; pod:NAME, that pod's namespace.
    #[arg(long = "network", value_name = "NETWORK")]
    networks: Vec<String>,
    /// Address wanted; may be given once a network and family [default: the agent chooses]
    #[arg(long, value_name = "A")]
    ip: Vec<IpAddr>,
    /// Address that the pod may use beside its own, on its first interface; may be repeated
    #[arg(long = "allow-address", value_name = "A")]
    allowed: Vec<IpAddr>,
    /// Let outside see the pod's own address, whatever its networks say
    #[arg(long)]
    no_masquerade: bool,
    /// MAC wanted, such as 02:00:00:00:00:01 [default: made from the address]
    #[arg(long, value_name = "M", value_parser = mac)]
    mac: Option<String>,
    /// Existing network namespace to attach [default: /run/netns/NAME is made]
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// Free label; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
    /// MTU of the pod's interface, bytes [default: the uplink's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(68..=65535))]
    mtu: Option<u32>,
    /// Which way its packets take to other pods of the node: tc or xdp [default: the node's]
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// Ports of the node that lead to the pod, the node's before the pod's; may be repeated
    #[arg(long, value_name = "[IP:]PORT[-PORT]:PORT[-PORT][/tcp|udp|sctp]")]
    publish: Vec<String>,
    /// What the pod may get: bits a second with K, M, G, and bytes that may pass at once [default: all there is]
    #[arg(long, value_name = "RATE[:BURST]", value_parser = bandwidth::parse)]
    ingress_bandwidth: Option<Bandwidth>,
    /// What the pod may send, likewise
    #[arg(long, value_name = "RATE[:BURST]", value_parser = bandwidth::parse)]
    egress_bandwidth: Option<Bandwidth>,
}

impl AddArgs {
    fn request(self) -> anyhow::Result<PodAdd> {
        // The agent has another working directory.
        let netns = self.netns.map(|path| {
            let path = std::path::absolute(&path).with_context(|| format!("resolving {}", path.display()))?;
            path.into_os_string()
                .into_string()
                .map_err(|path| anyhow::anyhow!("resolving {}: not UTF-8", path.display()))
        });
        Ok(PodAdd {
            name: self.name,
            networks: self.networks,
            addresses: self.ip,
            allowed_addresses: self.allowed,
            no_masquerade: self.no_masquerade,
            mac: self.mac,
            netns: netns.transpose()?,
            labels: BTreeMap::from_iter(self.labels),
            mtu: self.mtu,
            mode: self.mode,
            publish: self.publish,
            ingress_bandwidth: self.ingress_bandwidth,
            egress_bandwidth: self.egress_bandwidth,
            ..PodAdd::default()
        })
    }
}

pub(super) fn run(global: &Global, command: Command) -> anyhow::Result<ExitCode> {
    let client = global.client();
    match command {
        Command::Add(args) => {
            let request = args.request()?;
            global.output.show(&wait(client.pod_add(&request))?, |pod| {
                let addresses = all(pod, &pod.addresses, |one| &one.addresses);
                let has = if pod.interface.is_empty() { &pod.network } else { &list(&addresses) };
                format!("pod {} has {has} in {}\n", pod.name, pod.netns)
            })?;
        }
        Command::Set { name, masquerade, mode, publish, unpublish, ingress_bandwidth, egress_bandwidth } => {
            let no_masquerade = masquerade.map(|yes| !yes);
            let change =
                PodSet { no_masquerade, mode, publish, unpublish, ingress_bandwidth, egress_bandwidth };
            global.output.show(&wait(client.pod_set(&name, &change))?, render_one)?;
        }
        Command::Rm { names, no_wait } => return remove(global, &names, no_wait),
        Command::Ls => global.output.show(&wait(client.pods())?[..], render)?,
        Command::Show { name } => global.output.show(&wait(client.pod(&name))?, render_one)?,
        Command::Exec { name, command } => {
            let (pod, status) = wait(async { tokio::try_join!(client.pod(&name), client.status()) })?;
            return Err(exec::replace_process(&pod, status.pid, &command));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(global: &Global, names: &[String], no_wait: bool) -> anyhow::Result<ExitCode> {
    let client = global.client();
    super::each(names, |name| {
        wait(async { if no_wait { client.pod_rm_early(name).await } else { client.pod_rm(name).await } })?;
        if global.output == Format::Table { print(&format!("pod {name} is removed\n")) } else { Ok(()) }
    })
}

pub(super) fn render(pods: &[Pod]) -> String {
    let columns = [
        Column::Left("NAME"),
        Column::Left("NETWORK"),
        Column::Left("ADDRESSES"),
        Column::Left("INTERFACE"),
        Column::Left("STATE"),
        Column::Left("BANDWIDTH"),
        Column::Right("RECEIVED"),
        Column::Right("SENT"),
    ];
    let rows = pods.iter().map(|pod| {
        [
            pod.name.clone(),
            list(&all(pod, std::slice::from_ref(&pod.network), |one| std::slice::from_ref(&one.network))),
            list(&all(pod, &pod.addresses, |one| &one.addresses)),
            list(&all(pod, own(&pod.interface), |one| std::slice::from_ref(&one.interface))),
            pod.state.clone(),
            bandwidth::both(pod),
            bytes(pod.rx_bytes),
            bytes(pod.tx_bytes),
        ]
    });
    table(&columns, rows)
}

pub(super) fn render_one(pod: &Pod) -> String {
    let labels: Vec<_> = pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let traffic = |packets, count| format!("{packets} packets, {}", bytes(count));
    let known = pod
        .attachment
        .as_ref()
        .map(|own| ("container", format!("{} in {} as {}", own.container, own.network, own.interface)));
    let index = own(&pod.interface).iter().map(|_| format!(" ({})", pod.ifindex)).collect::<String>();
    let mut shown = fields(
        [
            ("name", pod.name.clone()),
            ("network", pod.network.clone()),
            ("state", pod.state.clone()),
            ("addresses", list(&pod.addresses)),
            ("allowed", list(&pod.allowed_addresses)),
            ("masquerade", if pod.no_masquerade { "never" } else { "as its networks say" }.to_owned()),
            ("mac", list(own(&pod.mac))),
            ("mtu", pod.mtu.to_string()),
            ("mode", pod.mode.clone()),
            ("published", list(&pod.published)),
            ("ingress", bandwidth::words(pod.ingress_bandwidth)),
            ("egress", bandwidth::words(pod.egress_bandwidth)),
            ("interface", list(own(&pod.interface)) + &index),
            ("netns", pod.netns.clone()),
            ("received", traffic(pod.rx_packets, pod.rx_bytes)),
            ("sent", traffic(pod.tx_packets, pod.tx_bytes)),
            ("labels", list(&labels)),
        ]
        .into_iter()
        .chain(known),
    );
    if pod.interfaces.len() > 1 {
        shown.push('\n');
        shown.push_str(&interfaces(&pod.interfaces));
    }
    shown
}

fn interfaces(interfaces: &[PodInterface]) -> String {
    let columns = [
        Column::Left("IN THE POD"),
        Column::Left("NETWORK"),
        Column::Left("ADDRESSES"),
        Column::Left("MAC"),
        Column::Left("INTERFACE"),
    ];
    let rows = interfaces.iter().map(|one| {
        [
            one.name.clone(),
            one.network.clone(),
            list(&one.addresses),
            one.mac.clone(),
            format!("{} ({})", one.interface, one.ifindex),
        ]
    });
    table(&columns, rows)
}

/// What a pod without an interface of its own does not have.
fn own(text: &String) -> &[String] {
    if text.is_empty() { &[] } else { std::slice::from_ref(text) }
}

/// Of all its interfaces.
fn all<'a, T: 'a>(pod: &'a Pod, first: &'a [T], of: impl Fn(&'a PodInterface) -> &'a [T]) -> Vec<&'a T> {
    let later = pod.interfaces.iter().skip(1).flat_map(of);
    first.iter().chain(later).collect()
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".to_owned()),
    }
}

fn mac(text: &str) -> Result<String, String> {
    // `from_str_radix` would take a sign.
    let octet = |digits: &str| match digits.len() {
        2 if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => u8::from_str_radix(digits, 16).ok(),
        _ => None,
    };
    let octets = text
        .split(':')
        .map(octet)
        .collect::<Option<Vec<_>>>()
        .filter(|octets| octets.len() == 6)
        .ok_or("a MAC is six hexadecimal octets, such as 02:00:00:00:00:01")?;
    // An interface cannot have a group address, nor none.
    if octets[0] & 1 != 0 || octets.iter().all(|&octet| octet == 0) {
        return Err("not a unicast MAC; 02:00:00:00:00:01 would be one".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_unicast_and_whole() {
        assert_eq!(mac("02:AB:00:00:00:01").unwrap(), "02:ab:00:00:00:01");
        for wrong in
            ["", "02:ab", "1:2:3:4:5:6", "03:00:00:00:00:01", "00:00:00:00:00:00", "+2:00:00:00:00:01"]
        {
            mac(wrong).unwrap_err();
        }
    }

    #[test]
    fn labels_have_a_key() {
        assert_eq!(label("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(label("a=").unwrap(), ("a".into(), String::new()));
        for wrong in ["", "a", "=b"] {
            label(wrong).unwrap_err();
        }
    }
}
