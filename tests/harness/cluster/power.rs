//! Nodes that lose their power and get it back, or their cable.

use std::{fs, net::IpAddr, path::Path};

use netpath::net::Netns;

use super::{Cluster, ROUTERS, plug, router};
use crate::{node::run_in, wait};

/// A node on the link whose machine is off: of it there is its disk, and what others know.
pub struct Off {
    at: usize,
    name: String,
    addresses: [IpAddr; 2],
}

impl Cluster {
    /// Has the switch carry nothing from and to a node any more, which sees no difference at its link; or carry it again.
    pub fn part(&self, at: usize, parted: bool) {
        let port = format!("to-{}", self.nodes[at].name);
        match parted {
            true => assert_eq!(run_in(&self.switch.netns, "ip", &["link", "set", &port, "nomaster"]), ""),
            false => plug(&self.switch.netns, &port),
        }
    }

    /// The same for a node behind the router, which forwards nothing from and to it.
    pub fn part_far(&self, at: usize, parted: bool) {
        let nft = |words: &str| assert_eq!(run_in(&self.router.netns, "nft", &[words]), "", "{words}");
        if !parted {
            return nft("delete table inet parted");
        }
        nft("add table inet parted");
        nft("add chain inet parted forward { type filter hook forward priority 0; }");
        for way in ["iifname", "oifname"] {
            nft(&format!("add rule inet parted forward {way} to-{} drop", self.nodes[at].name));
        }
    }

    /// Has the routes to everywhere of a node on the link that go with the link, and its IPv6 address, again: who manages
    /// its network does so.
    pub fn configure_again(&self, at: usize) {
        let node = &self.nodes[at];
        let address = format!("{}/64", node.addresses[1]);
        node.run("ip", &["address", "replace", &address, "dev", "up0", "nodad"]);
        for text in ROUTERS {
            self.runtime.block_on(node.space.default_route(router(text))).expect("route");
        }
    }

    /// Cuts a node's power: its agent and its namespaces are gone at once, with all that the kernel held for them. Those of
    /// later nodes have a number less then.
    pub fn cut_power(&mut self, at: usize) -> Off {
        let mut node = self.nodes.remove(at);
        let pods = self.runtime.block_on(node.client.pods()).expect("pods");
        node.kill();
        let off = Off { at, name: node.name.clone(), addresses: node.addresses };
        drop(node);
        let own = format!("/run/netns/{}", off.name);
        for path in pods.iter().map(|pod| pod.netns.as_str()).chain([own.as_str()]) {
            Netns::delete(Path::new(path)).expect("namespace");
        }
        fs::remove_dir_all(format!("/run/netpath/{}", off.name)).expect("files");
        fs::remove_dir_all(format!("/sys/fs/bpf/netpath/{}", off.name)).expect("pins");
        let port = format!("to-{}", off.name);
        wait::until("its link is gone", || {
            run_in(&self.switch.netns, "ip", &["link", "show", &port]).contains("does not exist")
        });
        off
    }

    /// Boots it, with the disk it had: in its old place among the nodes.
    pub fn boot(&mut self, off: Off) {
        let space = self.near_space(&off.name, off.addresses);
        self.run_node(off.name, off.addresses, space);
        let node = self.nodes.pop().expect("just made");
        self.nodes.insert(off.at, node);
    }
}
