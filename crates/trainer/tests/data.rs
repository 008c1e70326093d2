//! The data is what it says it is: reproducible, held out, and true to its sentences.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use quern_trainer::{Facts, Generator, Question, Sample, Split, Vocabulary};
use serde_json::Value;

fn samples(seed: u64, split: Split, count: u64) -> Vec<Sample> {
    let generator = Generator::new(seed, split).unwrap();
    (0..count).map(|index| generator.sample(index).unwrap()).collect()
}

#[test]
fn the_same_seed_gives_the_same_sentences_and_another_gives_others() {
    for split in [Split::Train, Split::HeldOut] {
        let first = samples(1, split, 500);
        assert_eq!(first, samples(1, split, 500));
        let other = samples(2, split, 500);
        assert!(first.iter().zip(&other).filter(|(a, b)| a == b).count() < 5);
    }
}

#[test]
fn the_first_sentences_of_seed_one_are_those_the_model_was_trained_on() {
    // A change of the generator, its grammar or its random numbers is a change of the model: it must be trained again then.
    let text: String =
        samples(1, Split::Train, 5000).iter().map(|sample| format!("{} {}\n", sample.sentence, sample.facts.answer())).collect();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    assert_eq!(format!("{hash:016x}"), "bd2fb55a53383d1b");
}

/// The words of a name that are its own: neither a sector, nor a legal form, nor a conjunction.
fn own_words(name: &str) -> Vec<String> {
    let shared: BTreeSet<String> =
        [include_str!("../data/sectors.txt"), include_str!("../data/legal.txt"), "& and Sons Söhne Partner Partners Brothers Co."]
            .iter()
            .flat_map(|list| list.split(['|', ' ', '\n']))
            .map(str::to_lowercase)
            .collect();
    name.to_lowercase().split(' ').filter(|word| !shared.contains(*word)).map(str::to_owned).collect()
}

