//! What an interface leaves to its device, set as an operator does and read back.

use std::process::Command;

use netpath::net::Netns;

/// What `ethtool -K` calls a feature, and what `ethtool -k` does.
const NAMES: [(&str, &str); 4] = [
    ("tx", "tx-checksumming"),
    ("gso", "generic-segmentation-offload"),
    ("tso", "tcp-segmentation-offload"),
    ("gro", "generic-receive-offload"),
];

/// Switches features of an interface, by the names of `ethtool -K`.
///
/// # Panics
/// If there is no ethtool, or the interface is not as it was told to be.
pub fn switch(netns: &Netns, link: &str, features: &[&str], on: bool) {
    let wanted = if on { "on" } else { "off" };
    let set = features.iter().flat_map(|feature| [*feature, wanted]);
    ethtool(netns, &["-K", link].into_iter().chain(set).collect::<Vec<_>>());
    let shown = ethtool(netns, &["-k", link]);
    for (feature, name) in NAMES.iter().filter(|(feature, _)| features.contains(feature)) {
        let line = shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        // Behind it may stand who has wished for what.
        let is = line.and_then(|line| line.split(' ').next());
        assert_eq!(is, Some(wanted), "{feature} of {link} in {netns}:\n{shown}");
    }
    let unknown = |feature: &&&str| !NAMES.iter().any(|(name, _)| *name == **feature);
    assert_eq!(features.iter().find(unknown), None, "a feature that is looked for by another name");
}

fn ethtool(netns: &Netns, arguments: &[&str]) -> String {
    let run = || Command::new("ethtool").args(arguments).output();
    let output = netns.enter(run).expect("namespace").expect("ethtool: is the package there?");
    assert!(output.status.success(), "ethtool {arguments:?} in {netns}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
