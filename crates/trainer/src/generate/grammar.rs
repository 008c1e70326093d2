//! Sentence templates: `(a|b|)` chooses, `{x}` is a slot, lines that start with `@x:` are rules a slot may name.

use std::collections::BTreeMap;

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use crate::TrainError;

/// A piece of a template.
#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Slot(String),
    Choice(Vec<Vec<Node>>),
}

/// What a line of the grammar says a sentence is about, and how.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// The word before the colon: a kind, or `none`.
    pub(crate) what: String,
    nodes: Vec<Node>,
}

/// The templates and rules of one language.
#[derive(Clone, Debug)]
pub(crate) struct Grammar {
    pub(crate) templates: Vec<Template>,
    rules: BTreeMap<String, Vec<Node>>,
}

/// A piece of an expanded sentence: words of the template, or a slot that the caller fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Words(String),
    Slot(String),
}

impl Grammar {
    /// Reads a grammar; `name` is for messages.
    pub(crate) fn parse(name: &'static str, text: &str) -> Result<Self, TrainError> {
        let mut grammar = Self { templates: Vec::new(), rules: BTreeMap::new() };
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refuse = |reason: &str| TrainError::Grammar { name, line: index + 1, reason: reason.to_owned() };
            let (head, body) = line.split_once(": ").ok_or_else(|| refuse("no colon"))?;
            let mut rest = body.chars().peekable();
            let mut nodes = sequence(&mut rest).map_err(refuse)?;
            if rest.next().is_some() {
                return Err(refuse("a | or ) outside of parentheses"));
            }
            match head.strip_prefix('@') {
                Some(rule) => drop(grammar.rules.insert(rule.to_owned(), nodes)),
                None => {
                    nodes.shrink_to_fit();
                    grammar.templates.push(Template { what: head.to_owned(), nodes });
                }
            }
        }
        Ok(grammar)
    }

    /// One expansion of a template, rules included.
    pub(crate) fn expand(&self, template: &Template, rng: &mut ChaCha8Rng) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.walk(&template.nodes, rng, &mut pieces);
        pieces
    }

    fn walk(&self, nodes: &[Node], rng: &mut ChaCha8Rng, out: &mut Vec<Piece>) {
        for node in nodes {
            match node {
                Node::Text(text) => out.push(Piece::Words(text.clone())),
                Node::Slot(name) => match self.rules.get(name) {
                    Some(rule) => self.walk(rule, rng, out),
                    None => out.push(Piece::Slot(name.clone())),
                },
                Node::Choice(options) => {
                    // An empty option stands for "not said"; where there is one, it gets no more than a third.
                    let empty = options.iter().filter(|option| option.is_empty()).count();
                    let optional = empty == 1 && options.len() <= 4;
                    if optional && rng.random_ratio(1, 4) {
                        continue;
                    }
                    let said: Vec<_> = options.iter().filter(|option| !optional || !option.is_empty()).collect();
                    if let Some(option) = said.choose(rng) {
                        self.walk(option, rng, out);
                    }
                }
            }
        }
    }
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Reads up to the end of the alternative: a `|`, a `)` or the end of the line, which stays unread.
fn sequence(rest: &mut Chars<'_>) -> Result<Vec<Node>, &'static str> {
    let mut nodes = Vec::new();
    let mut text = String::new();
    loop {
        let next = rest.peek().copied();
        if matches!(next, None | Some('|' | ')' | '(' | '{')) && !text.is_empty() {
            nodes.push(Node::Text(std::mem::take(&mut text)));
        }
        match next {
            None | Some('|' | ')') => return Ok(nodes),
            Some('(') => nodes.push(choice(rest)?),
            Some('{') => {
                rest.next();
                let name: String = std::iter::from_fn(|| rest.next_if(|c| *c != '}')).collect();
                rest.next().ok_or("a slot without }")?;
                nodes.push(Node::Slot(name));
            }
            Some(c) => {
                rest.next();
                text.push(c);
            }
        }
    }
}

fn choice(rest: &mut Chars<'_>) -> Result<Node, &'static str> {
    rest.next();
    let mut options = vec![sequence(rest)?];
    loop {
        match rest.next() {
            Some('|') => options.push(sequence(rest)?),
            Some(')') => return Ok(Node::Choice(options)),
            _ => return Err("a ( without )"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_template_expands_to_each_of_its_alternatives_and_nothing_else() {
        let grammar = Grammar::parse("test", "order: a(b|{x}( c|)){r}\n@r: (.|!)").expect("parses");
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let pieces = grammar.expand(&grammar.templates[0], &mut rng);
            seen.insert(
                pieces
                    .iter()
                    .map(|piece| match piece {
                        Piece::Words(w) => w.as_str(),
                        Piece::Slot(_) => "X",
                    })
                    .collect::<String>(),
            );
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["aX c!", "aX c.", "aX!", "aX.", "ab!", "ab."]);
    }

    #[test]
    fn unbalanced_templates_are_refused_with_their_line() {
        for text in ["order: (a", "order: a)", "order: {x", "order a"] {
            let error = Grammar::parse("test", &format!("# x\n{text}")).expect_err(text);
            assert!(error.to_string().contains("test:2"), "{error}");
        }
    }
}
