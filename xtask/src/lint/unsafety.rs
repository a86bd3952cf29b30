//! Where `unsafe` may stand, and that it says why it is sound.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::source::{Finding, Source};

/// The only places: raw packet pointers, map and helper calls, views of the records as bytes, and bpf(2).
const PLACES: &[&str] = &[
    "netpath-ebpf/src/packet/tc.rs",
    "netpath-ebpf/src/packet/xdp.rs",
    "netpath-ebpf/src/bpf/",
    "netpath-common/src/abi/",
    "netpath/src/datapath/bpf/",
];

/// `unsafe` in the wrong place, and blocks without a SAFETY comment.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    visit(&source.tokens, &mut found);
    let allowed = PLACES.iter().any(|place| source.path.starts_with(place));
    let lines: Vec<_> = source.text.lines().collect();
    let problem = |(line, explained): (usize, bool)| {
        if !allowed {
            let message = format!("unsafe belongs only in {}", PLACES.join(", "));
            return Some(Finding::new(&source.path, line, message));
        }
        let message = "unsafe without a `SAFETY:` comment above it";
        (explained && !has_safety_comment(&lines, line)).then(|| Finding::new(&source.path, line, message))
    };
    found.into_iter().filter_map(problem).collect()
}

/// Every `unsafe`: its line, and whether it is a block or an impl, which has to be explained.
fn visit(tokens: &TokenStream, found: &mut Vec<(usize, bool)>) {
    let mut tokens = tokens.clone().into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(word) if word == "unsafe" => {
                let explained = match tokens.peek() {
                    Some(TokenTree::Group(group)) => group.delimiter() == Delimiter::Brace,
                    Some(TokenTree::Ident(next)) => next == "impl",
                    _ => false,
                };
                found.push((word.span().start().line, explained));
            }
            TokenTree::Group(group) => visit(&group.stream(), found),
            _ => {}
        }
    }
}

/// Looks on the line itself, then past the rest of its statement, in the comment above. Lines count from 1.
fn has_safety_comment(lines: &[&str], line: usize) -> bool {
    let above = lines[..line - 1].iter().rev().map(|text| text.trim());
    let same_statement =
        |text: &str| !text.is_empty() && !text.starts_with("//") && !text.ends_with([';', '{', '}', ',']);
    let mut comment = above.skip_while(|text| same_statement(text)).take_while(|text| text.starts_with("//"));
    lines[line - 1].contains("SAFETY:") || comment.any(|text| text.contains("SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::{super::source::shown, *};

    const BPF: &str = "netpath-ebpf/src/bpf/map.rs";

    #[test]
    fn only_in_its_places() {
        assert_eq!(shown(check, "netpath/src/net/mod.rs", "\nunsafe fn f() {}").len(), 1);
        assert_eq!(
            shown(check, "netpath-ebpf/src/packet/parse.rs", "// SAFETY: x\nunsafe impl A for B {}").len(),
            1
        );
        assert!(shown(check, "netpath/src/net/mod.rs", "// unsafe\nconst A: &str = \"unsafe\";").is_empty());
    }

    #[test]
    fn a_block_is_explained() {
        for good in [
            "fn f() {\n    // SAFETY: checked above,\n    // twice.\n    unsafe { g() }\n}",
            "fn f() {\n    // SAFETY: checked.\n    let a =\n        unsafe { g() };\n}",
            "// SAFETY: plain data.\n#[cfg(a)]\nunsafe impl A for B {}",
            "/// # Safety\n/// Mind.\nunsafe fn f() {}",
        ] {
            assert_eq!(shown(check, BPF, good), [""; 0], "{good}");
        }
        for bad in [
            "fn f() {\n    unsafe { g() }\n}",
            "fn f() {\n    // SAFETY: first.\n    unsafe { g() };\n    unsafe { h() }\n}",
            "// SAFETY: of something else.\nfn f() {\n    // Why.\n    unsafe { g() }\n}",
        ] {
            assert_eq!(shown(check, BPF, bad).len(), 1, "{bad}");
        }
    }
}
