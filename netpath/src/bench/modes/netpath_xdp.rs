//! `netpath-xdp`: the same with pods in mode xdp, beside the others on one node.

use super::{
    Built,
    netpath::{Kind, build_kind},
};
use crate::bench::Site;

pub(super) fn build(site: &Site) -> Built<'_> {
    let made_of =
        "pods of the same netpath agent in mode xdp: XDP on their host ends, no checksum offload inside";
    build_kind(site, Kind { name: "netpath-xdp", made_of, pods: "xdp", prefix: "xdp-" })
}
