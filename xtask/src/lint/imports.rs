//! Who may import whom: the layers of DESIGN.md, "Imports".

use super::{
    paths::references,
    source::{Finding, Source},
};

/// A module and the modules it may name, besides itself. `api` stands for all of `api`, `api/types` for that file.
struct Layer {
    module: &'static str,
    may: &'static [&'static str],
}

const fn layer(module: &'static str, may: &'static [&'static str]) -> Layer {
    Layer { module, may }
}

/// A package: where its modules lie, the name of its library, and its layers.
struct Package {
    dir: &'static str,
    library: &'static str,
    layers: &'static [Layer],
}

const COMMON: &str = "netpath_common";

const PACKAGES: &[Package] = &[
    Package {
        dir: "netpath/src/",
        library: "netpath",
        layers: &[
            layer("model", &[]),
            layer("compile", &["model", COMMON]),
            layer("datapath", &[COMMON]),
            layer("net", &[]),
            layer("ipam", &["model"]),
            layer("store", &["model"]),
            layer("config", &["model", "datapath"]),
            layer(
                "agent",
                &["model", "compile", "datapath", "net", "ipam", "store", "config", "api", COMMON],
            ),
            layer("api", &["agent", "model", "store"]),
            layer("api/types", &[]),
            layer("api/client", &["api/types"]),
            layer("bench", &["lab", "net", "api/client", "api/types"]),
            layer("lab", &["model", "bench", "net", "api/client", "api/types"]),
            layer("doctor", &["model", "store", "config", "net", "datapath", "api/client", "api/types"]),
            layer("capture", &["api/client", "api/types", "net", "datapath", COMMON]),
            layer("cni", &["api/client", "api/types"]),
            layer("cnm", &["api/client", "api/types"]),
            layer("cli", &["agent", "api", "bench", "capture", "lab", "doctor", "config"]),
            layer("bin", &["cli", "cni"]),
        ],
    },
    Package {
        dir: "netpath-ebpf/src/",
        library: "",
        layers: &[
            layer("main", &["programs"]),
            layer("programs", &["stages", "packet", "bpf", "verdict", COMMON]),
            layer("stages", &["packet", "bpf", "verdict", COMMON]),
            layer("packet", &["bpf", "verdict", COMMON]),
            layer("bpf", &["packet", "verdict", COMMON]),
            layer("verdict", &["packet", "bpf", COMMON]),
        ],
    },
];

/// Modules whose files do not name each other: a program passes the results between its stages.
const STRANGERS: &[&str] = &["stages"];

/// Paths of one file that go up the layers.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let Some((package, file)) =
        PACKAGES.iter().find_map(|package| Some((package, source.path.strip_prefix(package.dir)?)))
    else {
        return Vec::new();
    };
    if file == "lib.rs" {
        return Vec::new(); // lists the modules
    }
    let here = module(file);
    let Some(layer) = find(package, &here) else {
        let message = format!("module `{}` has no row in xtask/src/lint/imports.rs", here[0]);
        return vec![Finding::new(&source.path, 1, message)];
    };
    let root = if here[0] == "main" { &[] } else { here.as_slice() };
    let references = references(&source.tokens, root, package.library, &[COMMON]);
    let wrong = references.iter().filter_map(|reference| {
        let message = problem(package, layer, &here, &reference.path)?;
        Some(Finding::new(&source.path, reference.line, message))
    });
    wrong.collect()
}

/// What is wrong with a path in a module, if anything is.
fn problem(package: &Package, layer: &Layer, here: &[String], path: &[String]) -> Option<String> {
    let first = path.first()?.as_str();
    let target = find(package, path).map_or(first, |layer| layer.module);
    if STRANGERS.contains(&first) && here[0] == first {
        let stranger = path.get(1).filter(|name| here.get(1).is_some_and(|own| own != *name))?;
        return Some(format!(
            "{first}::{} names {first}::{stranger}: {first} never call each other",
            here[1]
        ));
    }
    // A binary's own modules and a `pub(crate)` item at the root are nobody's layer.
    if target == first && first != COMMON && !package.layers.iter().any(|layer| layer.module == first) {
        return None;
    }
    let covers =
        |outer: &str| target == outer || target.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    if covers(layer.module) || layer.may.iter().any(|may| covers(may)) {
        return None;
    }
    let may = if layer.may.is_empty() { "nothing".to_owned() } else { layer.may.join(", ") };
    Some(format!("`{}` imports `{}`, but may import only: {may}", layer.module, path.join("::")))
}

