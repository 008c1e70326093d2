//! Decoders: the engine equals the plain definition to the bit, and nothing that is free can change a bit.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
};

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop_assert_eq, prop_oneof, proptest},
};
use quern_exact::{
    bounds,
    decoder::{Cache, Choose, Decoder, DecoderError, Model, OutputKey, Rule, Run, Workspace},
    header::{Header, NO_ID, flag},
    kernels::{Isa, Pool},
    reference,
    sample::{self, Generator},
};

fn pool(isa: Isa, threads: usize) -> Arc<Pool> {
    Arc::new(Pool::new(isa, NonZeroUsize::new(threads).expect("not zero")))
}

fn engine(model: &Model) -> Decoder {
    Decoder::new(model, pool(Isa::detect(), 1))
}

fn ids(header: &Header, seed: u64, len: usize) -> Vec<u32> {
    let mut generator = Generator::new(seed);
    (0..len).map(|_| u32::try_from(generator.within(0, i64::from(header.vocabulary) - 1)).expect("an id")).collect()
}

const KEY: OutputKey = OutputKey { item: 3, sample: 1 };

fn most(ids: u32) -> NonZeroU32 {
    NonZeroU32::new(ids).expect("not zero")
}

fn sampled(max_output: u32) -> Rule {
    Rule { max_output: most(max_output), stop_ids: [NO_ID; 8], temperature: 60_000, min_p: 1000, seed: [7; 32] }
}

/// N and the choices of all rows of a sequence, cut into runs of these lengths (over and over).
fn in_runs(decoder: &Decoder, rule: &Rule, ids: &[u32], lengths: &[usize]) -> (Vec<i32>, Vec<u32>) {
    let mut cache = decoder.cache(ids.len()).expect("memory");
    let mut work = Workspace::new(decoder.header(), ids.len());
    let (mut rows, mut choices, mut rest) = (Vec::new(), Vec::new(), ids);
    for &length in lengths.iter().cycle() {
        let (now, later) = rest.split_at(length.min(rest.len()));
        let run = Run { cache: &mut cache, ids: now, choose: Some(Choose { rule, key: KEY, from: 0 }) };
        decoder.step(&mut work, &mut [run]).expect("a legal run");
        rows.extend_from_slice(work.norm_rows());
        choices.extend(work.choices().iter().map(|choice| choice.expect("asked for")));
        rest = later;
        if rest.is_empty() {
            return (rows, choices);
        }
    }
    unreachable!("lengths are not empty")
}

fn plain(model: &Model, rule: &Rule, ids: &[u32]) -> (Vec<i32>, Vec<u32>) {
    let rows = reference::norm_rows(model, ids);
    let choose = |(position, row): (usize, &[i32])| {
        rule.choose(KEY, u32::try_from(position).expect("small"), &reference::logits(model, row))
    };
    (rows.data().to_vec(), rows.iter_rows().enumerate().map(choose).collect())
}

/// Every variant that the release runs, with odd sizes.
fn header() -> impl Strategy<Value = Header> {
    let heads = (1..4u32, 1..4u32, prop_oneof![Just(1u32), Just(2), Just(5), Just(12), Just(16), Just(33)]);
    let sizes = (prop_oneof![1..50u32, Just(130)], prop_oneof![1..40u32, 125..140u32], 1..3u32, 1..70u32);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let rest = (
        prop_oneof![Just(0), 1..20u32],
        0..=2u32,
        1..=3u32,
        prop_oneof![Just(0), 1..100_000u32, Just(bounds::EMBEDDING_SCALE)],
        prop_oneof![Just(0), 0..1_000_000u64, Just(bounds::EPSILON)],
        prop_oneof![1..=bounds::SCORE_SCALE, 1..5_000_000u32],
    );
    (heads, sizes, flags, rest).prop_map(
        |((kv_heads, per_kv, head_dim), (dim, ffn, layers, vocabulary), (qkv, out, norm, tied), (window, rotary, activation, scale, epsilon, c))| {
            let bits = [(qkv, flag::QKV_BIAS), (out, flag::OUTPUT_BIAS), (norm, flag::QK_NORM), (tied, flag::TIED_HEAD)];
            let flags = bits.iter().filter(|(set, _)| *set).fold(flag::GATED_FFN | flag::CAUSAL, |flags, (_, bit)| flags | bit);
            Header {
                vocabulary,
                dim,
                layers,
                heads: kv_heads * per_kv,
                kv_heads,
                head_dim,
                ffn,
                window,
                epsilon,
                score_scale: c,
                activation,
                flags,
                embedding_scale: scale,
                // None, half, or all.
                rotary_dims: head_dim * rotary / 4 * 2,
                ..sample::small_decoder_header()
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn engine_equals_plain_ops_for_every_variant_and_every_cut(
        header in header(), seed in any::<u64>(), len in 1..20usize, lengths in vec(1..8usize, 1..4), temperature in prop_oneof![Just(0), Just(65_536), any::<u32>()],
    ) {
        let model = sample::decoder(&header, seed).expect("a valid header");
        let rule = Rule { temperature, ..sampled(5) };
        let ids = ids(&header, seed, len);
        let expected = plain(&model, &rule, &ids);
        for isa in Isa::available() {
            for threads in [1, 2] {
                let decoder = Decoder::new(&model, pool(isa, threads));
                prop_assert_eq!(&in_runs(&decoder, &rule, &ids, &lengths), &expected);
            }
        }
    }
}

#[test]
fn a_step_refuses_what_it_cannot_compute_and_changes_nothing() {
    let model = sample::decoder(&sample::small_decoder_header(), 1).expect("a valid header");
    let decoder = engine(&model);
    let mut cache = decoder.cache(4).expect("memory");
    let mut work = Workspace::new(decoder.header(), 3);
    let mut refused = |cache: &mut Cache, ids: &[u32]| {
        decoder.step(&mut work, &mut [Run { cache, ids, choose: None }]).expect_err("refused")
    };
    assert_eq!(refused(&mut cache, &[]), DecoderError::NoIds);
    assert_eq!(refused(&mut cache, &[1; 4]), DecoderError::TooManyRows { rows: 4, limit: 3 });
    assert_eq!(refused(&mut cache, &[1, 100]), DecoderError::UnknownId { id: 100, vocabulary: 100 });
    let other = sample::decoder(&Header { layers: 1, ..sample::small_decoder_header() }, 1).expect("a valid header");
    assert_eq!(refused(&mut engine(&other).cache(4).expect("memory"), &[1]), DecoderError::ForeignCache);
    assert!(cache.is_empty());
    decoder.step(&mut work, &mut [Run { cache: &mut cache, ids: &[1, 2], choose: None }]).expect("a legal run");
    assert_eq!((cache.len(), work.choices()), (2, &[None, None][..]));
    let error = decoder.step(&mut work, &mut [Run { cache: &mut cache, ids: &[1, 2, 3], choose: None }]).expect_err("refused");
    assert_eq!(error, DecoderError::CacheFull { len: 2, ids: 3, capacity: 4 });
    assert_eq!(cache.len(), 2);
}
