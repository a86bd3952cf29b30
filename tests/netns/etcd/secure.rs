//! Certificates, users and passwords.

use std::{fs, os::unix::fs::PermissionsExt as _};

use netpath::{
    model::EtcdAccess,
    store::{EtcdStore, Store},
};
use netpath_tests::{etcd::Etcd, node::run_in};

use super::alone;

const FILES: &str = "/mnt/pki";

fn file(name: &str) -> String {
    format!("{FILES}/{name}")
}

#[test]
fn etcd_is_reached_by_certificate_and_password() {
    let (netns, runtime) = alone();
    fs::create_dir(FILES).unwrap();
    let script = "set -e; cd /mnt/pki
        new() { openssl req -newkey rsa:2048 -nodes -keyout $1.key -out $1.csr -subj /CN=$1 2>/dev/null; }
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2 2>/dev/null
        printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' > extensions
        for who in server client; do new $who; openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
            -out $who.pem -days 2 -extfile extensions 2>/dev/null; done; chmod 600 *.key";
    assert_eq!(run_in(&netns, "sh", &["-c", script]), "");
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
    fs::write(file("password"), "hush-hush\n").unwrap();
    fs::set_permissions(file("password"), fs::Permissions::from_mode(0o600)).unwrap();
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
        ca: Some(file("ca.pem").into()),
        identity: Some((file("client.pem").into(), file("client.key").into())),
        user: Some(("node".into(), file("password").into())),
        ..etcd.access()
    };
    let put = |access: &EtcdAccess, key: &str| {
        let store = EtcdStore::new(access).map_err(|error| error.to_string())?;
        runtime.block_on(store.put(key, b"value".to_vec())).map_err(|error| error.to_string())
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
