//! The data: business sentences, and what they say as JSON. A sentence is a function of (seed, split, index) alone.
//!
//! **The answer.** `{"who":…,"what":…,"amount":…,"currency":…,"date":…}` in this order, without blanks, null where the sentence does not say:
//! - `who`: the other party, letter for letter as the sentence writes it;
//! - `what`: invoice, payment, order, transfer or refund;
//! - `amount`: a number with two decimals. `.`, `,`, `'` or a blank before exactly three digits groups thousands, before two digits `.` and `,`
//!   are the decimal point;
//! - `currency`: the ISO 4217 code; `$` alone is USD, `kr` and crowns are SEK, francs are CHF;
//! - `date`: YYYY-MM-DD of the deed, not of a deadline. Numeric dates have the day before the month, except in ISO 8601.
//!
//! **Held out.** Every word that makes a name a name (given name, surname, company root, blend, invented word, acronym; sectors and legal forms are
//! shared) is a training word or a held-out word by its hash (one in eight is held out), and so is every combination of template, amount form
//! and date form (one in five). A held-out sentence has only held-out names and a held-out combination; a training sentence has none of either.

mod grammar;
mod names;
mod values;

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use self::{
    grammar::{Grammar, Piece},
    names::{Names, capitalised},
    values::{Day, Money, one_of},
};
use crate::TrainError;

/// What the model learns from, or what it is measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Training.
    Train,
    /// Measured on, never trained on.
    HeldOut,
}

/// Language of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// English.
    English,
    /// German.
    German,
}

/// What a sentence says. Fields in the order of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The other party.
    pub who: Option<String>,
    /// The kind of deed.
    pub what: Option<String>,
    /// In hundredths of the currency's unit.
    pub amount_cents: Option<u64>,
    /// ISO 4217.
    pub currency: Option<String>,
    /// YYYY-MM-DD.
    pub date: Option<String>,
}

impl Facts {
    /// The names of the fields, in the order of the answer.
    pub const FIELDS: [&'static str; 5] = ["who", "what", "amount", "currency", "date"];

    /// The values as the answer writes them, in the order of [`Facts::FIELDS`].
    #[must_use]
    pub fn values(&self) -> [String; 5] {
        let text = |field: &Option<String>| {
            field.as_ref().map_or_else(|| "null".to_owned(), |text| serde_json::Value::from(text.as_str()).to_string())
        };
        let amount = self.amount_cents.map_or_else(|| "null".to_owned(), |cents| format!("{}.{:02}", cents / 100, cents % 100));
        [text(&self.who), text(&self.what), amount, text(&self.currency), text(&self.date)]
    }

    /// The answer: JSON with fixed key order and no blanks.
    #[must_use]
    pub fn answer(&self) -> String {
        let pairs: Vec<_> = Self::FIELDS.iter().zip(self.values()).map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", pairs.join(","))
    }
}

/// A sentence, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The sentence.
    pub sentence: String,
    /// What it says.
    pub facts: Facts,
    /// Its language.
    pub language: Language,
    /// Template, amount form and date form: what the split is decided by.
    pub combination: String,
    /// The amount as the sentence writes it.
    pub amount_written: Option<String>,
    /// The date as the sentence writes it.
    pub date_written: Option<String>,
}

/// Which of `count` buckets a text belongs to: 64-bit FNV-1a, folded.
pub(crate) fn bucket(text: &str, count: u64) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ (hash >> 29)) % count
}

/// So many of the first training sentences have plain names: copying is learned on those, then on all names.
const PLAIN: u64 = 33_600;

/// From this index on there are the sentences that neither train nor measure a model: the tokenizer's, also with plain names, and those that a
/// run is watched by.
pub(crate) const ELSEWHERE: u64 = 1 << 40;

/// Makes sentences.
#[derive(Debug)]
pub struct Generator {
    seed: u64,
    split: Split,
    grammars: [(Language, Grammar); 2],
    names: Names,
    plain_names: Names,
}

impl Generator {
    /// # Errors
    /// [`TrainError::Grammar`] if a grammar file does not parse.
    pub fn new(seed: u64, split: Split) -> Result<Self, TrainError> {
        let grammars = [
            (Language::English, Grammar::parse("data/en.txt", include_str!("../../data/en.txt"))?),
            (Language::German, Grammar::parse("data/de.txt", include_str!("../../data/de.txt"))?),
        ];
        Ok(Self { seed, split, grammars, names: Names::new(split, false), plain_names: Names::new(split, true) })
    }

