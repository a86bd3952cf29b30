//! Whatever netpath may write for BIRD, BIRD reads.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Command, Output},
};

use ipnet::IpNet;
use netpath::{
    compile::{bird, bird_without},
    model::{Accepted, Bgp, BgpSession},
};
use netpath_tests::node::unpacked;

const AS: u32 = 64512;

/// Has BIRD read a configuration, and do nothing.
fn read(dir: &Path, text: &str) -> Output {
    let path = dir.join("bird.conf");
    std::fs::write(&path, text).expect("configuration");
    let mut command = Command::new(unpacked("bird2", "bird"));
    command.arg("-p").arg("-c").arg(&path).output().expect("BIRD: is the package bird2 there?")
}

fn prefixes(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("prefix")).collect()
}

/// Sessions of every kind that there may be, each with an address of its own.
fn sessions() -> Vec<BgpSession> {
    let accepted = |text: &str, longer| Accepted { prefix: text.parse().expect("prefix"), longer };
    let accepts = [
        vec![],
        vec![accepted("0.0.0.0/0", false), accepted("::/0", false)],
        vec![accepted("192.0.2.0/24", true), accepted("2001:db8::/32", true), accepted("0.0.0.0/0", true)],
    ];
    let passwords = [None, Some("hush hush"), Some("it's; { # \\ }")];
    let mut all = Vec::new();
    for kind in 0..1 << 6 {
        let [v6, near, ipv4, inside, rr_client, mesh] = [0, 1, 2, 3, 4, 5].map(|bit| kind >> bit & 1 == 1);
        // The configuration has no reflection to another system, and no other kind of nodes.
        if !inside && (rr_client || mesh) || ipv4 && !v6 {
            continue;
        }
        for (accept, password) in accepts.iter().flat_map(|one| passwords.map(|other| (one, other))) {
            let number = all.len() as u32;
            let address: IpAddr = match v6 {
                false => Ipv4Addr::from_bits(0xc612_0100 + number).into(),
                true => Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + u128::from(number) + 1).into(),
            };
            let source: IpAddr =
                if v6 { "2001:db8::fff".parse().unwrap() } else { "198.18.0.2".parse().unwrap() };
            all.push(BgpSession {
                address,
                source: mesh.then_some(source),
                remote_as: if inside { AS } else { 4_200_000_000 },
                node: mesh.then(|| "two".to_owned()),
                near,
                ipv4,
                rr_client,
                password: password.map(str::to_owned),
                accept: accept.clone(),
            });
        }
    }
    all
}

#[test]
fn bird_reads_all_that_is_rendered_ipv4_and_ipv6() {
    let dir = tempfile::tempdir().expect("directory");
    let own = prefixes(&["10.64.3.64/26", "fd00:64::40/122"]);
    let pools = prefixes(&["10.64.0.0/16", "10.70.0.0/16", "fd00:64::/48"]);
    let direct = prefixes(&["10.64.17.0/26", "10.64.18.0/26", "fd00:64::8c0/122"]);
    let full = Bgp {
        local_as: AS,
        router_id: Ipv4Addr::new(198, 18, 0, 2),
        blocks: own.clone(),
        own,
        pools,
        direct,
        sessions: sessions(),
    };
    let mut texts = vec![bird_without(), bird(&full, true)];
    // All that may be missing, of one family or both.
    let families: [fn(&IpNet) -> bool; 4] =
        [|_| true, |one| one.addr().is_ipv4(), |one| one.addr().is_ipv6(), |_| false];
    for kept in families {
        let drop_from = |drop: fn(&mut Bgp) -> &mut Vec<IpNet>| {
            let mut bgp = full.clone();
            drop(&mut bgp).retain(kept);
            bgp
        };
        let lists: [fn(&mut Bgp) -> &mut Vec<IpNet>; 4] =
            [|bgp| &mut bgp.blocks, |bgp| &mut bgp.own, |bgp| &mut bgp.pools, |bgp| &mut bgp.direct];
        texts.extend(lists.map(|list| bird(&drop_from(list), false)));
        let mut least = full.clone();
        lists.iter().for_each(|list| list(&mut least).retain(kept));
        texts.push(bird(&least, false));
        texts.push(bird(&Bgp { sessions: Vec::new(), ..least }, false));
    }
    for text in &texts {
        let output = read(dir.path(), text);
        assert!(output.status.success(), "{output:?}\n{text}");
    }
    assert_eq!(texts[1].matches("protocol bgp").count(), full.sessions.len());
    assert!(full.sessions.len() > 200, "{}", full.sessions.len());
    // And it does look.
    for (right, wrong) in
        [("next hop self", "next hop elf"), ("rr client;\n", "rr clients;\n"), ("[ 10.64", "[ 10,64")]
    {
        let text = texts[1].replace(right, wrong);
        assert_ne!(text, texts[1]);
        assert!(!read(dir.path(), &text).status.success(), "{wrong}");
    }
}
