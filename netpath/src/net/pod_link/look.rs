//! Whether a pod's link is as described, without changing anything: what a pass asks of every pod.

use std::path::Path;

use super::{NetError, Netns, PodLink};
use crate::net::netlink::{Inside, LinkDetail, Rule, Survey};

impl PodLink {
    /// Whether the node's side is as [`ensure`](Self::ensure) makes it, by what the node's namespace told.
    pub fn is_right_outside(&self, ifindex: u32, node: &Survey) -> bool {
        let Some(end) = node.link(ifindex) else { return false };
        let link = &end.link;
        let routes = self.outer_routes(ifindex);
        self.is_host_end(end)
            && link.mtu == self.mtu
            && link.up
            && (self.to_pod.is_none() || link.is_shaped())
            && end.operational
            && self.has_outer_settings(end)
            && self
                .addresses
                .iter()
                .chain(&self.allowed)
                .all(|address| node.has_neighbour(ifindex, *address, self.pod_mac))
            && routes.iter().all(|route| node.has_route(route))
            && node.routes_by(ifindex).count() == routes.len()
    }

    /// Whether a link of the node has the name, kind and MAC of the host end.
    pub fn is_host_end(&self, end: &LinkDetail) -> bool {
        let link = &end.link;
        link.name == self.host_name && link.kind.as_deref() == Some("veth") && link.mac == self.host_mac
    }

    /// Whether the pod's side is as [`ensure`](Self::ensure) makes it; `outer` is the host end. Blocks for as long as
    /// opening the file does, and then for a dozen system calls.
    ///
    /// # Errors
    /// If the namespace cannot be looked at.
    pub fn is_right_inside(&self, outer: &LinkDetail, netns: &Path) -> Result<bool, NetError> {
        let find = |pod: &Survey| pod.links().find(|end| end.link.name == self.pod_name).cloned();
        let look = || {
            Survey::inside(|pod| {
                let table = self.sourced.as_ref().map(|sourced| sourced.table);
                find(pod).map(|end| Inside { ifindex: end.link.index, table })
            })
        };
        let pod = Netns::open_unchecked(netns)?.enter(look)??;
        Ok(find(&pod).is_some_and(|inner| {
            let pair = outer.peer == Some(inner.link.index) && inner.peer == Some(outer.link.index);
            pair && self.is_right_at(&inner, &pod)
        }))
    }

    fn is_right_at(&self, inner: &LinkDetail, pod: &Survey) -> bool {
        let (link, ifindex) = (&inner.link, inner.link.index);
        let sourced = self.sourced.iter().flat_map(|sourced| sourced.routes(ifindex));
        let rule = |table| move |from: &std::net::IpAddr| Rule { from: *from, table };
        link.mac == self.pod_mac
            && link.mtu == self.mtu
            && link.up
            && (self.from_pod.is_none() || link.queue.is_some())
            && pod.links().any(|end| end.link.name == "lo" && end.link.up)
            && inner.settings.v6.is_none_or(|v6| v6.disabled != self.uses_v6())
            && self.addresses.iter().all(|address| pod.has_address(ifindex, *address))
            && self
                .all_gateways()
                .into_iter()
                .all(|gateway| pod.has_neighbour(ifindex, gateway, self.host_mac))
            && self.inner_routes(ifindex).into_iter().chain(sourced).all(|route| pod.has_route(&route))
            && self
                .sourced
                .iter()
                .all(|sourced| self.addresses.iter().map(rule(sourced.table)).all(|rule| pod.has_rule(&rule)))
    }

    /// The sysctls of the host end that [`ensure`](Self::ensure) sets, as far as the kernel has them.
    fn has_outer_settings(&self, end: &LinkDetail) -> bool {
        let v6 = end.settings.v6.is_none_or(|v6| {
            v6.disabled != self.uses_v6()
                && (!self.uses_v6()
                    || (v6.accept_ra == 0
                        && v6.forwarding
                        && (v6.force_forwarding || !can_force_forwarding())))
        });
        end.settings.forwarding == Some(true) && v6
    }
}

/// Whether the kernel has `force_forwarding` (6.17).
fn can_force_forwarding() -> bool {
    static HAS: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| Path::new("/proc/sys/net/ipv6/conf/default/force_forwarding").exists());
    *HAS
}
