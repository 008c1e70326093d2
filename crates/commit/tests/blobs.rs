//! Blobs: what goes in comes out, and nothing else does.

use alloy_primitives::B256;
use proptest::{
    collection::vec,
    prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest},
};
use quern_commit::{
    blob::{BlobError, Expected, InputSet, OutputRecord, OutputSet},
    sum_tree::SumNode,
};
use quern_types::FinishReason;

fn expected_input(set: &InputSet) -> Expected {
    Expected { root: set.tree().expect("items").root(), leaves: u32::try_from(set.items().len()).expect("few") }
}

fn input() -> InputSet {
    InputSet::new(vec![vec![1, 2, 3], vec![], vec![u32::MAX]]).expect("items")
}

#[test]
fn input_blob_is_the_format_of_the_protocol() {
    let expected =
        [&b"QIN1"[..], &[0, 0, 0, 3], &[0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1], &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff]];
    assert_eq!(input().to_blob(), expected.concat());
    assert_eq!(expected_input(&input()).root.count, 4);
    assert!(InputSet::new(vec![]).is_err());
}

#[test]
fn output_blob_is_the_format_of_the_protocol() {
    let embed = OutputSet::Embed(vec![OutputRecord { reason: FinishReason::EmptyItem, elements: vec![-1, 2] }]);
    assert_eq!(embed.to_blob().expect("small"), [&b"QOU1\x01"[..], &[0, 0, 0, 1, 5, 0, 0, 0, 2, 0xff, 0xff, 0, 2]].concat());
    let generate = OutputSet::Generate { samples: 1, outputs: vec![OutputRecord { reason: FinishReason::Stop, elements: vec![9] }] };
    assert_eq!(generate.to_blob().expect("small"), [&b"QOU1\x02"[..], &[0, 0, 0, 1, 2, 0, 0, 0, 1, 0, 0, 0, 9]].concat());
}

#[test]
fn input_blob_cut_anywhere_or_with_anything_behind_it_is_refused() {
    let (blob, expected) = (input().to_blob(), expected_input(&input()));
    assert_eq!(InputSet::from_blob(&blob, &expected), Ok(input()));
    for len in 0..blob.len() {
        let error = InputSet::from_blob(&blob[..len], &expected).expect_err("cut");
        assert!(matches!(error, BlobError::Truncated { len: at, .. } if at == len), "{len}: {error}");
    }
    let longer = [&blob[..], &[0]].concat();
    assert_eq!(InputSet::from_blob(&longer, &expected), Err(BlobError::Trailing { end: blob.len(), extra: 1 }));
}

#[test]
fn input_blob_of_another_job_is_refused() {
    let (blob, expected) = (input().to_blob(), expected_input(&input()));
    let wrong = |root: SumNode, leaves| InputSet::from_blob(&blob, &Expected { root, leaves }).expect_err("another job");
    assert!(matches!(wrong(SumNode { hash: B256::ZERO, ..expected.root }, 3), BlobError::Root { .. }));
    assert!(matches!(wrong(SumNode { count: 5, ..expected.root }, 3), BlobError::Root { .. }));
    assert_eq!(wrong(expected.root, 4), BlobError::Leaves { what: "items", actual: 3, expected: 4 });
    let output = OutputSet::Embed(vec![]).to_blob().expect("small");
    assert_eq!(InputSet::from_blob(&output, &expected), Err(BlobError::Magic { actual: *b"QOU1", expected: "QIN1" }));
}

/// A few bytes that claim 2^32 - 1 of everything cost no memory.
#[test]
fn blobs_that_claim_more_than_they_hold_are_refused_at_once() {
    let expected = Expected { root: SumNode { hash: B256::ZERO, count: 0 }, leaves: u32::MAX };
    let items = [&b"QIN1"[..], &[0xff; 4], &[0xff; 64]].concat();
    let error = InputSet::from_blob(&items, &expected).expect_err("too short");
    assert_eq!(error, BlobError::Truncated { what: "the lengths", offset: 8, needed: 4 * u64::from(u32::MAX), len: 72 });
    let outputs = [&b"QOU1\x01"[..], &[0xff; 4], &[1], &[0xff; 4], &[0; 64]].concat();
    let error = OutputSet::from_blob(&outputs, 1, &expected).expect_err("too short");
    assert_eq!(error, BlobError::Truncated { what: "the elements of an output", offset: 14, needed: 2 * u64::from(u32::MAX), len: 78 });
}

