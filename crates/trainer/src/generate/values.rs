//! Amounts of money and dates, in the forms people write them.

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::Language;

/// A currency: ISO 4217 code, symbols, words in English, words in German.
pub(crate) struct Currency {
    pub(crate) code: &'static str,
    symbols: Words,
    english: Words,
    german: Words,
    /// How often, of 100.
    weight: u32,
}

type Words = &'static [&'static str];

const fn currency(code: &'static str, weight: u32, symbols: Words, english: Words, german: Words) -> Currency {
    Currency { code, symbols, english, german, weight }
}

pub(crate) const CURRENCIES: &[Currency] = &[
    currency("EUR", 36, &["€"], &["euros", "euro"], &["Euro"]),
    currency("USD", 28, &["$", "$", "US$"], &["dollars", "US dollars"], &["Dollar", "US-Dollar"]),
    currency("GBP", 14, &["£"], &["pounds", "pounds sterling", "British pounds"], &["Pfund", "britische Pfund"]),
    currency("CHF", 10, &["Fr.", "SFr."], &["Swiss francs", "francs"], &["Franken", "Schweizer Franken"]),
    currency("SEK", 3, &["kr"], &["Swedish kronor", "kronor"], &["schwedische Kronen", "Kronen"]),
    currency("PLN", 3, &["zł"], &["zloty", "Polish zloty"], &["Zloty"]),
    currency("CAD", 3, &["C$", "CA$"], &["Canadian dollars"], &["kanadische Dollar"]),
    currency("AUD", 3, &["A$", "AU$"], &["Australian dollars"], &["australische Dollar"]),
];

/// An amount and the way it is written.
pub(crate) struct Money {
    pub(crate) cents: u64,
    pub(crate) currency: Option<&'static str>,
    pub(crate) written: String,
    /// Name of the form: the number's and the currency's.
    pub(crate) form: String,
}

impl Money {
    pub(crate) fn random(language: Language, rng: &mut ChaCha8Rng) -> Self {
        let (cents, number, form) = number(language, rng);
        let in_words = form == "words";
        if rng.random_ratio(1, 10) {
            return Self { cents, currency: None, written: number, form: format!("{form} bare") };
        }
        let mut ticket = rng.random_range(0..100);
        let currency = CURRENCIES
            .iter()
            .find(|currency| {
                let ours = ticket < currency.weight;
                ticket = ticket.saturating_sub(currency.weight);
                ours
            })
            .unwrap_or(&CURRENCIES[0]);
        let names = match language {
            Language::English => currency.english,
            Language::German => currency.german,
        };
        let symbol = one_of(currency.symbols, rng);
        let letters = symbol.ends_with(|c: char| c.is_alphabetic() || c == '.');
        let (written, place) = match rng.random_range(0..if in_words { 4 } else { 12 }) {
            0..3 => (format!("{number} {}", one_of(names, rng)), "word"),
            3..6 => (format!("{number} {}", currency.code), "code after"),
            6..8 => (format!("{} {number}", currency.code), "code before"),
            8 if letters || language == Language::German => (format!("{number} {symbol}"), "symbol after"),
            9 if language == Language::German => (format!("{number}{symbol}"), "symbol touching after"),
            8..10 => (format!("{symbol} {number}"), "symbol before"),
            _ if letters => (format!("{symbol} {number}"), "symbol before"),
            _ => (format!("{symbol}{number}"), "symbol touching before"),
        };
        Self { cents, currency: Some(currency.code), written, form: format!("{form} {place}") }
    }
}

