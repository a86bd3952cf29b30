//! A machine with systemd: its own files (an overlay over those of this one), processes and services, and a node's network.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use netpath::net::Netns;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
};

use crate::{cgroup::Cgroup, wait};

/// On the tmpfs that a test with a topology has.
const DIR: &str = "/mnt/machine";
/// What becomes systemd. `/proc/sys` beside the network's is the real machine's. systemd mounts bpffs itself, but for what
/// it takes for a container.
const BOOT: &str = r#"
set -eu
echo $$ > "$1"/cgroup.procs
exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child bash -euc '
  cd /mnt/machine/root
  mount -t proc proc proc
  mount --bind proc/sys proc/sys
  mount -o remount,bind,ro proc/sys
  mount --bind proc/sys/net proc/sys/net
  mount -o remount,bind,rw proc/sys/net
  mount -t sysfs sysfs sys
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  mount -t bpf -o mode=0700,nosuid,nodev,noexec bpf sys/fs/bpf
  mount -t tmpfs dev dev
  for node in null zero full random urandom tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
  mkdir dev/shm dev/pts
  mount -t tmpfs run run
  mount -t tmpfs tmp tmp
  mkdir -p mnt/old
  pivot_root . mnt/old
  umount -l mnt/old
  exec env -i container=netpath-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=test.target --log-target=journal --show-status=no'
"#;

/// A running machine; gone with this value.
pub struct Machine {
    /// unshare(1), whose child is systemd.
    child: Child,
    /// Goes after the processes that are in it.
    _cgroup: Cgroup,
}

impl Machine {
    /// Makes the files of a machine without services. Returns where they are; put there what it needs before [`boot`](Self::boot).
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn files() -> PathBuf {
        let dir = Path::new(DIR);
        for name in ["upper", "work", "root"] {
            fs::create_dir_all(dir.join(name)).expect(DIR);
        }
        let root = dir.join("root");
        let options = format!("lowerdir=/,upperdir={DIR}/upper,workdir={DIR}/work");
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .expect("an overlay over /");
        let units = root.join("etc/systemd/system");
        fs::remove_dir_all(&units).expect("this machine's services");
        fs::create_dir(&units).expect("units");
        fs::write(units.join("test.target"), "[Unit]\nDescription=Test\n").expect("unit");
        let _ = fs::remove_dir_all(root.join("var/lib/netpath"));
        root
    }

    /// Starts systemd on the files, in a node's network, and waits until it is up.
    ///
    /// # Panics
    /// If it does not come up. Needs Debian's systemd, and cgroup2.
    pub fn boot(node: &Netns) -> Self {
        let cgroup = Cgroup::make();
        let own = Netns::current().expect("own namespace");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "bash", "-c", BOOT, "boot"]).arg(&cgroup.path);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        setns(node, CloneFlags::CLONE_NEWNET).expect("node's namespace");
        let child = command.spawn();
        setns(&own, CloneFlags::CLONE_NEWNET).expect("own namespace");
        let machine = Self { child: child.expect("setpriv"), _cgroup: cgroup };
        wait::until("systemd is up", || {
            machine.init().is_some() && machine.try_run("systemctl is-active test.target").status.success()
        });
        machine
    }

    /// Process id of systemd as seen from here.
    fn init(&self) -> Option<String> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    }

    /// A path of the running machine as seen from here.
    ///
    /// # Panics
    /// If the machine has ended.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init().expect("systemd runs")))
    }

    /// What a shell there says.
    ///
    /// # Panics
    /// If there is no shell.
    pub fn try_run(&self, line: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init().expect("systemd runs"), "-m", "-n", "-p", "-u", "-i", "-C"]);
        command.args(["--", "sh", "-c", line]).env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null()).output().expect("nsenter")
    }

    /// What a shell there prints.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, line: &str) -> String {
        let output = self.try_run(line);
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {}\n{said}\n{errors}\n{}", output.status, self.log());
        said
    }

    /// One property of the agent's unit.
    pub fn unit(&self, property: &str) -> String {
        self.run(&format!("systemctl show netpath.service --value --property {property}"))
    }

    /// The agent's log.
    fn log(&self) -> String {
        let output = self.try_run("journalctl --no-pager --output cat --unit netpath.service");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init().is_some() {
            eprintln!("--- the agent's log\n{}", self.log());
        }
        let _ = self.child.kill();
        // systemd dies by the parent's death, and everything with it.
        let _ = self.child.wait();
    }
}