#[test]
fn no_name_word_combination_or_sentence_is_on_both_sides() {
    let (train, held_out) = (samples(1, Split::Train, 20_000), samples(1, Split::HeldOut, 5_000));
    let words = |samples: &[Sample]| samples.iter().filter_map(|s| s.facts.who.as_deref()).flat_map(own_words).collect::<BTreeSet<_>>();
    let combinations = |samples: &[Sample]| samples.iter().map(|sample| sample.combination.clone()).collect::<BTreeSet<_>>();
    let sentences = |samples: &[Sample]| samples.iter().map(|sample| sample.sentence.to_lowercase()).collect::<BTreeSet<_>>();
    assert!(words(&train).len() > 5_000 && words(&held_out).len() > 1_000);
    assert_eq!(words(&train).intersection(&words(&held_out)).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(combinations(&train).intersection(&combinations(&held_out)).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(sentences(&train).intersection(&sentences(&held_out)).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn every_answer_is_json_with_its_keys_in_order() {
    for sample in samples(3, Split::Train, 5_000) {
        let answer = sample.facts.answer();
        let parsed: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(parsed.as_object().unwrap().len(), 5, "{answer}");
        let places: Vec<_> = Facts::FIELDS.iter().map(|field| answer.find(&format!("\"{field}\":")).unwrap()).collect();
        assert!(places.is_sorted(), "{answer}");
        assert_eq!(parsed["who"].as_str(), sample.facts.who.as_deref());
        assert_eq!(parsed["amount"].is_number(), sample.facts.amount_cents.is_some());
        assert!(parsed["currency"].is_null() || parsed["amount"].is_number(), "a currency without an amount: {answer}");
    }
}

#[test]
fn every_field_can_be_read_off_the_sentence() {
    let mut seen = BTreeSet::new();
    for sample in samples(4, Split::Train, 20_000).into_iter().chain(samples(4, Split::HeldOut, 5_000)) {
        let (sentence, facts) = (&sample.sentence, &sample.facts);
        if let Some(who) = &facts.who {
            assert!(sentence.contains(who.as_str()), "{who} is not in: {sentence}");
        }
        if let Some(written) = &sample.amount_written {
            assert!(contains(sentence, written), "{written} is not in: {sentence}");
            assert_eq!(read_amount(written), facts.amount_cents, "{written}");
            assert_eq!(read_currency(written), facts.currency.as_deref(), "{written}");
        }
        if let Some(written) = &sample.date_written {
            assert!(contains(sentence, written), "{written} is not in: {sentence}");
            assert_eq!(Some(read_date(written)), facts.date, "{written}");
        }
        assert_eq!(sample.amount_written.is_some(), facts.amount_cents.is_some());
        assert_eq!(sample.date_written.is_some(), facts.date.is_some());
        seen.insert(sample.facts.what);
    }
    assert_eq!(seen.len(), 6, "five kinds and none: {seen:?}");
}

#[test]
fn any_text_has_ids_and_a_name_has_the_same_in_the_sentence_and_in_the_answer() {
    let samples = samples(1, Split::Train, 3_000);
    let vocabulary = Vocabulary::learn(600, &samples).unwrap();
    assert_eq!(vocabulary.to_json().unwrap(), Vocabulary::learn(600, &samples).unwrap().to_json().unwrap());
    for text in ["", "Acme zahlt 1.250,00 €", "日本語 🦀 \u{301}\u{7f}\n\t\"{\\", "{\"who\":\"EUR\",\"what\":null"] {
        assert_eq!(vocabulary.text(&vocabulary.answer(text).unwrap()).unwrap(), text);
    }
    let (prompt, answer) = (vocabulary.prompt("from Brakvelo Trading, 12").unwrap(), vocabulary.answer("\"Brakvelo Trading\"").unwrap());
    let name = &answer[1..answer.len() - 2];
    assert!(prompt.windows(name.len()).any(|ids| ids == name), "{name:?} is not in {prompt:?}");
}

/// Whether the sentence has the words; its first letter may have become a capital.
fn contains(sentence: &str, written: &str) -> bool {
    sentence.to_lowercase().contains(&written.to_lowercase())
}

/// Reads an amount by the rule of the generator's documentation, and by nothing else.
fn read_amount(written: &str) -> Option<u64> {
    let text = written.to_lowercase();
    let Some(start) = text.find(|c: char| c.is_ascii_digit()) else { return Some(read_words(&text)? * 100) };
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let (digits, rest) = (&text[start..end], text[end..].trim_start());
    let factor = if rest.starts_with("million") || rest.starts_with("mio.") {
        1_000_000
    } else if rest == "k" || rest.starts_with("k ") {
        1000
    } else {
        1
    };
    let parts: Vec<&str> = digits.split(|c: char| !c.is_ascii_digit()).collect();
    let whole = |parts: &[&str]| parts.concat().parse::<u64>().ok();
    let (last, before) = parts.split_last()?;
    match (last.len(), before.is_empty()) {
        (1 | 2, false) => Some((whole(before)? * 100 + last.parse::<u64>().ok()? * if last.len() == 1 { 10 } else { 1 }) * factor),
        _ => Some(whole(&parts)? * 100 * factor),
    }
}

/// Reads a number in English or German words.
fn read_words(text: &str) -> Option<u64> {
    const WORDS: [(&str, u64); 51] = [
        ("thousand", 1000),
        ("hundred", 100),
        ("tausend", 1000),
        ("hundert", 100),
        ("seventeen", 17),
        ("thirteen", 13),
        ("fourteen", 14),
        ("eighteen", 18),
        ("nineteen", 19),
        ("fifteen", 15),
        ("sixteen", 16),
        ("seventy", 70),
        ("twenty", 20),
        ("thirty", 30),
        ("eighty", 80),
        ("ninety", 90),
        ("eleven", 11),
        ("twelve", 12),
        ("sieben", 7),
        ("forty", 40),
        ("fifty", 50),
        ("sixty", 60),
        ("seven", 7),
        ("sechs", 6),
        ("three", 3),
        ("eight", 8),
        ("zwölf", 12),
        ("four", 4),
        ("five", 5),
        ("nine", 9),
        ("zwei", 2),
        ("drei", 3),
        ("vier", 4),
        ("fünf", 5),
        ("acht", 8),
        ("neun", 9),
        ("zehn", 10),
        ("one", 1),
        ("two", 2),
        ("six", 6),
        ("ten", 10),
        ("elf", 11),
        ("ein", 1),
        ("and", 0),
        ("-", 0),
        ("eur", u64::MAX),
        ("usd", u64::MAX),
        ("gbp", u64::MAX),
        ("chf", u64::MAX),
        ("sek", u64::MAX),
        ("pln", u64::MAX),
    ];
    let (mut total, mut group, mut rest) = (0, 0, text.trim_start_matches("eur "));
    while let Some((word, value)) = WORDS.iter().find(|(word, _)| rest.starts_with(word)) {
        match value {
            1000 => (total, group) = ((total + group) * 1000, 0),
            100 => group *= 100,
            &u64::MAX => break,
            value => group += value,
        }
        rest = rest[word.len()..].trim_start();
    }
    Some(total + group).filter(|number| *number > 0)
}

/// The currency a written amount names.
fn read_currency(written: &str) -> Option<&'static str> {
    let text = written.to_lowercase();
    [
        ("c$", "CAD"),
        ("ca$", "CAD"),
        ("cad", "CAD"),
        ("canadian", "CAD"),
        ("kanadische", "CAD"),
        ("a$", "AUD"),
        ("au$", "AUD"),
        ("aud", "AUD"),
        ("australi", "AUD"),
        ("australische", "AUD"),
        ("€", "EUR"),
        ("eur", "EUR"),
        ("$", "USD"),
        ("usd", "USD"),
        ("dollar", "USD"),
        ("£", "GBP"),
        ("gbp", "GBP"),
        ("pound", "GBP"),
        ("pfund", "GBP"),
        ("chf", "CHF"),
        ("fr.", "CHF"),
        ("franc", "CHF"),
        ("franken", "CHF"),
        ("kr", "SEK"),
        ("sek", "SEK"),
        ("zł", "PLN"),
        ("zloty", "PLN"),
        ("pln", "PLN"),
    ]
    .iter()
    .find(|(sign, code)| text.contains(sign) && !(*sign == "a$" && *code == "AUD" && text.contains("ca$")))
    .map(|(_, code)| *code)
}

/// Reads a date by the rule of the generator's documentation.
fn read_date(written: &str) -> String {
    const MONTHS: [&[&str]; 12] = [
        &["jan"],
        &["feb"],
        &["mar", "mär"],
        &["apr"],
        &["may", "mai"],
        &["jun"],
        &["jul"],
        &["aug"],
        &["sep"],
        &["oct", "okt"],
        &["nov"],
        &["dec", "dez"],
    ];
    let text = written.to_lowercase();
    let numbers: Vec<u32> = text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    let (year, month, day) = match (numbers.as_slice(), text.find(|c: char| c.is_ascii_digit()).unwrap()) {
        (&[day, year], _) => {
            let named =
                |names: &&[&str]| names.iter().any(|name| text.split(|c: char| !c.is_alphabetic()).any(|word| word.starts_with(name)));
            (year, MONTHS.iter().position(named).unwrap() as u32 + 1, day)
        }
        (&[year, month, day], _) if year > 31 => (year, month, day),
        (&[day, month, year], _) => (if year < 100 { 2000 + year } else { year }, month, day),
        (other, _) => panic!("{written}: {other:?}"),
    };
    format!("{year}-{month:02}-{day:02}")
}

#[test]
fn the_sentences_written_by_hand_have_answers_of_the_right_form() {
    for line in include_str!("../data/by_hand.jsonl").lines() {
        let Question { sentence, answer } = serde_json::from_str(line).unwrap();
        let parsed: Value = serde_json::from_str(&answer).unwrap();
        let text = |field: &str| parsed[field].as_str().map(str::to_owned);
        let cents = parsed["amount"].as_f64().map(|amount| (amount * 100.0).round() as u64);
        let facts = Facts { who: text("who"), what: text("what"), amount_cents: cents, currency: text("currency"), date: text("date") };
        assert_eq!(facts.answer(), answer);
        assert!(facts.who.is_none_or(|who| sentence.contains(&who)), "{line}");
    }
}
