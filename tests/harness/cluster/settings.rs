//! What nodes of a cluster are told to be.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{ClusterMember, DIR};

impl ClusterMember {
    /// Puts lines before its configuration, in place of those of before, and has the agent read it again, as an operator would.
    pub fn reconfigure(&self, lines: &str) {
        let path = format!("{DIR}/{}/agent.toml", self.name);
        let text = std::fs::read_to_string(&path).expect("configuration");
        let own = text.find("node = ").expect("its beginning");
        std::fs::write(&path, format!("{lines}\n{}", &text[own..])).expect("configuration");
        let agent = self.agent.as_ref().expect("an agent").id();
        kill(Pid::from_raw(agent.try_into().expect("process id")), Signal::SIGHUP).expect("the agent runs");
    }

    /// Writes something else into its configuration, for its next agent.
    pub fn replace(&self, old: &str, new: &str) {
        let path = format!("{DIR}/{}/agent.toml", self.name);
        let text = std::fs::read_to_string(&path).expect("configuration");
        assert!(text.contains(old), "{text}");
        std::fs::write(&path, text.replace(old, new)).expect("configuration");
    }
}
