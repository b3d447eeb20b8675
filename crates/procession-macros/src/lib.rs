//! The two attributes of the crate `procession`, written by hand so that they cost no dependency to
//! build.
//!
//! ```text
//! #[procession::main]          fn main() {
//! fn main() {             =>       procession::init();
//!     work();                      work();
//! }                            }
//! ```

#![forbid(unsafe_code)]

use proc_macro::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};

/// Makes a `main` whose first act is `procession::init()`.
///
/// Children of the program are the same executable, started again: they never get past that line,
/// and nothing that stands in `main` runs in them. With another attribute that writes `main` (an
/// async runtime's, say) this one goes below it, next to the function.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        return error(Span::call_site(), "#[procession::main] takes no arguments");
    }
    rewrite(item, |_| call("init", None), false)
}

/// Makes a test that may start processes, under the ordinary test harness and under nextest.
///
/// The children of a test are the test executable, started again with the arguments that select
/// this one test, whose first act is to become the child.
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        return error(Span::call_site(), "#[procession::test] takes no arguments");
    }
    rewrite(item, |name| call("__test_entry", Some(name)), true)
}

/// Puts `prologue(name of the function)` at the start of the function's body.
fn rewrite(
    item: TokenStream,
    prologue: impl FnOnce(&str) -> TokenStream,
    test: bool,
) -> TokenStream {
    let mut tokens: Vec<TokenTree> = item.into_iter().collect();
    let word = |token: &TokenTree, word: &str| matches!(token, TokenTree::Ident(ident) if ident.to_string() == word);
    let Some(at) = tokens.iter().position(|token| word(token, "fn")) else {
        return error(Span::call_site(), "this attribute goes on a function");
    };
    if let Some(token) = tokens[..at].iter().find(|token| word(token, "async")) {
        return error(
            token.span(),
            "procession must come first, before any runtime has threads: put this attribute below the one \
             that makes the function async, next to `async fn`'s replacement (`#[tokio::main]` above, this one below)",
        );
    }
    let Some(TokenTree::Ident(name)) = tokens.get(at + 1) else {
        return error(
            tokens[at].span(),
            "this attribute goes on a function with a name",
        );
    };
    let name = name.to_string();
    let Some(TokenTree::Group(body)) = tokens.last() else {
        return error(
            tokens[at].span(),
            "this attribute goes on a function with a body",
        );
    };
    if body.delimiter() != Delimiter::Brace {
        return error(body.span(), "this attribute goes on a function with a body");
    }
    let span = body.span();
    let mut inside = prologue(name.strip_prefix("r#").unwrap_or(&name));
    inside.extend(body.stream());
    let mut replaced = Group::new(Delimiter::Brace, inside);
    replaced.set_span(span);
    let last = tokens.len() - 1;
    tokens[last] = TokenTree::Group(replaced);

    let mut output = TokenStream::new();
    if test {
        output.extend(tokens_of("#[::core::prelude::v1::test]"));
    }
    output.extend(tokens);
    output
}

/// `::procession::NAME();`, or with the path of the test as its argument.
fn call(function: &str, test: Option<&str>) -> TokenStream {
    let argument: TokenStream = match test {
        None => TokenStream::new(),
        Some(name) => {
            let mut inside = tokens_of("::core::module_path!() ,");
            inside.extend([TokenTree::Literal(Literal::string(name))]);
            inside
        }
    };
    let mut output = tokens_of("::procession::");
    output.extend([
        TokenTree::Ident(Ident::new(function, Span::call_site())),
        TokenTree::Group(Group::new(Delimiter::Parenthesis, argument)),
        TokenTree::Punct(Punct::new(';', Spacing::Alone)),
    ]);
    output
}

fn tokens_of(source: &str) -> TokenStream {
    // Only literals of this file come here; if one didn't parse, the compiler would say so at the
    // use.
    source.parse().unwrap_or_default()
}

fn error(span: Span, message: &str) -> TokenStream {
    let mut text = TokenTree::Literal(Literal::string(message));
    text.set_span(span);
    let mut output: Vec<TokenTree> = tokens_of("::core::compile_error!").into_iter().collect();
    output.push(TokenTree::Group(Group::new(
        Delimiter::Brace,
        TokenStream::from(text),
    )));
    output
        .into_iter()
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect()
}
