//! Certificates, users and passwords.

use std::{fs, os::unix::fs::PermissionsExt as _};

use netpath::{
    model::EtcdAccess,
    net::Netns,
    store::{EtcdStore, Store},
};
use netpath_tests::{etcd::Etcd, node::run_in};
use tokio::runtime::Runtime;

use super::alone;

const FILES: &str = "/mnt/pki";

fn file(name: &str) -> String {
    format!("{FILES}/{name}")
}

/// Makes new ones in place of those that are there.
const CERTIFICATES: &str = "set -e; mkdir -p /mnt/pki; cd /mnt/pki
    new() { openssl req -newkey rsa:2048 -nodes -keyout $1.key -out $1.csr -subj /CN=$1 2>/dev/null; }
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2 2>/dev/null
    printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' > extensions
    for who in server client; do new $who; openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
        -out $who.pem -days 2 -extfile extensions 2>/dev/null; done; chmod 600 *.key";
/// What a node has of them.
const COPIES: [&str; 3] = ["ca.pem", "client.pem", "client.key"];

fn password(text: &str) {
    fs::write(file("password"), text).unwrap();
    fs::set_permissions(file("password"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn copy(name: &str) {
    fs::copy(file(name), file(&format!("node-{name}"))).unwrap();
}

fn put(runtime: &Runtime, store: &EtcdStore, key: &str) -> Result<(), String> {
    runtime.block_on(store.put(key, b"value".to_vec())).map_err(|error| error.to_string())
}

/// An etcd that asks for certificates and knows a user, and how a node reaches it.
fn secured() -> (Etcd, EtcdAccess, Netns, Runtime) {
    let (netns, runtime) = alone();
    assert_eq!(run_in(&netns, "sh", &["-c", CERTIFICATES]), "");
    let pairs = |all: &[(&str, &str)]| -> Vec<String> {
        all.iter().flat_map(|(option, name)| [(*option).to_owned(), file(name)]).collect()
    };
    let mut server = pairs(&[
        ("--cert-file", "server.pem"),
        ("--key-file", "server.key"),
        ("--trusted-ca-file", "ca.pem"),
    ]);
    server.push("--client-cert-auth".to_owned());
    let client = pairs(&[("--cacert", "ca.pem"), ("--cert", "server.pem"), ("--key", "server.key")]);
    let etcd = Etcd::start_with(&netns, [127, 0, 0, 1].into(), "/mnt/etcd", Some((server, client)));
    password("hush-hush\n");
    COPIES.iter().for_each(|name| copy(name));
    for line in [
        "user add root:root-secret",
        "user grant-role root root",
        "user add node:hush-hush",
        "role add rw",
        "role grant-permission rw readwrite --prefix /netpath/",
        "user grant-role node rw",
        "auth enable",
    ] {
        let said = etcd.ctl(&line.split(' ').collect::<Vec<_>>());
        assert!(!said.contains("rror"), "{line}: {said}");
    }
    // etcd takes a certificate's name for a user's where there is one; these have none.
    let whole = EtcdAccess {
        ca: Some(file("node-ca.pem").into()),
        identity: Some((file("node-client.pem").into(), file("node-client.key").into())),
        user: Some(("node".into(), file("password").into())),
        ..etcd.access()
    };
    (etcd, whole, netns, runtime)
}

#[test]
fn etcd_is_reached_by_certificate_and_password() {
    let (_etcd, whole, _, runtime) = secured();
    let put = |access: &EtcdAccess, key: &str| {
        let store = EtcdStore::new(access).map_err(|error| error.to_string())?;
        put(&runtime, &store, key)
    };
    put(&whole, "/netpath/a").expect("let in");
    let refused = put(&whole, "/elsewhere").expect_err("not its own");
    assert!(refused.contains("permission denied"), "{refused}");
    fs::write(file("password"), "wrong-secret").unwrap();
    let refused = put(&whole, "/netpath/a").expect_err("wrong password");
    assert!(refused.contains("authentication failed") && !refused.contains("wrong-secret"), "{refused}");
    put(&EtcdAccess { identity: None, ..whole.clone() }, "/netpath/a").expect_err("no certificate");
    put(&EtcdAccess { user: None, ..whole.clone() }, "/netpath/a").expect_err("no user");
    let stranger = EtcdAccess { ca: Some(file("client.pem").into()), ..whole };
    put(&stranger, "/netpath/a").expect_err("etcd's certificate is of somebody unknown");
}

#[test]
fn etcd_certificates_and_passwords_change_under_a_store() {
    let (mut etcd, access, netns, runtime) = secured();
    let store = EtcdStore::new(&access).expect("store");
    let put = || put(&runtime, &store, "/netpath/a");
    put().expect("let in");
    for line in ["user delete node", "user add node:new-secret", "user grant-role node rw"] {
        let words: Vec<_> = line.split(' ').chain(["--user", "root:root-secret"]).collect();
        let said = etcd.ctl(&words);
        assert!(!said.contains("rror"), "{line}: {said}");
    }
    let refused = put().expect_err("the old password");
    assert!(refused.contains("authentication failed"), "{refused}");
    password("new-secret\n");
    put().expect("let in by the new password");

    etcd.kill_all();
    assert_eq!(run_in(&netns, "sh", &["-c", CERTIFICATES]), "");
    etcd.restart();
    let refused = put().expect_err("certificates of before");
    assert!(refused.contains("no endpoint does it"), "{refused}");
    fs::remove_file(file("node-client.pem")).unwrap();
    let refused = put().expect_err("a file is missing");
    assert!(refused.contains("reading /mnt/pki/node-client.pem for etcd: No such file"), "{refused}");
    COPIES.iter().for_each(|name| copy(name));
    put().expect("let in by the new certificates");
}
