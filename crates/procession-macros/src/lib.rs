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
/// and nothing that stands in `main` runs in them. That comes before any runtime has threads: an
/// attribute that makes an `async fn main` an ordinary one, such as `#[tokio::main]`, may stand above
/// or below this one.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    // What this attribute gives itself when it has moved below all others.
    let last = arguments.to_string() == LAST;
    if !arguments.is_empty() && !last {
        let mut output = error(Span::call_site(), "#[procession::main] takes no arguments");
        output.extend(item);
        return output;
    }
    if !last && is_async(&item) {
        return move_below("main", item);
    }
    let asynchronous = is_async(&item) && item.clone().into_iter().any(|it| is_word(&it, "main"));
    let mut output = rewrite(item, |_| call("init", None), false);
    if asynchronous {
        // So that the compiler does not say too that there is no `main`.
        output.extend(tokens_of("fn main() {}"));
    }
    output
}

const LAST: &str = "__last";

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident.to_string() == word)
}

/// Whether there is `async` before the `fn`.
fn is_async(item: &TokenStream) -> bool {
    item.clone()
        .into_iter()
        .take_while(|token| !is_word(token, "fn"))
        .any(|token| is_word(&token, "async"))
}

/// Puts this attribute below the function's others, so that those make it an ordinary function first.
fn move_below(attribute: &str, item: TokenStream) -> TokenStream {
    let mut tokens = item.into_iter().peekable();
    let mut output = TokenStream::new();
    // An attribute is `#` and a group in brackets.
    while let Some(TokenTree::Punct(mark)) = tokens.peek()
        && mark.as_char() == '#'
    {
        output.extend(tokens.by_ref().take(2));
    }
    output.extend(tokens_of(&format!("#[::procession::{attribute}({LAST})]")));
    output.extend(tokens);
    output
}

/// Whether one of the function's other attributes makes it a test: `#[test]`, `#[tokio::test]`.
fn is_test(item: &TokenStream) -> bool {
    let mut tokens = item.clone().into_iter();
    while let (Some(TokenTree::Punct(mark)), Some(TokenTree::Group(attribute))) =
        (tokens.next(), tokens.next())
        && mark.as_char() == '#'
    {
        let path = attribute
            .stream()
            .into_iter()
            .take_while(|token| matches!(token, TokenTree::Ident(_) | TokenTree::Punct(_)));
        let words = path.filter(|token| matches!(token, TokenTree::Ident(_)));
        if words.last().is_some_and(|word| is_word(&word, "test")) {
            return true;
        }
    }
    false
}

/// Makes a test that may start processes, under the ordinary test harness and under nextest.
///
/// The children of a test are the test executable, started again with the arguments that select
/// this one test, whose first act is to become the child. An `async fn` takes the attribute of a
/// runtime beside this one, above or below, such as `#[tokio::test]`.
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let last = arguments.to_string() == LAST;
    if !arguments.is_empty() && !last {
        let mut output = error(Span::call_site(), "#[procession::test] takes no arguments");
        output.extend(item);
        return output;
    }
    if !last && is_async(&item) {
        return move_below("test", item);
    }
    let test = !is_test(&item);
    rewrite(item, |name| call("__test_entry", Some(name)), test)
}

/// Puts `prologue(name of the function)` at the start of the function's body; where `test` says so,
/// `#[test]` before it.
fn rewrite(
    item: TokenStream,
    prologue: impl FnOnce(&str) -> TokenStream,
    test: bool,
) -> TokenStream {
    let mut tokens: Vec<TokenTree> = item.into_iter().collect();
    let Some(at) = tokens.iter().position(|token| is_word(token, "fn")) else {
        return error(Span::call_site(), "this attribute goes on a function");
    };
    if let Some(token) = tokens[..at].iter().find(|token| is_word(token, "async")) {
        return error(
            token.span(),
            "an async function needs a runtime to run it, and this attribute has none: add the one of a runtime \
             that makes it an ordinary function, such as `#[tokio::main]`, or for a test `#[tokio::test]`",
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
