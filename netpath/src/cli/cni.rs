//! `netpath cni`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use super::{
    Global,
    failure::{Failed, Usage},
    output::{Format, print},
};
use crate::{
    agent::{Installed, remove_installed},
    config::{Instance, Paths},
};

/// The plugin's name, in engines' directories and in conflists.
const PLUGIN: &str = "netpath-cni";

/// netpath as the network of container engines.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the CNI plugin and a configuration for it where container engines look
    ///
    /// Writes DIR/netpath-cni and DIR/10-NAME.conflist, each as a whole or not at all; done again, it renews them, but not a
    /// configuration that somebody has changed.
    /// `netpath cni uninstall` removes both, and so does `netpath uninstall`. docs/CNI.md says what to tell each engine.
    #[command(after_help = "Examples:
  netpath cni install
  netpath cni install --cni-dir /usr/lib/cni             containerd of Debian looks there
  netpath cni install --name back --network back         a second network for engines: `podman run --network back`")]
    Install(InstallArgs),
    /// Remove what `netpath cni install` wrote; containers keep their network
    Uninstall,
}

/// `cni install`.
#[derive(Debug, clap::Args)]
pub struct InstallArgs {
    /// Directory of engines' plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_dir: PathBuf,
    /// Directory of engines' network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// What engines call the network
    #[arg(long, value_name = "NAME", default_value = "netpath", value_parser = name)]
    name: String,
    /// What netpath calls it
    #[arg(long, value_name = "NETWORK", default_value = "default")]
    network: String,
    /// Write the configuration anew also where somebody has changed it
    #[arg(long)]
    force: bool,
}

pub(super) fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    let paths = Paths::load(&global.instance).map_err(Usage::new)?;
    let told = match command {
        Command::Install(args) => install(global, args, &paths)?,
        Command::Uninstall => remove_installed(&paths)?,
    };
    let (verb, none) = match command {
        Command::Install(_) => ("wrote", ""),
        Command::Uninstall => ("removed", "nothing was installed\n"),
    };
    match global.output {
        Format::Table if told.is_empty() => print(none),
        Format::Table => {
            print(&told.iter().map(|file| format!("{verb} {}\n", file.display())).collect::<String>())
        }
        Format::Json => print(&format!("{}\n", json!({ "files": told }))),
    }
}

fn install(global: &Global, args: &InstallArgs, paths: &Paths) -> anyhow::Result<Vec<PathBuf>> {
    let own = env::current_exe().context("finding the netpath binary")?.with_file_name(PLUGIN);
    let program = fs::read(&own).map_err(|error| Failed {
        what: format!("reading the plugin {}", own.display()),
        reason: error.to_string(),
        hint: "it lies beside the netpath binary: install both",
    })?;
    let absolute =
        |dir: &Path| std::path::absolute(dir).with_context(|| format!("resolving {}", dir.display()));
    let plugin = absolute(&args.cni_dir)?.join(PLUGIN);
    let conflist = absolute(&args.conf_dir)?.join(format!("10-{}.conflist", args.name));
    check_ours(&conflist)?;
    let mut installed = Installed::load(paths)?;
    installed.write(paths, &plugin, &program, 0o755)?;
    // Last: an engine that finds it finds the plugin.
    if !installed.renew(paths, &conflist, &conflist_of(&global.instance, args, paths), args.force)? {
        eprintln!("{} stays as somebody has changed it; --force writes it anew", conflist.display());
        return Ok(vec![plugin]);
    }
    Ok(vec![plugin, conflist])
}

/// Somebody else's configuration stays.
fn check_ours(conflist: &Path) -> anyhow::Result<()> {
    match fs::read_to_string(conflist) {
        Ok(text) if !text.contains(PLUGIN) => Err(Failed {
            what: format!("writing {}", conflist.display()),
            reason: "a configuration of another plugin is there".to_owned(),
            hint: "give the network another name with --name, or remove that file",
        }
        .into()),
        // What cannot be read is told when it is written.
        _ => Ok(()),
    }
}

fn conflist_of(instance: &Instance, args: &InstallArgs, paths: &Paths) -> String {
    let mut plugin = json!({
        "type": PLUGIN,
        "network": args.network,
        "capabilities": {
            "ips": true, "mac": true, "aliases": true, "dns": true, "portMappings": true, "bandwidth": true,
        },
    });
    let usual = instance.paths();
    if *instance != Instance::default() {
        plugin["instance"] = instance.name().into();
    }
    if paths.socket() != usual.socket() {
        plugin["socket"] = json!(paths.socket());
    }
    if paths.spool() != usual.spool() {
        plugin["spool"] = json!(paths.spool());
    }
    // `cniVersion` is the newest that engines of Debian 12 know; later ones take the newest of `cniVersions`, and earlier ones
    // pass over it.
    let list = json!({
        "cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"], "name": args.name, "plugins": [plugin],
    });
    format!("{list:#}\n")
}

/// What engines take for a network's name.
fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err("a network's name is made of letters, digits, '_', '.' and '-', after a letter or digit".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflist_names_only_what_is_not_usual() {
        let args = InstallArgs {
            cni_dir: "/a".into(),
            conf_dir: "/b".into(),
            name: "n".into(),
            network: "back".into(),
            force: false,
        };
        let plugin = |instance: &str, state: Option<&str>| {
            let instance = Instance::new(instance).unwrap();
            let mut paths = instance.paths();
            if let Some(state) = state {
                paths.state_dir = state.into();
            }
            let text = conflist_of(&instance, &args, &paths);
            let list: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&list["name"], &list["cniVersion"]), (&"n".into(), &"1.0.0".into()));
            list["plugins"][0].clone()
        };
        let usual = plugin("default", None);
        assert_eq!((&usual["type"], &usual["network"]), (&PLUGIN.into(), &"back".into()));
        assert!(usual["capabilities"]["bandwidth"] == true && usual["instance"].is_null());
        assert!(usual["socket"].is_null() && usual["spool"].is_null());
        let two = plugin("two", Some("/elsewhere"));
        assert_eq!((&two["instance"], &two["spool"]), (&"two".into(), &"/elsewhere/cni-del".into()));
    }

    #[test]
    fn names_are_what_engines_take() {
        name("a-b_c.1").unwrap();
        for wrong in ["", "-a", "a/b", "ä"] {
            name(wrong).unwrap_err();
        }
    }
}
