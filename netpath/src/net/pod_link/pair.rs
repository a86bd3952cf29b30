//! The two ends of a pod's link: found, put right or made.

use super::{Link, NetError, Netlink, Netns, PodLink, Undo, VethEnd, existing, mac_text};
use crate::net::netlink::LinkDetail;

impl PodLink {
    /// Finds the pair, or makes it; both ends.
    pub(super) async fn veth(
        &self,
        host: &Netlink,
        pod: &Netlink,
        pod_ns: &Netns,
        undo: &mut Undo,
    ) -> Result<(Link, Link), NetError> {
        let found = host.link_detail(&self.host_name).await?;
        let inner = pod.link_detail(&self.pod_name).await?;
        let number = host.netns_number(pod_ns).await?;
        if let Some(pair) = self.known_pair(host, pod, number, (&found, &inner)).await? {
            return Ok(pair);
        }
        if let Some(found) = &found {
            self.check_ours(&found.link)?;
        }
        match (found, inner) {
            (_, Some(_)) => {
                let reason = "the pod has another interface of this name; choose another, or remove it there";
                return Err(NetError::new(format!("make {} in the pod", self.pod_name), reason));
            }
            // Its other end is in another namespace: it is of no use to this pod.
            (Some(outer), None) => host.delete_link(outer.link.index).await?,
            (None, None) => {}
        }
        // Before the pair is there, so that being cancelled while the kernel makes it leaves nothing either.
        let (link, netlink) = (self.clone(), host.clone());
        undo.push(
            format!("remove link {}", self.host_name),
            || async move { link.remove_ours(&netlink).await },
        );
        let outer = VethEnd { name: &self.host_name, mac: Some(self.host_mac), netns: None };
        let inner = VethEnd { name: &self.pod_name, mac: Some(self.pod_mac), netns: Some(pod_ns) };
        host.add_veth(&outer, &inner, Some(self.mtu)).await?;
        Ok((existing(host, &self.host_name).await?, existing(pod, &self.pod_name).await?))
    }

    /// The pair if one of its ends is there under its name, with the other end's name put right. Live flows do not mind
    /// a new name, where a new pair would cost them their routes for a moment.
    async fn known_pair(
        &self,
        host: &Netlink,
        pod: &Netlink,
        number: Option<i32>,
        (found, inner): (&Option<LinkDetail>, &Option<LinkDetail>),
    ) -> Result<Option<(Link, Link)>, NetError> {
        let at = |end: &Option<LinkDetail>| end.as_ref().and_then(|end| end.peer);
        let (outer, inner) = match (found, inner) {
            (Some(outer), Some(inner)) => (outer.clone(), inner.clone()),
            (Some(outer), None) => match at(found) {
                Some(index) => match pod.link_at(index).await? {
                    Some(inner) => (outer.clone(), inner),
                    None => return Ok(None),
                },
                None => return Ok(None),
            },
            (None, Some(inner)) => match at(&Some(inner.clone())) {
                Some(index) => match host.link_at(index).await? {
                    Some(outer) => (outer, inner.clone()),
                    None => return Ok(None),
                },
                None => return Ok(None),
            },
            (None, None) => return Ok(None),
        };
        if !is_pair(&outer, &inner, number) || !self.is_ours(&outer.link, &inner.link) {
            return Ok(None);
        }
        if outer.link.name != self.host_name {
            host.rename(outer.link.index, &self.host_name).await?;
        }
        if inner.link.name != self.pod_name {
            pod.rename(inner.link.index, &self.pod_name).await?;
        }
        Ok(Some((existing(host, &self.host_name).await?, existing(pod, &self.pod_name).await?)))
    }

    /// Whether a pair is ours, whoever made it: by the host end's MAC, or by the pod's.
    fn is_ours(&self, outer: &Link, inner: &Link) -> bool {
        let veth = outer.kind.as_deref() == Some("veth");
        let named = outer.name == self.host_name && outer.mac == self.host_mac;
        veth && (named || inner.mac == self.pod_mac)
    }

    /// A veth with our host MAC is ours, whoever made it; anything else never.
    pub(super) fn check_ours(&self, link: &Link) -> Result<(), NetError> {
        let kind = link.kind.as_deref();
        if kind == Some("veth") && link.mac == self.host_mac {
            return Ok(());
        }
        let reason = format!(
            "a link of this name is there that netpath did not make (kind {}, address {}; ours is a veth with {}); \
             rename or remove it",
            kind.unwrap_or("none"),
            mac_text(link.mac),
            mac_text(self.host_mac)
        );
        Err(NetError::new(format!("check link {}", self.host_name), reason))
    }
}

/// Whether these are the two ends of one pair; `number` is how the outer end's namespace knows the inner one's. The
/// indexes alone would not do: each namespace counts for itself.
fn is_pair(outer: &LinkDetail, inner: &LinkDetail, number: Option<i32>) -> bool {
    number.is_some() && outer.peer_netns == number && outer.peer == Some(inner.link.index)
}
