//! The small model that ships: what it says on sentences that it was never shown.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
};

use quern_exact::kernels::{Isa, Pool};
use quern_model::{Accuracy, DecoderReference, Package, Question, accuracy, right};
use quern_testkit::{extractor_package, repository};
use quern_trainer::{Generator, Split};

/// Sentences of the test; `quern model accuracy` over 2,000 is behind the figure in crates/trainer/README.md.
const SENTENCES: u64 = 500;

fn questions() -> Vec<Question> {
    let generator = Generator::new(1, Split::HeldOut).unwrap();
    let question = |index| {
        let sample = generator.sample(index).unwrap();
        Question { prompt: sample.sentence.clone(), answer: sample.facts.answer() }
    };
    (0..SENTENCES).map(question).collect()
}

#[test]
fn shipped_extractor_answers_95_of_100_held_out_sentences_exactly_and_in_floats() {
    let package = Package::open(&extractor_package().unwrap()).unwrap();
    let reference = DecoderReference::open(&repository().join("crates/trainer/extractor")).unwrap();
    let pool = Arc::new(Pool::new(Isa::detect(), NonZeroUsize::new(2).unwrap()));
    let longest = NonZeroU32::new(96).unwrap();
    let Accuracy { exact, float } = accuracy(&package, Some(&reference), &questions(), longest, &pool, &|| true).unwrap();
    let (exact_right, float) = (right(&exact), float.unwrap());
    assert!(exact_right * 100 >= 95 * exact.len(), "{exact_right} of {}", exact.len());
    // 0.2 points of 500 are one sentence.
    assert!(exact_right.abs_diff(right(&float)) <= 1, "{exact_right} exactly, {} in floats", right(&float));
}

#[test]
fn shipped_checkpoint_converts_to_the_shipped_package() {
    let shipped = Package::open(&extractor_package().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let made = Package::import(&repository().join("crates/trainer/extractor"), &folder.path().join("m.quern"), false).unwrap();
    assert_eq!(made.root(), shipped.root());
    assert_eq!(shipped.verify().unwrap(), made.root());
}
