//! PUBLISHED: the ports of the node that lead to pods.

use std::{collections::BTreeMap, net::IpAddr};

use netpath_common::abi::{Addr, Published, PublishedKey};

use crate::model::{Family, Pod, Publication};

/// What PUBLISHED holds for pods: one entry a port and family, and for those on one address another that tells of them. They
/// lead to the pod's first interface. What several interfaces of one container publish leads to the one that was added first.
pub fn published<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeMap<PublishedKey, Published> {
    let mut entries = BTreeMap::new();
    let mut pods: Vec<&Pod> = pods.into_iter().collect();
    pods.sort_by_key(|pod| pod.id);
    for pod in pods {
        for &to in pod.interfaces.first().iter().flat_map(|interface| &interface.addresses) {
            add(&mut entries, pod, to);
        }
    }
    entries
}

/// Whether anything leads to a pod by one of its publications, in the table of all.
pub fn leads(table: &BTreeMap<PublishedKey, Published>, pod: &Pod, one: &Publication) -> bool {
    let alone = published([&Pod { publications: vec![one.clone()], ..pod.clone() }]);
    alone.iter().any(|(key, to)| to.pod == pod.id && table.get(key) == Some(to))
}

fn add(entries: &mut BTreeMap<PublishedKey, Published>, pod: &Pod, to: IpAddr) {
    for one in pod.publications.iter().filter(|one| one.has(Family::of(to))) {
        let (proto, to) = (one.protocol.number(), Addr::from(to));
        for (port, pod_port) in one.ports().zip(one.pod_port..=u16::MAX) {
            let anywhere = PublishedKey::anywhere(&to, port.to_be(), proto);
            let published = Published { addr: to, pod: pod.id, port: pod_port.to_be(), pad: 0 };
            match one.exact() {
                None => drop(entries.entry(anywhere).or_insert(published)),
                Some(address) => {
                    entries.entry(anywhere).or_default();
                    let on = PublishedKey::on(address.into(), port.to_be(), proto);
                    entries.entry(on).or_insert(published);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::tests::pod;

    fn table(publications: &[&str]) -> Vec<String> {
        let mut pod = pod();
        pod.interfaces[0].addresses.push("fd00:61::5".parse().unwrap());
        pod.publications = publications.iter().map(|text| text.parse().unwrap()).collect();
        let row = |(key, to): (PublishedKey, Published)| {
            let [port, pod_port] = [key.port, to.port].map(u16::from_be);
            let to =
                if to.pod == 0 { "elsewhere".to_owned() } else { format!("{} {pod_port}", to.addr.to_ip()) };
            format!("{} {port}/{} {to}", key.addr.to_ip(), key.proto)
        };
        let mut rows: Vec<_> = published([&pod]).into_iter().map(row).collect();
        rows.sort();
        rows
    }

    #[test]
    fn every_address_of_both_families() {
        assert_eq!(
            table(&["8080-8081:80-81/udp"]),
            [
                "0.0.0.0 8080/17 10.61.0.5 80",
                "0.0.0.0 8081/17 10.61.0.5 81",
                ":: 8080/17 fd00:61::5 80",
                ":: 8081/17 fd00:61::5 81",
            ]
        );
        assert_eq!(table(&["0.0.0.0:1:2"]), ["0.0.0.0 1/6 10.61.0.5 2"]);
        assert_eq!(table(&["65535:65535/sctp"]).len(), 2);
    }

    #[test]
    fn what_two_interfaces_publish_leads_to_the_one_added_first_of_each_family() {
        let interface = |id: u32, addresses: &[&str]| {
            let mut pod = Pod { id, publications: vec!["80:80".parse().unwrap()], ..pod() };
            pod.interfaces[0].addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
            pod
        };
        let (first, second) = (interface(3, &["10.61.0.5"]), interface(9, &["10.62.0.5", "fd00:62::5"]));
        let third = interface(11, &["10.63.0.5", "fd00:63::5"]);
        let table = published([&third, &second, &first]);
        let mut to: Vec<_> = table.values().map(|to| to.addr.to_ip().to_string()).collect();
        to.sort();
        assert_eq!(to, ["10.61.0.5", "fd00:62::5"]);
        let shown = [&first, &second, &third].map(|pod| leads(&table, pod, &pod.publications[0]));
        assert_eq!(shown, [true, true, false]);
        assert!(leads(&published([&third]), &third, &third.publications[0]), "when the others have gone");
    }

    #[test]
    fn one_address_is_told_of_by_another_entry() {
        assert_eq!(
            table(&["127.0.0.1:80:8080", "192.0.2.1:80:8081", "[::1]:80:8080"]),
            [
                "0.0.0.0 80/6 elsewhere",
                "127.0.0.1 80/6 10.61.0.5 8080",
                "192.0.2.1 80/6 10.61.0.5 8081",
                ":: 80/6 elsewhere",
                "::1 80/6 fd00:61::5 8080",
            ]
        );
    }
}
