//! What of a configuration can change while the agent runs.

use super::Config;

impl Config {
    /// The settings of `wanted` that a running agent with this configuration cannot take over, by their keys in the file;
    /// if empty, it can take over all of it.
    pub fn fixed_against(&self, wanted: &Self) -> Vec<&'static str> {
        let fixed = [
            ("node", self.node == wanted.node),
            ("uplinks", self.uplinks == wanted.uplinks),
            ("cluster", self.cluster == wanted.cluster),
            ("block", self.network.blocks == wanted.network.blocks),
            ("flows.capacity", self.flow_entries == wanted.flow_entries),
            ("datapath.attach", self.attach == wanted.attach),
            ("run_dir", self.paths.run_dir == wanted.paths.run_dir),
            ("state_dir", self.paths.state_dir == wanted.paths.state_dir),
            ("pin_dir", self.paths.pin_dir == wanted.paths.pin_dir),
            ("netns_dir", self.paths.netns_dir == wanted.paths.netns_dir),
        ];
        fixed.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
    }
}
