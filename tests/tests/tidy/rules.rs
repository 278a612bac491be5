//! The rules that one Rust file can break by itself. Each carries a plant: a source that breaks it, which shows at
//! every run that the rule still catches.

use proc_macro2::{TokenStream, TokenTree};
use syn::{spanned::Spanned, visit::Visit};

use super::{
    bans,
    project::{Source, is_public, line_of},
};

/// The limits of STYLE.
pub const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 500;
const PARAMETERS: usize = 4;

/// Reads whether a failed record may be in the log, which rdkafka does not hand through.
const UNSAFE_FILE: &str = "system/server/src/kafka/persistence.rs";

/// One rule.
pub struct Rule {
    pub name: &'static str,
    pub why: &'static str,
    /// Where the file breaks it: line and what.
    pub check: fn(&Source) -> Vec<(usize, String)>,
    /// A source that breaks it, if it lies in `sim`.
    pub plant: fn() -> String,
}

/// All of them.
pub const RULES: &[Rule] = &[
    Rule {
        name: "file-header",
        why: "a reader learns from a file's first lines what it is, why it exists, and what it leaves out",
        check: file_header,
        plant: || "fn plain() {}".to_owned(),
    },
    Rule {
        name: "file-length",
        why: "a file is read in one sitting",
        check: file_length,
        plant: || format!("//! x\nfn f() {{{}}}", "\n".repeat(FILE_LINES)),
    },
    Rule {
        name: "function-length",
        why: "a function fits on one screen",
        check: function_length,
        plant: || format!("//! x\nfn f() {{{}}}", "\n".repeat(FUNCTION_LINES)),
    },
    Rule {
        name: "parameters",
        why: "arguments that travel together are a struct",
        check: parameters,
        plant: || "//! x\nfn f(a: u8, b: u8, c: u8, d: u8, e: u8) {}".to_owned(),
    },
    Rule {
        name: "bool-parameter",
        why: "`f(true)` says nothing at the call: a mode is an enum",
        check: bool_parameter,
        plant: || "//! x\nimpl X { pub fn f(&self, fast: bool) {} }".to_owned(),
    },
    Rule {
        name: "type-parameters",
        why: "generic soup: a public type takes at most one type parameter",
        check: type_parameters,
        plant: || "//! x\npub struct X<A, B>(A, B);".to_owned(),
    },
    Rule {
        name: "unsafe",
        why: "`unsafe` lives in one named file; what else needs it belongs into a library",
        check: unsafe_code,
        plant: || "//! x\nfn f() { unsafe { g() } }".to_owned(),
    },
    Rule {
        name: "reason",
        why: "a silenced warning says why it does not apply",
        check: reason,
        plant: || "//! x\n#[allow(dead_code)]\nfn f() {}".to_owned(),
    },
    Rule {
        name: "biased-select",
        why: "an unbiased `select!` draws its order from a source that no case file holds",
        check: biased_select,
        plant: || "//! x\nasync fn f() { tokio::select! { _ = g() => {} } }".to_owned(),
    },
    Rule {
        name: "ignored-test",
        why: "a test that does not run holds nothing",
        check: ignored_test,
        plant: || "//! x\n#[test]\n#[ignore]\nfn f() {}".to_owned(),
    },
    Rule {
        name: "absent-names",
        why: "DESIGN 2: what a crate cannot name, it cannot depend on",
        check: bans::named,
        plant: || "//! x\nuse stormglass_orders::Row;".to_owned(),
    },
];

fn file_header(source: &Source) -> Vec<(usize, String)> {
    let opens = source.text.starts_with("//!");
    if opens { Vec::new() } else { vec![(1, "the file does not open with `//!`".to_owned())] }
}

fn file_length(source: &Source) -> Vec<(usize, String)> {
    let lines = source.text.lines().count();
    over(lines, FILE_LINES)
        .map(|over| (FILE_LINES + 1, format!("{lines} lines, {over}")))
        .into_iter()
        .collect()
}

fn function_length(source: &Source) -> Vec<(usize, String)> {
    let long = |function: &super::project::Function| {
        over(function.lines, FUNCTION_LINES)
            .map(|over| (function.line, format!("`{}` has {} lines, {over}", function.name, function.lines)))
    };
    source.functions.iter().filter_map(long).collect()
}

