//! Other builds of netpath, for the tests of upgrades: what a later version might be, made from a copy of this checkout by a
//! few edits. The product itself has no switch for it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    process::{cargo, run, say},
    workspace,
};

/// What of the checkout is copied.
const COPIED: [&str; 5] = ["Cargo.toml", "Cargo.lock", "netpath", "netpath-common", "netpath-ebpf"];

/// The builds: each is a binary beside `netpath`, and what is edited for it.
const BUILDS: [(&str, [&[Edit]; 3]); 2] = [
    ("netpath-changed", [&PROGRAM, &TABLES, &[(USED, ALL_FIELDS, "pod, reserved: [7; 2], ..Flow::EMPTY }")]]),
    ("netpath-grown", [&PROGRAM, &TABLES, &GROWN]),
];

/// File, what stands there, and what is to stand there; `#` is a number, and `#+4` the same plus four.
type Edit = (&'static str, &'static str, &'static str);

const FLOW: &str = "netpath-common/src/abi/flow.rs";
const ENDPOINT: &str = "netpath-common/src/abi/endpoint.rs";
const NODE: &str = "netpath-common/src/abi/node.rs";
const EVENT: &str = "netpath-common/src/abi/event.rs";
const DATAPATH: &str = "netpath/src/datapath/mod.rs";
const TOLD: &str = "netpath/src/agent/trace/tell.rs";
const LOAD: &str = "netpath/src/datapath/load.rs";

/// Where flows are made.
const USED: &str = "netpath-ebpf/src/stages/flow/mod.rs";
const ALL_FIELDS: &str = "pod, ..Flow::EMPTY }";

/// One program more, on uplinks. It does nothing.
const PROGRAM: [Edit; 7] = [
    (
        "netpath-ebpf/src/main.rs",
        "/// tc egress of an uplink",
        "#[classifier]\npub fn later(_: TcContext) -> i32 {\n    -1\n}\n\n/// tc egress of an uplink",
    ),
    (EVENT, "    ToUplink = 4,", "    ToUplink = 4,\n    /// Of a later build.\n    Later = 9,"),
    (EVENT, "Self::ToUplink => ", "Self::Later => \"later\",\n            Self::ToUplink => "),
    (LOAD, "[Program; #] = [", "[Program; #+1] = [Program::Later, "),
    (DATAPATH, "&[Program::ToUplink, ", "&[Program::Later, Program::ToUplink, "),
    (
        TOLD,
        "Program::ToUplink | Program::ToOverlay | Program::XdpUplink | Program::XdpPod => false",
        "_ => false",
    ),
    (TOLD, "(None, Program::ToUplink)", "(None, Program::Later | Program::ToUplink)"),
];

/// Larger configuration tables of every kind.
const TABLES: [Edit; 7] = [
    ("netpath-ebpf/src/stages/metric.rs", "PerCpu::new(4096)", "PerCpu::new(8192)"),
    (ENDPOINT, ": u16 = ", ": u32 = "),
    (ENDPOINT, "pub flags: u16", "pub flags: u32"),
    (ENDPOINT, "pub reserved: u16", "pub reserved: u32"),
    (ENDPOINT, "record!(Endpoint, #)", "record!(Endpoint, #+4)"),
    (NODE, "MAX_UPLINKS: usize = 8", "MAX_UPLINKS: usize = 16"),
    (NODE, "record!(Node, #)", "record!(Node, #+2240)"),
];

/// Flows whose records are longer.
const GROWN: [Edit; 4] = [
    (USED, ALL_FIELDS, "pod, reserved: [7; 6], ..Flow::EMPTY }"),
    (FLOW, "pub reserved: [u64; #]", "pub reserved: [u64; #+4]"),
    (FLOW, "reserved: [0; #]", "reserved: [0; #+4]"),
    (FLOW, "record!(Flow, #)", "record!(Flow, #+32)"),
];

/// Makes them, in the target directory.
///
/// # Errors
/// A file or a place in it is gone, or the build fails.
pub(crate) fn build() -> Result<()> {
    for (name, edits) in BUILDS {
        say(format!("building {name}, a later version for the tests of upgrades"));
        let copy = workspace::target().join("next").join(name);
        let edits = edits.concat();
        for entry in COPIED {
            copy_tree(&workspace::root().join(entry), &copy, entry, &edits, name)?;
        }
        run(cargo()
            .args(["build", "--package", "netpath", "--bin", name, "--manifest-path"])
            .arg(copy.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(workspace::target()))?;
    }
    Ok(())
}

/// Copies a file or directory; what has not changed keeps its time, so that cargo builds nothing again.
fn copy_tree(from: &Path, to: &Path, name: &str, edits: &[Edit], binary: &str) -> Result<()> {
    let doing = || format!("copying {}", from.display());
    if from.is_dir() {
        for entry in fs::read_dir(from).with_context(doing)? {
            let entry = entry.with_context(doing)?.file_name();
            let below = format!("{name}/{}", entry.to_string_lossy());
            copy_tree(&from.join(&entry), to, &below, edits, binary)?;
        }
        return Ok(());
    }
    let Ok(text) = fs::read_to_string(from) else { return Ok(()) };
    let text = match name {
        "Cargo.toml" => workspace_of(&text, binary)?,
        "Cargo.lock" if to.join(name).exists() => return Ok(()),
        "netpath/Cargo.toml" => format!(
            "{}\n[[bin]]\nname = \"{binary}\"\npath = \"src/bin/netpath.rs\"\n",
            text.replace("[package]\n", "[package]\nautobins = false\n")
        ),
        _ => edited(text, name, edits)?,
    };
    let to = to.join(name);
    if fs::read_to_string(&to).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let directory = to.parent().context("a directory")?;
    fs::create_dir_all(directory).with_context(doing)?;
    fs::write(&to, text).with_context(doing)
}

/// A workspace of what is copied only, and of another version: cargo tells packages by it, and would build the copy over the
/// checkout's own.
fn workspace_of(text: &str, binary: &str) -> Result<String> {
    let version = |suffix: &str| format!("version = \"{}{suffix}\"", env!("CARGO_PKG_VERSION"));
    let text = text.replace(", \"xtask\", \"tests\"", "");
    edit(&text, &version(""), &version(&format!("-{binary}"))).context("Cargo.toml tells no version")
}

fn edited(mut text: String, name: &str, edits: &[Edit]) -> Result<String> {
    for (_, there, wanted) in edits.iter().filter(|(file, ..)| *file == name) {
        text = edit(&text, there, wanted).with_context(|| format!("{name} has no '{there}' to edit"))?;
    }
    Ok(text)
}

/// Every place of a pattern replaced; `None` if there is none.
fn edit(text: &str, there: &str, wanted: &str) -> Option<String> {
    let Some((before, after)) = there.split_once('#') else {
        return text.contains(there).then(|| text.replace(there, wanted));
    };
    let mut places = text.split(before);
    let mut edited = places.next()?.to_owned();
    let mut found = false;
    for place in places {
        let digits = place.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(place.len());
        match place[..digits].parse::<u32>() {
            Ok(number) if place[digits..].starts_with(after) => {
                let (head, tail) = wanted.split_once("#+")?;
                let more = tail.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(tail.len());
                let sum = number + tail[..more].parse::<u32>().ok()?;
                edited += &format!("{head}{sum}{}{}", &tail[more..], &place[digits + after.len()..]);
                found = true;
            }
            _ => edited += &format!("{before}{place}"),
        }
    }
    found.then_some(edited)
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[test]
    fn edits_find_their_places_and_count() {
        assert_eq!(edit("a b a", "a", "c").as_deref(), Some("c b c"));
        assert_eq!(
            edit("x[u64; 3] [u64; n]", "[u64; #]", "[u64; #+4]").as_deref(),
            Some("x[u64; 7] [u64; n]")
        );
        assert_eq!(
            edit("record!(Flow, 96);", "record!(Flow, #)", "record!(Flow, #+32)").as_deref(),
            Some("record!(Flow, 128);")
        );
        assert_eq!(edit("nothing", "[u64; #]", "[u64; #+4]"), None);
    }

    #[test]
    fn every_edit_has_its_place() -> Result<()> {
        for (_, edits) in BUILDS {
            let edits = edits.concat();
            for (file, ..) in &edits {
                let text = fs::read_to_string(workspace::root().join(file))?;
                ensure!(edited(text.clone(), file, &edits)? != text, "{file} stays as it is");
            }
        }
        Ok(())
    }
}
