//! Files and functions that fit on a reader's screen.

use syn::visit::Visit;

use super::source::{Finding, Source};

const FILE: usize = 400;
const FUNCTION: usize = 60;

/// Files and functions that are too long.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut found = Functions { path: &source.path, found: Vec::new() };
    match syn::parse2(source.tokens.clone()) {
        Ok(file) => found.visit_file(&file),
        Err(error) => {
            found.found.push(Finding::new(&source.path, error.span().start().line, error.to_string()));
        }
    }
    let lines = source.text.lines().count();
    if lines > FILE {
        let message = format!("the file has {lines} lines, more than {FILE}");
        found.found.push(Finding::new(&source.path, lines, message));
    }
    found.found
}

struct Functions<'a> {
    path: &'a str,
    found: Vec<Finding>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let first = signature.fn_token.span.start().line;
        let last = body.brace_token.span.close().end().line;
        let lines = last + 1 - first;
        if lines > FUNCTION {
            let message = format!("fn {} has {lines} lines, more than {FUNCTION}", signature.ident);
            self.found.push(Finding::new(self.path, first, message));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.measure(&function.sig, body);
        }
        syn::visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::source::shown, *};

    #[test]
    fn counts_from_the_signature_to_the_brace() {
        let function = |lines: usize| format!("/// Doc.\npub fn long() {{{}}}\n", "\n".repeat(lines - 1));
        assert!(shown(check, "a.rs", &function(60)).is_empty());
        assert_eq!(shown(check, "a.rs", &function(61)), ["a.rs:2: fn long has 61 lines, more than 60"]);
        let nested = |kind: &str| format!("{kind} {{ {} }}", function(61));
        assert_eq!(shown(check, "a.rs", &nested("impl A")).len(), 1);
        assert_eq!(shown(check, "a.rs", &nested("trait A").replace("pub ", "")).len(), 1);
        assert_eq!(shown(check, "a.rs", &nested("mod a")).len(), 1);
    }

    #[test]
    fn counts_lines_of_files() {
        assert!(shown(check, "a.rs", &"//\n".repeat(400)).is_empty());
        assert_eq!(shown(check, "a.rs", &"//\n".repeat(401)).len(), 1);
    }
}