/// A number in cents, as it is written, and the name of its form.
fn number(language: Language, rng: &mut ChaCha8Rng) -> (u64, String, &'static str) {
    let english = language == Language::English;
    let ticket = rng.random_range(0..100);
    if ticket < 10 {
        let (units, words) = if english { english_words(rng) } else { german_words(rng) };
        return (units * 100, words, "words");
    }
    if ticket < 14 {
        let tenths = rng.random_range(11..400);
        let text = decimal(tenths, 1, if english { '.' } else { ',' });
        return if english && rng.random_ratio(2, 3) {
            (tenths * 10_000, format!("{text}{}", one_of(&["k", "K"], rng)), "thousands")
        } else {
            (tenths * 10_000_000, format!("{text} {}", if english { "million" } else { "Mio." }), "millions")
        };
    }
    let cents = random_cents(rng);
    let (whole, rest) = (cents / 100, cents % 100);
    let style = match rng.random_range(0..10) {
        0..6 => {
            if english {
                Some((',', '.'))
            } else {
                Some(('.', ','))
            }
        }
        6 => {
            if english {
                Some(('.', ','))
            } else {
                Some((',', '.'))
            }
        }
        7 => Some((' ', if english { '.' } else { ',' })),
        8 => Some(('\'', '.')),
        _ => None,
    };
    // An amount of a thousand and more is grouped, or not.
    let grouping = style.filter(|_| rng.random_ratio(2, 3)).map(|(group, _)| group);
    let point = style.map_or('.', |(_, point)| point);
    let digits = grouping.map_or_else(|| whole.to_string(), |group| grouped(whole, group));
    let with_cents = rest > 0 || rng.random_ratio(2, 5);
    let text = if with_cents { format!("{digits}{point}{rest:02}") } else { digits };
    let form = match (grouping.filter(|_| whole >= 1000), with_cents.then_some(point)) {
        (None, None) => "plain",
        (None, Some('.')) => "plain point",
        (None, Some(_)) => "plain comma",
        (Some(','), _) => "comma groups",
        (Some('.'), _) => "point groups",
        (Some(' '), _) => "space groups",
        (Some(_), _) => "apostrophe groups",
    };
    (cents, text, form)
}

/// Between 1.00 and 5 million, every magnitude equally often, round ones more often than not.
fn random_cents(rng: &mut ChaCha8Rng) -> u64 {
    let digits = rng.random_range(1..=6);
    let whole = rng.random_range(10_u64.pow(digits - 1)..10_u64.pow(digits) * if digits == 6 { 5 } else { 1 });
    match rng.random_range(0..10) {
        0..3 => whole * 100 + rng.random_range(0..100),
        3 => whole * 100 + [50, 99, 95, 90, 25][rng.random_range(0..5)],
        4..7 => whole * 100,
        _ => (whole - whole % [5, 10, 50, 100][rng.random_range(0..4)]).max(5) * 100,
    }
}

fn grouped(whole: u64, group: char) -> String {
    let digits = whole.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(group);
        }
        text.push(digit);
    }
    text
}

/// `value` with `places` decimals; none written where they are all zero.
fn decimal(value: u64, places: u32, point: char) -> String {
    let unit = 10_u64.pow(places);
    if value.is_multiple_of(unit) { format!("{}", value / unit) } else { format!("{}{point}{}", value / unit, value % unit) }
}

