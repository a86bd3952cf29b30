//! No unfinished work: it belongs in an issue, where it is seen.

use super::source::Finding;

/// Spelt in two parts, or this file would find itself.
const WORDS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("unimpl", "emented!"),
    concat!("#[ign", "ore"),
];

/// What git leaves at the start of a line.
const CONFLICT: &[&str] = &["<<<<<<< ", ">>>>>>> "];

/// Marks of unfinished work in a file of any kind.
pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    let lines = text.lines().enumerate();
    let found = lines.filter_map(|(index, line)| {
        if CONFLICT.iter().any(|mark| line.starts_with(mark)) {
            return Some(Finding::new(path, index + 1, "a merge conflict was committed"));
        }
        let word = WORDS.iter().find(|word| stands_alone(line, word))?;
        Some(Finding::new(path, index + 1, format!("`{word}`: finish it, or open an issue")))
    });
    found.collect()
}

/// Whether a word occurs in a line, and not as a part of a longer one.
fn stands_alone(line: &str, word: &str) -> bool {
    let part = |char: Option<char>| char.is_some_and(|char| char.is_alphanumeric() || char == '_');
    line.match_indices(word).any(|(at, _)| {
        let after = line[at + word.len()..].chars().next();
        !part(line[..at].chars().next_back()) && (!word.ends_with(char::is_alphanumeric) || !part(after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_word_where_it_stands_alone() {
        for word in WORDS {
            assert_eq!(check("a.rs", &format!("fn f() {{}}\n    {word}(\"x\")")).len(), 1, "{word}");
        }
        let found = check(".ci/run", &format!("a\n# {}: b", WORDS[0]));
        assert_eq!(found[0].to_string(), format!(".ci/run:2: `{}`: finish it, or open an issue", WORDS[0]));
        assert_eq!(check("a.rs", &format!("{}HEAD\na\n{}b\n", CONFLICT[0], CONFLICT[1])).len(), 2);
        let longer = format!("{}_LIST auto{} A{}", WORDS[0], WORDS[3], WORDS[2]);
        assert!(check("a.rs", &longer).is_empty());
    }
}
