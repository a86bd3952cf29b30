//! A BIRD in a namespace: a node's, or a router's that is nobody of ours.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use netpath::net::Netns;
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    node::{run_in, unpacked},
    wait,
};

/// One that runs until it is dropped or killed.
pub struct Bird {
    netns: Netns,
    dir: PathBuf,
    config: PathBuf,
    process: Option<Child>,
}

impl Bird {
    /// Starts a node's with a configuration of its own, as docs/BGP.md has it: what netpath writes into the directory is included,
    /// if it is there already or not.
    pub fn start_including(netns: &Netns, dir: &str) -> Self {
        std::fs::create_dir_all(dir).expect("directory");
        let text =
            format!("router id 0.0.0.1;\nprotocol static {{ ipv4; }}\ninclude \"{dir}/netpath*.conf\";\n");
        let config = format!("{dir}/bird.conf");
        std::fs::write(&config, text).expect("configuration");
        Self::start(netns, dir, &config)
    }

    /// Starts it with a configuration that is there, or comes in a moment; its socket is `bird.ctl` in the directory.
    pub fn start(netns: &Netns, dir: &str, config: &str) -> Self {
        std::fs::create_dir_all(dir).expect("directory");
        let mut bird = Self { netns: netns.clone(), dir: dir.into(), config: config.into(), process: None };
        bird.run(&[]);
        bird
    }

    /// Starts it again, as one that has crashed: what others keep for it is taken up (RFC 4724).
    pub fn restart(&mut self) {
        self.run(&["-R"]);
    }

    fn run(&mut self, flags: &[&str]) {
        wait::until("BIRD's configuration is there", || self.config.exists());
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("bird.log"));
        let log = log.expect("log");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(unpacked("bird2", "bird")).arg("-f").args(flags);
        command.arg("-c").arg(&self.config).arg("-s").arg(self.dir.join("bird.ctl"));
        command.arg("-P").arg(self.dir.join("bird.pid"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        // From this thread: the parent-death signal comes when the thread ends.
        let own = Netns::current().expect("own namespace");
        setns(&self.netns, CloneFlags::CLONE_NEWNET).expect("namespace");
        let child = command.spawn();
        setns(&own, CloneFlags::CLONE_NEWNET).expect("own namespace");
        self.process = Some(child.expect("BIRD: is the package bird2 there?"));
        wait::until("BIRD answers", || self.ask(&["show", "status"]).contains("up and running"));
    }

    /// Asks it as its operator would.
    pub fn ask(&self, question: &[&str]) -> String {
        let (client, socket) = (unpacked("bird2", "birdc"), self.dir.join("bird.ctl"));
        let arguments = ["-s", &socket.display().to_string()];
        run_in(&self.netns, &client.display().to_string(), &[&arguments[..], question].concat())
    }

    /// Stops it where it is, or lets it go on: its socket takes connections, and nobody answers.
    pub fn halt(&self, halted: bool) {
        let id = self.process.as_ref().expect("it runs").id();
        let signal = if halted { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(id.cast_signed()), signal).expect("signal");
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("kill");
            process.wait().expect("wait");
        }
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        if std::thread::panicking() && self.process.is_some() {
            let config = std::fs::read_to_string(&self.config).unwrap_or_default();
            let log = std::fs::read_to_string(self.dir.join("bird.log")).unwrap_or_default();
            eprintln!("--- {}\n{config}\n{log}", self.config.display());
            eprintln!("{}\n{}", self.ask(&["show", "protocols"]), self.ask(&["show", "route", "all"]));
        }
        self.kill();
    }
}
