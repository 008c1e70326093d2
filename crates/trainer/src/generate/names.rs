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
    given: Vec<&'static str>,
    surnames: Vec<&'static str>,
    roots: Vec<&'static str>,
    sectors: Vec<&'static str>,
    legal: Vec<&'static str>,
}

impl Names {
    pub(crate) fn new(split: Split) -> Self {
        let own = |list: &'static str| list.split_whitespace().filter(|word| name_split(word) == split).collect();
        let shared = |list: &'static str| list.trim().split('|').collect();
        Self { split, given: own(GIVEN), surnames: own(SURNAMES), roots: own(ROOTS), sectors: shared(SECTORS), legal: shared(LEGAL) }
    }

    /// A person or a company.
    pub(crate) fn any(&self, rng: &mut ChaCha8Rng) -> String {
        if rng.random_ratio(3, 10) { self.person(rng) } else { self.company(rng) }
    }

    /// Given name and surname.
    pub(crate) fn person(&self, rng: &mut ChaCha8Rng) -> String {
        format!("{} {}", pick(&self.given, rng), self.surname(rng))
    }

    fn company(&self, rng: &mut ChaCha8Rng) -> String {
        let (sector, legal) = (pick(&self.sectors, rng), pick(&self.legal, rng));
        match rng.random_range(0..14) {
            0..3 => format!("{} {legal}", self.root(rng)),
            3..6 => format!("{} {sector}", self.root(rng)),
            6..8 => format!("{} {sector} {legal}", self.root(rng)),
            8..10 => self.root(rng),
            10 => format!("{} & {}", self.surname(rng), self.surname(rng)),
            11 => format!(
                "{} {}",
                self.surname(rng),
                ["& Sons", "& Söhne", "& Partner", "and Partners", "Brothers", "& Co."].choose(rng).unwrap_or(&"")
            ),
            12 => format!("{} {}", self.acronym(rng), if rng.random() { sector } else { legal }),
            _ => format!("{} {} {legal}", self.root(rng), self.root(rng)),
        }
    }

    fn surname(&self, rng: &mut ChaCha8Rng) -> String {
        if rng.random_ratio(1, 3) { self.invented(rng) } else { pick(&self.surnames, rng).to_owned() }
    }

    fn root(&self, rng: &mut ChaCha8Rng) -> String {
        if rng.random_ratio(1, 2) { self.invented(rng) } else { pick(&self.roots, rng).to_owned() }
    }

    /// Two to four capital letters.
    fn acronym(&self, rng: &mut ChaCha8Rng) -> String {
        self.until_ours(rng, |rng| (0..rng.random_range(2..5)).map(|_| rng.random_range('A'..='Z')).collect())
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
            let mut word = String::new();
            for _ in 0..[2, 2, 2, 3][rng.random_range(0..4)] {
                for list in [ONSETS, VOWELS, CODAS] {
                    word += list.choose(rng).unwrap_or(&"");
                }
            }
            capitalised(&word)
        })
    }

    fn until_ours(&self, rng: &mut ChaCha8Rng, make: impl Fn(&mut ChaCha8Rng) -> String) -> String {
        loop {
            let word = make(rng);
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