const ONES: [&str; 20] = [
    "",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

fn english_words(rng: &mut ChaCha8Rng) -> (u64, String) {
    let and = if rng.random() { "and " } else { "" };
    match rng.random_range(0..5) {
        0 => {
            let hundreds = [11, 12, 13, 14, 15, 16, 17, 18, 19, 24, 25, 35, 45][rng.random_range(0..13)];
            (hundreds * 100, format!("{} hundred", below_thousand(hundreds, and)))
        }
        1 => {
            let thousands = rng.random_range(1..100);
            (thousands * 1000, format!("{} thousand", below_thousand(thousands, and)))
        }
        2 => {
            let (thousands, rest) = (rng.random_range(1..30), rng.random_range(1..20) * 50);
            let joint = if rest < 100 { and } else { "" };
            (thousands * 1000 + rest, format!("{} thousand {joint}{}", below_thousand(thousands, and), below_thousand(rest, and)))
        }
        _ => {
            let units = rng.random_range(2..1000);
            (units, below_thousand(units, and))
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "below 1000")]
fn below_thousand(value: u64, and: &str) -> String {
    let mut words = Vec::new();
    if value >= 100 {
        words.push(format!("{} hundred", ONES[(value / 100) as usize]));
    }
    let rest = (value % 100) as usize;
    if rest > 0 {
        let tail = match (rest / 10, rest % 10) {
            (0 | 1, _) => ONES[rest].to_owned(),
            (tens, 0) => TENS[tens].to_owned(),
            (tens, ones) => format!("{}-{}", TENS[tens], ONES[ones]),
        };
        words.push(if value >= 100 { format!("{and}{tail}") } else { tail });
    }
    words.join(" ")
}

fn german_words(rng: &mut ChaCha8Rng) -> (u64, String) {
    const WORDS: [&str; 13] = ["", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"];
    let (many, few) = (rng.random_range(1..13), rng.random_range(1..10));
    match rng.random_range(0..3) {
        0 => (many * 100, format!("{}hundert", WORDS[usize::try_from(many).unwrap_or(1)])),
        1 => (many * 1000, format!("{}tausend", WORDS[usize::try_from(many).unwrap_or(1)])),
        _ => (
            many * 1000 + few * 100,
            format!("{}tausend{}hundert", WORDS[usize::try_from(many).unwrap_or(1)], WORDS[usize::try_from(few).unwrap_or(1)]),
        ),
    }
}

/// A day, and the way it is written.
#[derive(Clone, Debug)]
pub(crate) struct Day {
    /// YYYY-MM-DD.
    pub(crate) iso: String,
    pub(crate) written: String,
    /// Name of the form.
    pub(crate) form: &'static str,
}

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const MONATE: [&str; 12] =
    ["Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November", "Dezember"];
const SHORT: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Day {
    /// A day of the years 2010 to 2039. Days come before months wherever both are numbers, but in ISO 8601.
    pub(crate) fn random(language: Language, rng: &mut ChaCha8Rng) -> Self {
        let (y, m) = (rng.random_range(2010..2040), rng.random_range(1..=12_usize));
        let length = [31, if y % 4 == 0 { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][m - 1];
        let d = rng.random_range(1..=length);
        let (short, long) = (y % 100, MONTHS[m - 1]);
        let nth = match d {
            1 | 21 | 31 => "st",
            2 | 22 => "nd",
            3 | 23 => "rd",
            _ => "th",
        };
        let monat = MONATE[m - 1];
        let (written, form) = match (language, rng.random_range(0..14)) {
            (_, 0 | 1) => (format!("{y}-{m:02}-{d:02}"), "iso"),
            (_, 2) => (format!("{d:02}.{m:02}.{y}"), "points"),
            (_, 3) => (format!("{d}.{m}.{y}"), "short points"),
            (Language::English, 4) => (format!("{d:02}/{m:02}/{y}"), "slashes"),
            (Language::English, 5) => (format!("{d}/{m}/{y}"), "short slashes"),
            (Language::English, 6 | 7) => (format!("{long} {d}, {y}"), "month first"),
            (Language::English, 8) => (format!("{d} {long} {y}"), "day first"),
            (Language::English, 9) => (format!("{d}{nth} {long} {y}"), "ordinal"),
            (Language::English, 10) => (format!("the {d}{nth} of {long} {y}"), "the ordinal of"),
            (Language::English, 11) => (format!("{d} {} {y}", SHORT[m - 1]), "short month"),
            (Language::English, 12) => (format!("{} {d}, {y}", SHORT[m - 1]), "short month first"),
            (Language::English, _) => (format!("{long} {d}{nth}, {y}"), "month first ordinal"),
            (Language::German, 4) => (format!("{d:02}.{m:02}.{short:02}"), "points, short year"),
            (Language::German, 5..11) => (format!("{d}. {monat} {y}"), "day first"),
            (Language::German, _) => (format!("{d:02}.{m:02}.{y}"), "points"),
        };
        Self { iso: format!("{y}-{m:02}-{d:02}"), written, form }
    }
}

pub(crate) fn one_of(list: &[&'static str], rng: &mut ChaCha8Rng) -> &'static str {
    list.choose(rng).copied().unwrap_or_default()
}