fn parameters(source: &Source) -> Vec<(usize, String)> {
    let many = |function: &super::project::Function| {
        let count = function.parameters.len();
        over(count, PARAMETERS)
            .map(|over| (function.line, format!("`{}` takes {count} parameters, {over}", function.name)))
    };
    source.functions.iter().filter_map(many).collect()
}

fn over(count: usize, limit: usize) -> Option<String> {
    (count > limit).then(|| format!("{limit} allowed"))
}

fn bool_parameter(source: &Source) -> Vec<(usize, String)> {
    let is_bool = |parameter: &&syn::PatType| matches!(&*parameter.ty, syn::Type::Path(path) if path.path.is_ident("bool"));
    let public = source.functions.iter().filter(|function| function.public);
    public
        .filter_map(|function| function.parameters.iter().find(is_bool).map(|found| (function, found)))
        .map(|(function, found)| {
            (line_of(found.span()), format!("`{}` is public and takes a `bool`", function.name))
        })
        .collect()
}

fn type_parameters(source: &Source) -> Vec<(usize, String)> {
    let mut found = PublicGenerics(Vec::new());
    found.visit_file(&source.syntax);
    found.0
}

struct PublicGenerics(Vec<(usize, String)>);

impl PublicGenerics {
    fn look(&mut self, visibility: &syn::Visibility, name: &syn::Ident, generics: &syn::Generics) {
        let count = generics.type_params().count();
        if is_public(visibility) && count > 1 {
            self.0.push((line_of(name.span()), format!("`{name}` takes {count} type parameters")));
        }
    }
}

impl<'ast> Visit<'ast> for PublicGenerics {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.look(&item.vis, &item.ident, &item.generics);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.look(&item.vis, &item.ident, &item.generics);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.look(&item.vis, &item.ident, &item.generics);
    }
}

fn unsafe_code(source: &Source) -> Vec<(usize, String)> {
    if source.path == UNSAFE_FILE {
        return Vec::new();
    }
    let tokens: TokenStream = source.text.parse().unwrap_or_default();
    let lines = unsafe_lines(tokens).into_iter();
    lines.map(|line| (line, "`unsafe`".to_owned())).collect()
}

/// The lines with the word among the tokens, those of macros included.
fn unsafe_lines(tokens: TokenStream) -> Vec<usize> {
    let lines = |token| match token {
        TokenTree::Ident(ident) if ident == "unsafe" => vec![line_of(ident.span())],
        TokenTree::Group(group) => unsafe_lines(group.stream()),
        TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => Vec::new(),
    };
    tokens.into_iter().flat_map(lines).collect()
}

fn reason(source: &Source) -> Vec<(usize, String)> {
    attributes(source)
        .into_iter()
        .filter(|attribute| attribute.path().is_ident("allow") || attribute.path().is_ident("expect"))
        .filter(|attribute| !says(attribute, "reason"))
        .map(|attribute| (line_of(attribute.span()), "a lint is silenced without a `reason`".to_owned()))
        .collect()
}

fn ignored_test(source: &Source) -> Vec<(usize, String)> {
    attributes(source)
        .into_iter()
        .filter(|attribute| attribute.path().is_ident("ignore"))
        .map(|attribute| (line_of(attribute.span()), "`#[ignore]`".to_owned()))
        .collect()
}

/// Whether `word` is among the attribute's tokens.
fn says(attribute: &syn::Attribute, word: &str) -> bool {
    let syn::Meta::List(list) = &attribute.meta else { return false };
    list.tokens.clone().into_iter().any(|token| matches!(token, TokenTree::Ident(ident) if ident == word))
}

fn attributes(source: &Source) -> Vec<&syn::Attribute> {
    struct Attributes<'a>(Vec<&'a syn::Attribute>);
    impl<'ast> Visit<'ast> for Attributes<'ast> {
        fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
            self.0.push(attribute);
        }
    }
    let mut found = Attributes(Vec::new());
    found.visit_file(&source.syntax);
    found.0
}

fn biased_select(source: &Source) -> Vec<(usize, String)> {
    let selects = source.macros.iter().filter(|call| call.name == "select");
    selects
        .filter(|call| !matches!(call.tokens.clone().into_iter().next(), Some(TokenTree::Ident(ident)) if ident == "biased"))
        .map(|call| (call.line, "`select!` without `biased;`".to_owned()))
        .collect()
}