/// The layer of a path: the longest that fits.
fn find<'a>(package: &'a Package, path: &[String]) -> Option<&'a Layer> {
    let two = path.get(..2).map(|path| path.join("/"));
    let of = |name: &str| package.layers.iter().find(|layer| layer.module == name);
    two.and_then(|two| of(&two)).or_else(|| of(path.first()?))
}

/// The module that a file is: `net/pod/side.rs` → `net::pod::side`, `net/mod.rs` → `net`.
fn module(file: &str) -> Vec<String> {
    let mut parts: Vec<_> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    parts.pop_if(|last| last == "mod");
    parts
}

#[cfg(test)]
mod tests {
    use super::{super::source::shown, *};

    fn found(path: &str, text: &str) -> Vec<String> {
        shown(check, path, text)
    }

    #[test]
    fn layers_of_the_agent() {
        assert!(found("netpath/src/agent/pods.rs", "use crate::{net::Link, datapath::Datapath};").is_empty());
        assert!(found("netpath/src/net/undo.rs", "use super::Link; use crate::net::error;").is_empty());
        assert_eq!(
            found("netpath/src/net/undo.rs", "\nuse crate::model::Pod;"),
            ["netpath/src/net/undo.rs:2: `net` imports `model::Pod`, but may import only: nothing"]
        );
        assert_eq!(
            found("netpath/src/datapath/mod.rs", "use netpath_common::abi; use crate::model;"),
            [
                "netpath/src/datapath/mod.rs:1: `datapath` imports `model`, but may import only: netpath_common"
            ]
        );
        assert_eq!(found("netpath/src/model/mod.rs", "use netpath_common::abi;").len(), 1);
        assert_eq!(found("netpath/src/lab/mod.rs", "fn f() { crate::cli::run() }").len(), 1);
        assert_eq!(found("netpath/src/new.rs", "").len(), 1);
    }

    #[test]
    fn the_api_has_two_sides() {
        assert!(found("netpath/src/api/client/stream.rs", "use crate::api::types::Pod;").is_empty());
        assert!(found("netpath/src/api/server.rs", "use crate::{agent::Agent, api::types::Pod};").is_empty());
        assert_eq!(found("netpath/src/api/types.rs", "use crate::agent::Agent;").len(), 1);
        assert_eq!(found("netpath/src/api/client.rs", "use super::server::X;").len(), 1);
        assert_eq!(found("netpath/src/lab/mod.rs", "use crate::api::server;").len(), 1);
    }

    #[test]
    fn binaries_see_only_the_command_line() {
        assert!(found("netpath/src/bin/netpath.rs", "fn main() { netpath::cli::main() }").is_empty());
        assert_eq!(found("netpath/src/bin/netpath.rs", "use netpath::agent;").len(), 1);
    }

    #[test]
    fn layers_of_the_programs() {
        assert!(
            found("netpath-ebpf/src/programs/from_pod.rs", "use crate::{stages::nat, bpf::map};").is_empty()
        );
        assert!(
            found("netpath-ebpf/src/main.rs", "mod stages; fn f() { programs::from_pod::run() }").is_empty()
        );
        assert_eq!(found("netpath-ebpf/src/main.rs", "use crate::stages::nat;").len(), 1);
        assert_eq!(found("netpath-ebpf/src/stages/nat.rs", "use crate::programs::from_pod;").len(), 1);
        assert_eq!(found("netpath-ebpf/src/packet/parse.rs", "use crate::stages::nat;").len(), 1);
        assert_eq!(
            found("netpath-ebpf/src/stages/nat.rs", "use super::flow::Found;"),
            [
                "netpath-ebpf/src/stages/nat.rs:1: stages::nat names stages::flow: stages never call each other"
            ]
        );
        assert!(found("netpath-ebpf/src/stages/nat.rs", "mod tests { use super::*; }").is_empty());
    }

    #[test]
    fn other_packages_have_no_layers() {
        assert!(found("tests/harness/lib.rs", "use crate::anything;").is_empty());
    }
}
