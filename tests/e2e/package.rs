//! The Debian package on a machine of its own: installed, upgraded, removed and purged by dpkg, run by systemd.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use netpath::net::Netns;
use netpath_tests::{
    machine::Machine,
    node::{Node, binary},
    sysctls, wait,
};

use crate::systemd::{CONFIGURATION, Ping};

/// Has the package built, around the binary under test: one for release takes minutes and is packed the same way.
fn build(revision: u32) -> PathBuf {
    let xtask = binary().with_file_name("xtask");
    let mut command = Command::new(&xtask);
    command.args(["package", "--output", "/mnt/packages", "--revision", &revision.to_string()]);
    let output = command.arg("--binary").arg(binary()).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}; cargo xtask builds it", xtask.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// What dpkg-deb says of a package.
fn dpkg_deb(arguments: &[&str], package: &Path) -> String {
    let output = Command::new("dpkg-deb").args(arguments).arg(package).output().expect("dpkg-deb");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn package_holds_what_an_operator_looks_for() {
    netpath_tests::namespace::isolate();
    let none = None::<&str>;
    nix::mount::mount(Some("test"), "/mnt", Some("tmpfs"), nix::mount::MsFlags::empty(), none)
        .expect("tmpfs");
    let package = build(1);
    let contents = dpkg_deb(&["--contents"], &package);
    for line in [
        "-rwxr-xr-x root/root ./usr/bin/netpath",
        "-rwxr-xr-x root/root ./usr/bin/netpath-cni",
        "-rw-r--r-- root/root ./lib/systemd/system/netpath.service",
        "-rw-r--r-- root/root ./etc/netpath/netpath.toml.example",
        "-rw-r--r-- root/root ./usr/share/man/man1/netpath-pod-add.1.gz",
        "-rw-r--r-- root/root ./usr/share/bash-completion/completions/netpath",
        "-rw-r--r-- root/root ./usr/share/zsh/vendor-completions/_netpath",
        "-rw-r--r-- root/root ./usr/share/fish/vendor_completions.d/netpath.fish",
        "-rw-r--r-- root/root ./usr/share/doc/netpath/copyright",
        "-rw-r--r-- root/root ./usr/share/doc/netpath/changelog.gz",
        "-rw-r--r-- root/root ./usr/share/doc/netpath/changelog.Debian.gz",
    ] {
        let words: Vec<_> = line.split(' ').collect();
        let found =
            contents.lines().any(|line| words.iter().all(|word| line.split(' ').any(|part| part == *word)));
        assert!(found, "{line} in\n{contents}");
    }
    let info = dpkg_deb(&["--info"], &package);
    for part in
        ["Package: netpath", "Depends: libc6 (>= ", "conffiles", "postinst", "prerm", "postrm", "md5sums"]
    {
        assert!(info.contains(part), "{part} in\n{info}");
    }
}

/// Files, interfaces, routes and sysctls of a machine that a package of this name could leave.
fn picture(machine: &Machine, node: &Netns) -> (String, sysctls::Values) {
    let line = "find /etc /lib/systemd /usr/bin /usr/share /var /run /sys/fs/bpf -name '*netpath*' ! -path '*/journal/*' | sort; \
        grep -l netpath /var/lib/dpkg/status || true; ls -d /run/netns || true; ls /sys/fs/bpf; \
        ip -o link; ip rule; ip route show table all; tc qdisc; systemctl list-unit-files 'netpath*' || true";
    (machine.run(line), sysctls::read(node))
}

#[test]
fn package_installs_upgrades_and_purges_under_systemd() {
    let (topology, _runtime) = Node::without_agent();
    let netns = &topology.node.netns;
    let root = Machine::files();
    // What keeps packages from starting services in container images.
    let _ = fs::remove_file(root.join("usr/sbin/policy-rc.d"));
    let packages = [1, 2].map(build).map(|package| {
        let name = package.file_name().expect("name").to_string_lossy().into_owned();
        fs::copy(&package, root.join("root").join(&name)).expect("package");
        format!("/root/{name}")
    });
    let machine = Machine::boot(netns);
    wait::until("the addresses are there", || !machine.run("ip -6 address").contains("tentative"));
    let before = picture(&machine, netns);

    machine.run(&format!("dpkg -i {}", packages[0]));
    let state = machine.run("systemctl is-enabled netpath; systemctl is-active netpath || true");
    assert_eq!(state, "enabled\ninactive", "it waits for somebody to write its configuration");
    assert_eq!(machine.unit("ConditionResult"), "no");
    fs::write(machine.path("/etc/netpath/netpath.toml"), CONFIGURATION).expect("configuration");
    machine.run("systemctl start netpath");
    machine.run("netpath pod add web");
    let pod = Netns::open(&machine.path("/run/netns/web")).expect("the pod's namespace");
    let ping = Ping::start(&pod);
    let first = machine.unit("MainPID");
    machine.run(&format!("dpkg -i {}", packages[1]));
    assert_eq!(machine.unit("ActiveState"), "active");
    assert_ne!(machine.unit("MainPID"), first, "the new agent runs");
    assert!(machine.run("netpath pod ls").contains("web"));

    // An instance that the package's unit knows nothing of.
    let two = "block = \"10.62.0.0/24\"\nuplinks = [\"up0\"]\n[flows]\ncapacity = 1024\n[snat]\nports = \"50000-50999\"\n";
    fs::write(machine.path("/etc/netpath/two.toml"), two).expect("configuration");
    machine.run("systemd-run --unit two netpath --instance two agent run");
    wait::until("the second agent", || machine.try_run("netpath --instance two status").status.success());
    machine.run("netpath --instance two pod add other");

    machine.run("dpkg -r netpath");
    assert_eq!(machine.unit("ActiveState"), "inactive");
    assert!(!machine.path("/usr/bin/netpath").exists());
    assert!(machine.path("/sys/fs/bpf/netpath/default").exists() && machine.path("/run/netns/web").exists());
    ping.lost_nothing();
    let ping = Ping::start(&pod);
    wait::until("a second agent that is not the package's runs on", || {
        machine.run("systemctl is-active two") == "active"
    });
    ping.lost_nothing();

    machine.run("dpkg -P netpath");
    machine.run("systemctl daemon-reload");
    let after = picture(&machine, netns);
    assert_eq!(before.0, after.0);
    assert_eq!(sysctls::differences(&before.1, &after.1), [""; 0]);
}
