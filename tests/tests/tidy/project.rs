//! The project as tidy sees it: its files, and each Rust file taken apart into functions and names.
//!
//! Names are read syntactically: a path, a use tree written out, the tokens of a macro call. What only resolution
//! could tell (an alias, a re-export) is clippy's part, see `clippy.toml`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{spanned::Spanned, visit::Visit};

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A text file of the project.
pub struct Text {
    /// Relative to the root, with `/`.
    pub path: String,
    pub text: String,
}

/// Every file with this extension, build output and version control left out, in the order of paths.
pub fn files(extension: &str) -> Vec<Text> {
    let mut found = Vec::new();
    walk(&root(), "", extension, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(directory: &Path, prefix: &str, extension: &str, found: &mut Vec<Text>) {
    for entry in fs::read_dir(directory).expect("a directory of the project is readable") {
        let entry = entry.expect("a directory of the project is readable");
        let name = entry.file_name().into_string().expect("file names of the project are UTF-8");
        let path = entry.path();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git") {
                walk(&path, &format!("{prefix}{name}/"), extension, found);
            }
        } else if path.extension().is_some_and(|has| has == extension) {
            let text = fs::read_to_string(&path).expect("files of the project are UTF-8");
            found.push(Text { path: format!("{prefix}{name}"), text });
        }
    }
}

/// A Rust file taken apart.
pub struct Source {
    pub path: String,
    pub text: String,
    pub syntax: syn::File,
    pub functions: Vec<Function>,
    pub names: Vec<Name>,
    pub macros: Vec<MacroCall>,
}

/// A function, method or trait method.
pub struct Function {
    pub name: String,
    pub line: usize,
    /// From `fn` to the closing brace.
    pub lines: usize,
    /// Without `self`.
    pub parameters: Vec<syn::PatType>,
    /// Reachable by another crate as far as its own words tell: `pub`, or a method of a trait.
    pub public: bool,
}

/// A path as it is written.
pub struct Name {
    pub path: String,
    pub line: usize,
}

/// A macro called by the last segment of its path.
pub struct MacroCall {
    pub name: String,
    pub tokens: TokenStream,
    pub line: usize,
}

impl Source {
    /// Takes a file apart.
    pub fn parse(path: &str, text: &str) -> Result<Source, syn::Error> {
        let syntax = syn::parse_file(text)?;
        let mut reader = Reader::default();
        reader.visit_file(&syntax);
        let Reader { functions, names, macros } = reader;
        Ok(Source { path: path.to_owned(), text: text.to_owned(), syntax, functions, names, macros })
    }

    /// Whether the file lies in this folder of the project.
    pub fn is_under(&self, folder: &str) -> bool {
        self.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }
}

#[derive(Default)]
struct Reader {
    functions: Vec<Function>,
    names: Vec<Name>,
    macros: Vec<MacroCall>,
}

/// The line on which a span begins.
pub fn line_of(span: Span) -> usize {
    span.start().line
}

impl Reader {
    fn function(&mut self, signature: &syn::Signature, end: Span, public: bool) {
        let line = line_of(signature.fn_token.span);
        let parameters = signature.inputs.iter().filter_map(|input| match input {
            syn::FnArg::Receiver(_) => None,
            syn::FnArg::Typed(parameter) => Some(parameter.clone()),
        });
        self.functions.push(Function {
            name: signature.ident.to_string(),
            line,
            lines: end.end().line - line + 1,
            parameters: parameters.collect(),
            public,
        });
    }

    fn use_tree(&mut self, prefix: &str, tree: &syn::UseTree) {
        let joined =
            |segment: String| if prefix.is_empty() { segment } else { format!("{prefix}::{segment}") };
        let mut leaf =
            |segment: String, span| self.names.push(Name { path: joined(segment), line: line_of(span) });
        match tree {
            syn::UseTree::Path(path) => self.use_tree(&joined(path.ident.to_string()), &path.tree),
            syn::UseTree::Name(name) => leaf(name.ident.to_string(), name.span()),
            syn::UseTree::Rename(rename) => leaf(rename.ident.to_string(), rename.span()),
            syn::UseTree::Glob(glob) => leaf("*".to_owned(), glob.span()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(prefix, tree)),
        }
    }

    /// The paths among a macro's tokens: identifiers joined by `::`.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Option<Name> = None;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => match &mut path {
                    Some(name) if colons == 2 => name.path.push_str(&format!("::{ident}")),
                    _ => {
                        let name = Name { path: ident.to_string(), line: line_of(ident.span()) };
                        self.names.extend(path.replace(name));
                    }
                },
                TokenTree::Group(ref group) => self.tokens(group.stream()),
                TokenTree::Punct(ref punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => self.names.extend(path.take()),
            }
            colons = 0;
        }
        self.names.extend(path);
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, item.block.span(), is_public(&item.vis));
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, item.block.span(), is_public(&item.vis));
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.function(&item.sig, item.span(), true);
        syn::visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree("", &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.names.push(Name { path: segments.join("::"), line: line_of(path.span()) });
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let name = call.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
        self.macros.push(MacroCall { name, tokens: call.tokens.clone(), line: line_of(call.span()) });
        self.tokens(call.tokens.clone());
        syn::visit::visit_macro(self, call);
    }
}

/// Whether an item says that anyone may use it.
pub fn is_public(visibility: &syn::Visibility) -> bool {
    matches!(visibility, syn::Visibility::Public(_))
}
