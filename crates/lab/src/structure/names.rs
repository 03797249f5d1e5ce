//! Finds what the code of a module defines and names, outside of tests and with all features.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// What the code of one module defines and names.
#[derive(Default)]
pub(super) struct Names {
    pub(super) defined: BTreeSet<String>,
    /// Names that it imports or re-exports, with their paths.
    pub(super) imported: Vec<(String, Vec<String>)>,
    /// Modules that it imports with `*`.
    pub(super) globs: Vec<Vec<String>>,
    /// Paths in its code.
    pub(super) paths: Vec<Vec<String>>,
}

impl Names {
    /// Reads the items of a module, except its submodules.
    pub(super) fn of(items: &[syn::Item]) -> Self {
        let mut names = Self::default();
        for item in items.iter().filter(|item| is_compiled(item)) {
            names.defined.extend(defined(item));
            if !matches!(item, syn::Item::Mod(_)) {
                names.visit_item(item);
            }
        }
        names
    }

    fn import(&mut self, tree: &syn::UseTree, mut before: Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before);
            }
            syn::UseTree::Name(name) => {
                let name = name.ident.to_string();
                if name != "self" {
                    before.push(name.clone());
                }
                let known = before.last().cloned().unwrap_or(name);
                self.imported.push((known, before));
            }
            syn::UseTree::Rename(name) => {
                before.push(name.ident.to_string());
                self.imported.push((name.rename.to_string(), before));
            }
            syn::UseTree::Glob(_) => self.globs.push(before),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, before.clone());
                }
            }
        }
    }

    /// Paths in the arguments of a macro, which syn does not parse: names with `::` between them.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.path(std::mem::take(&mut path));
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.path(std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.path(path);
    }

    fn path(&mut self, path: Vec<String>) {
        if path.len() > 1 {
            self.paths.push(path);
        }
    }
}

impl<'a> Visit<'a> for Names {
    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.import(&item.tree, Vec::new());
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.path(path.segments.iter().map(|one| one.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    /// The path in `pub(in PATH)` is not an import.
    fn visit_visibility(&mut self, _: &'a syn::Visibility) {}

    fn visit_macro(&mut self, call: &'a syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

/// Whether an item is compiled outside of tests if all features are enabled.
pub(super) fn is_compiled(item: &syn::Item) -> bool {
    let attributes = match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => return true,
    };
    let conditions = attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"));
    conditions
        .filter_map(|attribute| attribute.parse_args().ok())
        .all(|condition| holds(&condition))
}

fn holds(condition: &syn::Meta) -> bool {
    let list = match condition {
        syn::Meta::Path(path) => return !path.is_ident("test"),
        syn::Meta::NameValue(_) => return true,
        syn::Meta::List(list) => list,
    };
    let inner = list
        .parse_args_with(syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated)
        .unwrap_or_default();
    if list.path.is_ident("not") {
        !inner.iter().all(holds)
    } else if list.path.is_ident("any") {
        inner.iter().any(holds)
    } else {
        inner.iter().all(holds)
    }
}

/// The name that an item defines.
fn defined(item: &syn::Item) -> Option<String> {
    let name = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}
