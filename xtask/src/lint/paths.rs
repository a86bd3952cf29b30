//! Which modules a file names: every path that starts at a crate, with `use` trees unfolded, macros included.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A path of a file, made absolute: `["net", "PodLink"]` in the same crate, `["netpath_common", …]` in another.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) line: usize,
    pub(crate) path: Vec<String>,
}

/// All references of a file that is the module `here`. Paths into `crates` count beside those of its own crate; into
/// the crate named `own` (a binary's library) they count as its own.
pub(crate) fn references(
    tokens: &TokenStream,
    here: &[String],
    own: &str,
    crates: &[&str],
) -> Vec<Reference> {
    let mut reader = Reader { own, crates, found: Vec::new() };
    reader.module(tokens, here);
    reader.found
}

struct Reader<'a> {
    own: &'a str,
    crates: &'a [&'a str],
    found: Vec<Reference>,
}

impl Reader<'_> {
    fn module(&mut self, tokens: &TokenStream, here: &[String]) {
        let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Ident(word) if word == "mod" => {
                    if let (Some(name), Some(body)) = (ident(&tokens, at), braces(&tokens, at + 1)) {
                        let inner: Vec<_> = here.iter().cloned().chain([name]).collect();
                        self.module(&body.stream(), &inner);
                        at += 2;
                    }
                }
                TokenTree::Ident(word) if separator(&tokens, at) => {
                    if let Some(start) = self.start(&word.to_string(), here) {
                        at = self.tree(&tokens, at + 2, start, word.span().start().line);
                    }
                }
                TokenTree::Group(group) => self.module(&group.stream(), here),
                _ => {}
            }
        }
    }

    /// What the first word of a path stands for; `None` if it is a local name.
    fn start(&self, word: &str, here: &[String]) -> Option<Vec<String>> {
        match word {
            "crate" => Some(Vec::new()),
            "self" => Some(here.to_vec()),
            "super" => Some(here[..here.len().saturating_sub(1)].to_vec()),
            _ if word == self.own => Some(Vec::new()),
            _ => self.crates.contains(&word).then(|| vec![word.to_owned()]),
        }
    }

    /// Reads on after a `::`, and returns where the path ends.
    fn tree(&mut self, tokens: &[TokenTree], mut at: usize, mut path: Vec<String>, line: usize) -> usize {
        loop {
            if let Some(group) = braces(tokens, at) {
                self.branches(group, &path);
                return at + 1;
            }
            let Some(name) = ident(tokens, at) else { break };
            match name.as_str() {
                "super" => drop(path.pop()),
                "self" => {}
                _ => path.push(name),
            }
            at += 1;
            if !separator(tokens, at) {
                break;
            }
            at += 2;
        }
        self.found.push(Reference { line, path });
        at
    }

    /// The parts of `{a, b::c}`.
    fn branches(&mut self, group: &Group, prefix: &[String]) {
        let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
        let comma = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
        for branch in tokens.split(comma).filter(|branch| !branch.is_empty()) {
            self.tree(branch, 0, prefix.to_vec(), branch[0].span().start().line);
        }
    }
}

fn ident(tokens: &[TokenTree], at: usize) -> Option<String> {
    match tokens.get(at)? {
        TokenTree::Ident(ident) => Some(ident.to_string()),
        _ => None,
    }
}

fn braces(tokens: &[TokenTree], at: usize) -> Option<&Group> {
    match tokens.get(at)? {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group),
        _ => None,
    }
}

/// Whether `::` follows.
fn separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(at) && colon(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(here: &[&str], text: &str) -> Vec<String> {
        let here: Vec<_> = here.iter().map(ToString::to_string).collect();
        let references = references(&text.parse().unwrap(), &here, "netpath", &["netpath_common"]);
        references
            .iter()
            .map(|reference| format!("{} {}", reference.line, reference.path.join("::")))
            .collect()
    }

    #[test]
    fn unfolds_use_trees() {
        let text = "use crate::{\n    net::{Link, undo},\n    model,\n};\nuse netpath_common::abi::*;\nuse std::fmt;\n";
        assert_eq!(found(&["cli"], text), ["2 net::Link", "2 net::undo", "3 model", "5 netpath_common::abi"]);
    }

    #[test]
    fn resolves_super_and_inline_modules() {
        assert_eq!(found(&["net", "pod"], "use super::super::agent::Agent;"), ["1 agent::Agent"]);
        assert_eq!(found(&["net"], "mod tests { use super::super::cli; use super::*; }"), ["1 cli", "1 net"]);
        assert_eq!(found(&["net", "pod"], "use self::a::B;"), ["1 net::pod::a::B"]);
    }

    #[test]
    fn finds_paths_in_code_and_macros() {
        assert_eq!(found(&["net"], "fn f() { println!(\"{}\", crate::cli::run()); }"), ["1 cli::run"]);
        assert_eq!(
            found(&["bin"], "fn main() { netpath::agent::run::<crate::X>() }"),
            ["1 agent::run", "1 X"]
        );
        assert_eq!(found(&["net"], "// crate::cli\nconst A: &str = \"crate::cli\";"), [""; 0]);
    }
}
