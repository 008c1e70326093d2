//! Text to items: which part of a text becomes one embedding, or one prompt.
//!
//! Nothing is cut silently. A piece of text that is longer than the model's context is either an error that names it or, if the caller asks for it,
//! several items, each of which knows which part of the piece it is. An id that the model does not know is an error in any case: it would be paid, and
//! nothing would be computed of its item.

use std::fmt::Display;

use quern_model::Package;
use serde::{Deserialize, Serialize};

use crate::ClientError;

/// What separates the pieces of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Each line is a piece, one without text too: results and lines have the same numbers.
    Lines,
    /// Each run of lines with text is a piece; lines without text separate them.
    Paragraphs,
}

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Number of its first line, from 1.
    pub line: u32,
    /// Its text, without the white space around it.
    pub text: &'a str,
}

/// Where an item comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Number of the first line of the piece, from 1.
    pub line: u32,
    /// Which part of the piece this is, from 0.
    pub part: u32,
    /// In how many parts the piece was split; 1: it was not.
    pub parts: u32,
}

/// One item: what one embedding, or the samples of one prompt, are computed of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it comes from.
    pub origin: Origin,
    /// Its ids, special ones included.
    pub ids: Vec<u32>,
}

/// What a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Ids of an item.
    pub context: u32,
    /// Every id is less than this.
    pub vocabulary: u32,
}

impl From<&Package> for Limits {
    fn from(package: &Package) -> Self {
        let header = package.header();
        Self { context: header.context, vocabulary: header.vocabulary }
    }
}

/// Text to ids. Implemented by the model's tokenizer; tests use a toy.
pub trait Tokenize {
    /// Why a text has no ids.
    type Error: Display;

    /// The ids of a text with the special ids around them, never truncated.
    ///
    /// # Errors
    /// The tokenizer has no id for a part of the text.
    fn ids(&self, text: &str) -> Result<Vec<u32>, Self::Error>;
}

impl Tokenize for quern_model::Tokenizer {
    type Error = quern_model::ModelError;

    fn ids(&self, text: &str) -> Result<Vec<u32>, Self::Error> {
        self.encode(text)
    }
}

/// The pieces of a text, in order.
///
/// # Errors
/// More lines than 32 bits count.
pub fn pieces(text: &str, unit: Unit) -> Result<Vec<Piece<'_>>, ClientError> {
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    // Byte range of the paragraph that is being read, and its first line.
    let mut open: Option<(usize, usize, u32)> = None;
    let mut at = 0;
    for (index, raw) in text.split_inclusive('\n').enumerate() {
        let line = u32::try_from(index + 1).map_err(|_| ClientError::TooManyLines)?;
        let (start, end) = (at, at + raw.len());
        at = end;
        let blank = raw.trim().is_empty();
        match unit {
            Unit::Lines => pieces.push(Piece { line, text: raw.trim() }),
            Unit::Paragraphs if !blank => open = Some(open.map_or((start, end, line), |(first, _, line)| (first, end, line))),
            Unit::Paragraphs => close(&mut open, text, &mut pieces),
        }
    }
    close(&mut open, text, &mut pieces);
    Ok(pieces)
}

fn close<'a>(open: &mut Option<(usize, usize, u32)>, text: &'a str, pieces: &mut Vec<Piece<'a>>) {
    if let Some((start, end, line)) = open.take() {
        pieces.push(Piece { line, text: text[start..end].trim() });
    }
}