#[test]
fn output_blob_with_an_unknown_kind_or_a_reason_of_the_other_kind_is_refused() {
    let expected = |leaves| Expected { root: SumNode { hash: B256::ZERO, count: 0 }, leaves };
    let read = |tail: &[u8]| OutputSet::from_blob(&[&b"QOU1"[..], tail].concat(), 1, &expected(1)).expect_err("refused");
    assert_eq!(read(&[3, 0, 0, 0, 1]), BlobError::Code { what: "output kind", offset: 4, code: 3 });
    for (kind, reason) in [(1, 0), (1, 2), (1, 3), (1, 4), (1, 8), (2, 0), (2, 1), (2, 8)] {
        let error = read(&[kind, 0, 0, 0, 1, reason, 0, 0, 0, 0]);
        assert_eq!(error, BlobError::Code { what: "finish reason of this kind", offset: 9, code: reason });
    }
    let none = OutputSet::from_blob(b"QOU1\x01\0\0\0\0", 1, &expected(0)).expect_err("no outputs");
    assert_eq!(none.to_string(), "a tree needs at least one leaf");
    let ragged = OutputSet::Generate { samples: 2, outputs: vec![OutputRecord { reason: FinishReason::Stop, elements: vec![] }] };
    assert_eq!(ragged.tree(), Err(BlobError::Samples { outputs: 1, samples: 2 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn input_blobs_round_trip(items in vec(vec(any::<u32>(), 0..20), 1..20)) {
        let set = InputSet::new(items).expect("items");
        prop_assert_eq!(InputSet::from_blob(&set.to_blob(), &expected_input(&set)), Ok(set));
    }

    /// No two blobs belong to one root: whatever byte is changed, the job's root no longer fits or the bytes are malformed.
    #[test]
    fn input_blobs_with_one_changed_byte_are_refused(items in vec(vec(any::<u32>(), 0..6), 1..6), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let set = InputSet::new(items).expect("items");
        let mut blob = set.to_blob();
        let at = at.index(blob.len());
        blob[at] ^= flip;
        prop_assert!(InputSet::from_blob(&blob, &expected_input(&set)).is_err());
    }

    #[test]
    fn output_blobs_round_trip_and_refuse_one_changed_byte(
        vectors in vec((prop::sample::select(vec![1u8, 5, 6, 7]), vec(any::<i16>(), 0..40)), 1..10), at in any::<prop::sample::Index>(), flip in 1..=255u8,
    ) {
        let record = |(code, elements)| OutputRecord { reason: FinishReason::try_from(code).expect("a reason"), elements };
        let set = OutputSet::Embed(vectors.into_iter().map(record).collect());
        let tree = set.tree().expect("outputs");
        let expected = Expected { root: tree.root(), leaves: u32::try_from(tree.leaves()).expect("few") };
        let mut blob = set.to_blob().expect("small");
        prop_assert_eq!(OutputSet::from_blob(&blob, 1, &expected), Ok(set));
        let at = at.index(blob.len());
        blob[at] ^= flip;
        prop_assert!(OutputSet::from_blob(&blob, 1, &expected).is_err());
    }

    #[test]
    fn generated_output_blobs_round_trip(outputs in vec((2..=7u8, vec(any::<u32>(), 0..9)), 4)) {
        let record = |(code, elements)| OutputRecord { reason: FinishReason::try_from(code).expect("a reason"), elements };
        let set = OutputSet::Generate { samples: 2, outputs: outputs.into_iter().map(record).collect() };
        let expected = Expected { root: set.tree().expect("outputs").root(), leaves: 4 };
        let blob = set.to_blob().expect("small");
        prop_assert_eq!(OutputSet::from_blob(&blob, 2, &expected), Ok(set));
        // Another number of samples is another job.
        prop_assert!(OutputSet::from_blob(&blob, 4, &expected).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..100), leaves in 0..3u32) {
        let expected = Expected { root: SumNode { hash: B256::ZERO, count: 0 }, leaves };
        prop_assert!(InputSet::from_blob(&[b"QIN1", &bytes[..]].concat(), &expected).is_err());
        prop_assert!(OutputSet::from_blob(&[b"QOU1", &bytes[..]].concat(), 1, &expected).is_err());
    }
}
