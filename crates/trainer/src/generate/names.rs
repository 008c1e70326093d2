//! Names of people and companies. Every word that makes a name a name is either a training word or a held-out word, by its hash.

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::{Split, bucket};

const GIVEN: &str = include_str!("../../data/given.txt");
const SURNAMES: &str = include_str!("../../data/surnames.txt");
const ROOTS: &str = include_str!("../../data/roots.txt");
const SECTORS: &str = include_str!("../../data/sectors.txt");
const LEGAL: &str = include_str!("../../data/legal.txt");

/// One name word in eight is held out.
pub(crate) fn name_split(word: &str) -> Split {
    if bucket(&word.to_lowercase(), 8) == 0 { Split::HeldOut } else { Split::Train }
}

/// The words that names of one split are made of.
#[derive(Debug)]
pub(crate) struct Names {
    split: Split,
    plain: bool,
    given: Vec<&'static str>,
    surnames: Vec<&'static str>,
    roots: Vec<&'static str>,
    sectors: Vec<&'static str>,
    legal: Vec<&'static str>,
}

impl Names {
    /// Names of a split; `plain` ones have fewer forms and trades, and no blended words.
    pub(crate) fn new(split: Split, plain: bool) -> Self {
        let own = |list: &'static str| list.split_whitespace().filter(|word| name_split(word) == split).collect();
        let shared = |list: &'static str| list.trim().split('|').collect::<Vec<_>>();
        let mut sectors = shared(SECTORS);
        sectors.truncate(if plain { 48 } else { sectors.len() });
        Self { split, plain, given: own(GIVEN), surnames: own(SURNAMES), roots: own(ROOTS), sectors, legal: shared(LEGAL) }
    }

    /// A person or a company.
    pub(crate) fn any(&self, rng: &mut ChaCha8Rng) -> String {
        if rng.random_ratio(3, 10) { self.person(rng) } else { self.company(rng) }
    }

    /// Given name and surname, as a rule.
    pub(crate) fn person(&self, rng: &mut ChaCha8Rng) -> String {
        let (given, surname) = (self.given(rng), self.surname(rng));
        if self.plain {
            return format!("{given} {surname}");
        }
        match rng.random_range(0..16) {
            0 => given,
            1 => format!("{given} {} {surname}", self.given(rng)),
            2 => format!("{given} {surname}-{}", self.surname(rng)),
            _ => format!("{given} {surname}"),
        }
    }

    fn company(&self, rng: &mut ChaCha8Rng) -> String {
        let (sector, legal) = (pick(&self.sectors, rng), pick(&self.legal, rng));
        match rng.random_range(0..if self.plain { 14 } else { 20 }) {
            0..3 => format!("{} {legal}", self.root(rng)),
            3..6 => format!("{} {sector}", self.root(rng)),
            6..8 => format!("{} {sector} {legal}", self.root(rng)),
            8..10 => self.root(rng),
            10 => format!("{} & {}", self.surname(rng), self.surname(rng)),
            11 => {
                const KIN: &[&str] = &["& Sons", "& Söhne", "& Partner", "and Partners", "Brothers", "& Co."];
                format!("{} {}", self.surname(rng), pick(KIN, rng))
            }
            12 => format!("{} {}", self.acronym(rng), if rng.random() { sector } else { legal }),
            13 => format!("{} {} {legal}", self.root(rng), self.root(rng)),
            14..16 => format!("{} {}", self.root(rng), self.root(rng)),
            16 => format!("{} {} {sector}", self.root(rng), self.root(rng)),
            17 => format!("{} {} {}", self.root(rng), self.root(rng), self.root(rng)),
            18 => format!("{sector} {}", self.surname(rng)),
            _ => format!("{} {sector} {legal}", self.person(rng)),
        }
    }

    fn given(&self, rng: &mut ChaCha8Rng) -> String {
        if !self.plain && rng.random_ratio(1, 3) { self.blended(&self.given, rng) } else { pick(&self.given, rng).to_owned() }
    }

    fn surname(&self, rng: &mut ChaCha8Rng) -> String {
        if self.plain {
            return if rng.random_ratio(1, 3) { self.invented(rng) } else { pick(&self.surnames, rng).to_owned() };
        }
        match rng.random_range(0..5) {
            0 => self.invented(rng),
            1 | 2 => self.blended(&self.surnames, rng),
            _ => pick(&self.surnames, rng).to_owned(),
        }
    }

    fn root(&self, rng: &mut ChaCha8Rng) -> String {
        if self.plain {
            return if rng.random_ratio(1, 2) { self.invented(rng) } else { pick(&self.roots, rng).to_owned() };
        }
        match rng.random_range(0..5) {
            0 => self.invented(rng),
            1 => self.blended(&self.roots, rng),
            2 => self.blended(&self.surnames, rng),
            _ => pick(&self.roots, rng).to_owned(),
        }
    }

    /// Two to four capital letters.
    fn acronym(&self, rng: &mut ChaCha8Rng) -> String {
        self.until_ours(rng, |rng| (0..rng.random_range(2..5)).map(|_| rng.random_range('A'..='Z')).collect())
    }

    /// The beginning of one word and the end of another.
    fn blended(&self, list: &[&'static str], rng: &mut ChaCha8Rng) -> String {
        self.until_ours(rng, |rng| {
            let (first, last): (Vec<char>, Vec<char>) = (pick(list, rng).chars().collect(), pick(list, rng).chars().collect());
            let (keep, skip) = (rng.random_range(2..6).min(first.len()), last.len().saturating_sub(rng.random_range(2..6)));
            first[..keep].iter().chain(&last[skip..]).collect::<String>().to_lowercase()
        })
    }

    /// A word of two syllables or three that no list has.
    fn invented(&self, rng: &mut ChaCha8Rng) -> String {
        const ONSETS: &[&str] = &[
            "b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pr", "r", "s", "sch", "st",
            "t", "tr", "v", "w", "x", "z", "",
        ];
        const VOWELS: &[&str] = &["a", "e", "i", "o", "u", "a", "e", "i", "o", "au", "ei", "ie", "ä", "ö", "ü", "é", "y"];
        const CODAS: &[&str] = &["", "", "", "n", "r", "l", "s", "x", "t", "m", "ck", "nd", "rt", "ng", "ll", "ss"];
        self.until_ours(rng, |rng| {
            let syllables = [2, 2, 2, 3][rng.random_range(0..4)];
            (0..syllables).flat_map(|_| [ONSETS, VOWELS, CODAS]).map(|list| pick(list, rng)).collect()
        })
    }

    fn until_ours(&self, rng: &mut ChaCha8Rng, make: impl Fn(&mut ChaCha8Rng) -> String) -> String {
        loop {
            let word = capitalised(&make(rng));
            if name_split(&word) == self.split {
                return word;
            }
        }
    }
}

/// The word with its first letter in upper case.
pub(crate) fn capitalised(word: &str) -> String {
    let mut rest = word.chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
}

fn pick(list: &[&'static str], rng: &mut ChaCha8Rng) -> &'static str {
    list.choose(rng).copied().unwrap_or_default()
}