/// The items of pieces, for a model that takes so much. A piece without text has no ids, not even special ones: its result is the protocol's for an
/// empty item.
///
/// With `split`, a longer piece becomes several items: each takes as many words as fit, a word that does not fit alone is divided between characters,
/// and white space at the divisions is dropped. Without it, a longer piece is an error.
///
/// # Errors
/// [`ClientError::TooLong`] with every such line and the counts; [`ClientError::UnknownId`] with every line that has one; [`ClientError::Tokenize`].
pub fn items<T: Tokenize>(pieces: &[Piece<'_>], tokenizer: &T, limits: Limits, split: bool) -> Result<Vec<Item>, ClientError> {
    let Limits { context, vocabulary } = limits;
    let limit = usize::try_from(context).unwrap_or(usize::MAX);
    let mut items = Vec::with_capacity(pieces.len());
    let mut too_long = Vec::new();
    for piece in pieces {
        let ids = if piece.text.is_empty() { Vec::new() } else { ids_of(tokenizer, piece.text, piece.line)? };
        if ids.len() <= limit {
            items.push(Item { origin: Origin { line: piece.line, part: 0, parts: 1 }, ids });
        } else if split {
            let parts = split_text(piece, tokenizer, limit)?;
            let count = u32::try_from(parts.len()).map_err(|_| ClientError::TooManyLines)?;
            items.extend((0..count).zip(parts).map(|(part, ids)| Item { origin: Origin { line: piece.line, part, parts: count }, ids }));
        } else {
            too_long.push((piece.line, ids.len()));
        }
    }
    if !too_long.is_empty() {
        return Err(ClientError::TooLong { lines: too_long, context });
    }
    let unknown = |item: &Item| item.ids.iter().find(|id| **id >= vocabulary).map(|id| (item.origin.line, *id));
    let lines: Vec<(u32, u32)> = items.iter().filter_map(unknown).collect();
    if lines.is_empty() { Ok(items) } else { Err(ClientError::UnknownId { lines, vocabulary }) }
}

fn ids_of<T: Tokenize>(tokenizer: &T, text: &str, line: u32) -> Result<Vec<u32>, ClientError> {
    tokenizer.ids(text).map_err(|error| ClientError::Tokenize { line, reason: error.to_string() })
}

/// Divides a piece into runs of at most `limit` ids.
fn split_text<T: Tokenize>(piece: &Piece<'_>, tokenizer: &T, limit: usize) -> Result<Vec<Vec<u32>>, ClientError> {
    let mut parts = Vec::new();
    let mut rest = piece.text;
    while !rest.is_empty() {
        let words: Vec<usize> =
            rest.match_indices(char::is_whitespace).map(|(at, _)| at).filter(|&at| at > 0).chain([rest.len()]).collect();
        let taken = match longest(rest, &words, tokenizer, limit, piece.line)? {
            Some(taken) => taken,
            // Not even the first word fits: divide it between characters.
            None => {
                let first = &rest[..words[0]];
                let characters: Vec<usize> = first.char_indices().map(|(at, _)| at).filter(|&at| at > 0).chain([first.len()]).collect();
                longest(rest, &characters, tokenizer, limit, piece.line)?
                    .ok_or(ClientError::CannotSplit { line: piece.line, context: limit })?
            }
        };
        parts.push(ids_of(tokenizer, &rest[..taken], piece.line)?);
        rest = rest[taken..].trim_start();
    }
    Ok(parts)
}

/// The largest of `ends` (ascending) up to which the text has at most `limit` ids; `None` where even the first is too much.
///
/// Ids grow with the text, apart from a few at a word's end: a search by halves finds an end near the largest, and what it returns was counted.
fn longest<T: Tokenize>(text: &str, ends: &[usize], tokenizer: &T, limit: usize, line: u32) -> Result<Option<usize>, ClientError> {
    let fits = |end: usize| ids_of(tokenizer, &text[..end], line).map(|ids| ids.len() <= limit);
    let (mut low, mut high) = (0, ends.len());
    let mut best = None;
    while low < high {
        let middle = low + (high - low) / 2;
        if fits(ends[middle])? {
            best = Some(ends[middle]);
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One id per four bytes of each word, and one at each end.
    struct Toy;

    impl Tokenize for Toy {
        type Error = &'static str;

        fn ids(&self, text: &str) -> Result<Vec<u32>, Self::Error> {
            if text.contains('\u{0}') {
                return Err("no id for NUL");
            }
            let words = text.split_whitespace().flat_map(|word| word.as_bytes().chunks(4).map(|chunk| u32::from(chunk[0])));
            Ok([101].into_iter().chain(words).chain([102]).collect())
        }
    }

    fn limits(context: u32) -> Limits {
        Limits { context, vocabulary: 256 }
    }

    fn lines(text: &str) -> Vec<(u32, &str)> {
        pieces(text, Unit::Lines).expect("few lines").iter().map(|piece| (piece.line, piece.text)).collect()
    }

    #[test]
    fn lines_keep_their_numbers_and_blank_ones_are_empty_items() {
        assert_eq!(lines("a\n\n  b \r\n\t\nc"), [(1, "a"), (2, ""), (3, "b"), (4, ""), (5, "c")]);
        assert_eq!(lines("a\n"), [(1, "a")]);
        let found = pieces("a\n\n", Unit::Lines).expect("few lines");
        let made = items(&found, &Toy, limits(9), false).expect("items");
        assert_eq!(made.iter().map(|item| item.ids.len()).collect::<Vec<_>>(), [3, 0]);
    }

    #[test]
    fn paragraphs_are_runs_of_lines() {
        let found = pieces("\na\nb\n\n \nc\n", Unit::Paragraphs).expect("few lines");
        assert_eq!(found, [Piece { line: 2, text: "a\nb" }, Piece { line: 6, text: "c" }]);
    }

    #[test]
    fn pieces_past_the_context_are_an_error_with_lines_and_counts() {
        let text = "short\none two three four five\nfits\n1 2 3 4";
        let found = pieces(text, Unit::Lines).expect("few lines");
        let error = items(&found, &Toy, limits(5), false).expect_err("8 and 6 ids");
        assert!(error.to_string().starts_with("line 2 has 8 ids, line 4 has 6 ids; the model takes 5"), "{error}");
    }

    #[test]
    fn ids_that_the_model_does_not_know_are_an_error_with_lines_and_ids() {
        let found = pieces("abc\nb\n\nz y\nzz", Unit::Lines).expect("few lines");
        let known = Limits { context: 9, vocabulary: u32::from(b'z') };
        for split in [false, true] {
            let error = items(&found, &Toy, known, split).expect_err("z is 122");
            assert!(error.to_string().starts_with("line 4 has id 122, line 5 has id 122; the model knows the ids below 122"), "{error}");
        }
        assert!(items(&found, &Toy, Limits { vocabulary: known.vocabulary + 1, ..known }, false).is_ok());
    }

    #[test]
    fn split_piece_becomes_items_that_know_their_part() {
        let found = pieces("one two three four five", Unit::Lines).expect("few lines");
        let split = items(&found, &Toy, limits(5), true).expect("split");
        let origins: Vec<(u32, u32)> = split.iter().map(|item| (item.origin.part, item.origin.parts)).collect();
        assert_eq!(origins, [(0, 3), (1, 3), (2, 3)]);
        assert!(split.iter().all(|item| item.ids.len() <= 5));
    }

    #[test]
    fn word_longer_than_the_context_is_divided_between_characters() {
        let word = "ä".repeat(50);
        let found = pieces(&word, Unit::Lines).expect("few lines");
        let split = items(&found, &Toy, limits(6), true).expect("split");
        assert!(split.len() > 1 && split.iter().all(|item| item.ids.len() <= 6));
        assert!(matches!(items(&found, &Toy, limits(2), true), Err(ClientError::CannotSplit { line: 1, context: 2 })));
    }

    #[test]
    fn text_without_ids_names_its_line() {
        let found = pieces("a\nb\u{0}", Unit::Lines).expect("few lines");
        assert!(matches!(items(&found, &Toy, limits(9), false), Err(ClientError::Tokenize { line: 2, .. })));
        let blank = pieces(" \n\n", Unit::Lines).expect("few lines");
        let made = items(&blank, &Toy, limits(9), false).expect("empty items");
        assert_eq!(made.iter().map(|item| item.ids.len()).collect::<Vec<_>>(), [0, 0]);
    }

    proptest! {
        /// No word is lost, none is doubled, whatever the text and the context.
        #[test]
        fn split_keeps_every_id_in_order(text in "[a-d \n]{1,200}", context in 3u32..12) {
            let found = pieces(&text, Unit::Paragraphs).expect("few lines");
            prop_assume!(!found.is_empty());
            let split = items(&found, &Toy, limits(context), true).expect("split");
            prop_assert!(split.iter().all(|item| item.ids.len() <= context as usize));
            let inner: usize = split.iter().map(|item| item.ids.len() - 2).sum();
            let whole: usize = found.iter().map(|piece| Toy.ids(piece.text).expect("ids").len() - 2).sum();
            // A word divided between characters may take an id more per division; without such words the ids are the same.
            prop_assert!(inner >= whole);
            if text.split_whitespace().all(|word| word.len() <= 4) {
                prop_assert_eq!(inner, whole);
            }
        }
    }
}