    /// The sentence of this index.
    ///
    /// # Errors
    /// [`TrainError::Slot`] if the grammar names a slot that does not exist.
    pub fn sample(&self, index: u64) -> Result<Sample, TrainError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(index << 1 | u64::from(self.split == Split::HeldOut));
        let plain = self.split == Split::Train && !(PLAIN..ELSEWHERE).contains(&index);
        let names = if plain { &self.plain_names } else { &self.names };
        loop {
            let sample = self.attempt(names, &mut rng)?;
            if combination_split(&sample.combination) == self.split {
                return Ok(sample);
            }
        }
    }

    fn attempt(&self, names: &Names, rng: &mut ChaCha8Rng) -> Result<Sample, TrainError> {
        let (language, grammar) = &self.grammars[usize::from(rng.random_ratio(1, 3))];
        let which = rng.random_range(0..grammar.templates.len());
        let template = &grammar.templates[which];
        let mut sample = Sample {
            sentence: String::new(),
            facts: Facts { what: Some(template.what.clone()).filter(|what| what != "none"), ..Facts::default() },
            language: *language,
            combination: String::new(),
            amount_written: None,
            date_written: None,
        };
        let lower_case = rng.random_ratio(1, 6);
        let typos = rng.random_ratio(1, 6);
        let (mut amount_form, mut date_form) = (String::from("none"), "none");
        for piece in grammar.expand(template, rng) {
            let text = match piece {
                Piece::Words(words) if typos => typo(&words, rng),
                Piece::Words(words) => words,
                Piece::Slot(slot) => match slot.as_str() {
                    "who" => {
                        let name = names.any(rng);
                        sample.facts.who = Some(if lower_case { name.to_lowercase() } else { name.clone() });
                        name
                    }
                    "amount" => {
                        let money = Money::random(*language, rng);
                        sample.facts.amount_cents = Some(money.cents);
                        sample.facts.currency = money.currency.map(str::to_owned);
                        sample.amount_written = Some(money.written.clone());
                        amount_form = money.form;
                        money.written
                    }
                    "date" => {
                        let day = Day::random(*language, rng);
                        sample.facts.date = Some(day.iso);
                        sample.date_written = Some(day.written.clone());
                        date_form = day.form;
                        day.written
                    }
                    other => filler(other, names, *language, rng)?,
                },
            };
            join(&mut sample.sentence, &text);
        }
        if lower_case {
            sample.sentence = sample.sentence.to_lowercase();
            for written in [&mut sample.amount_written, &mut sample.date_written].into_iter().flatten() {
                *written = written.to_lowercase();
            }
        } else if sample.facts.who.as_ref().is_none_or(|who| !sample.sentence.starts_with(who.as_str())) && rng.random_ratio(4, 5) {
            sample.sentence = capitalised(&sample.sentence);
        }
        sample.combination = format!("{language:?} {which} / {amount_form} / {date_form}");
        Ok(sample)
    }
}

/// What fills the slots that the answer does not ask for.
fn filler(slot: &str, names: &Names, language: Language, rng: &mut ChaCha8Rng) -> Result<String, TrainError> {
    let number = |rng: &mut ChaCha8Rng| rng.random_range(100..99_999);
    Ok(match slot {
        "other" => names.person(rng),
        "ref" => match rng.random_range(0..5) {
            0 => format!("INV-{}-{:04}", rng.random_range(2010..2040), rng.random_range(1..9999)),
            1 => format!("#{}", number(rng)),
            2 => format!("{}{}", one_of(&["RE", "PO", "A", "K", "R-", "B-", "SO"], rng), number(rng)),
            3 => format!("{}/{}", rng.random_range(1..999), rng.random_range(2010..2040)),
            _ => number(rng).to_string(),
        },
        "qty" => rng.random_range(2..200).to_string(),
        "pct" => format!(
            "{}{}",
            [2, 3, 5, 7, 8, 10, 19, 20, 21, 25][rng.random_range(0..10)],
            if language == Language::German { " %" } else { "%" }
        ),
        "days" => [7, 8, 10, 14, 21, 30, 45, 60, 90].choose(rng).unwrap_or(&30).to_string(),
        "deadline" => Day::random(language, rng).written,
        _ => return Err(TrainError::Slot { slot: slot.to_owned() }),
    })
}

/// One combination in five is held out.
fn combination_split(combination: &str) -> Split {
    if bucket(combination, 5) == 0 { Split::HeldOut } else { Split::Train }
}

/// Appends a piece; a full stop after an abbreviation's own is one full stop.
fn join(sentence: &mut String, piece: &str) {
    let twice = sentence.ends_with('.') && piece.starts_with('.');
    sentence.push_str(if twice { &piece[1..] } else { piece });
}

/// One slip of the finger in the longest word, if it has more than four letters.
fn typo(words: &str, rng: &mut ChaCha8Rng) -> String {
    let longest = words.split(' ').max_by_key(|word| word.len()).unwrap_or_default();
    let letters: Vec<char> = longest.chars().collect();
    if letters.len() < 5 || !letters.iter().all(|letter| letter.is_alphabetic()) || rng.random_ratio(1, 2) {
        return words.to_owned();
    }
    let at = rng.random_range(1..letters.len() - 1);
    let mut slipped = letters;
    match rng.random_range(0..3) {
        0 => slipped.swap(at, at + 1),
        1 => drop(slipped.remove(at)),
        _ => slipped.insert(at, slipped[at]),
    }
    words.replacen(longest, &slipped.into_iter().collect::<String>(), 1)
}
