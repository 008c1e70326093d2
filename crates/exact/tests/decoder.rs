//! Decoders: the engine equals the plain definition to the bit, and nothing that is free can change a bit.

use std::{
    collections::BTreeMap,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
};

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest},
};
use quern_exact::{
    bounds,
    decoder::{
        Batch, Cache, Choose, Decoder, DecoderError, DecoderWeights, Departure, Event, Expected, Given, Model, OutputKey, PackedWeights,
        Rule, Run, Ticket, Workspace,
    },
    format::{Q8Matrix, TableI32, VectorI32},
    header::{Header, NO_ID, flag},
    kernels::{Isa, Packed, Pool},
    layout::{PackedTensor, Tensor, TensorName, TensorRef, TensorShape, tensor_specs},
    reference,
    sample::{self, Generator},
};
use quern_types::FinishReason;

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
    let choose =
        |(position, row): (usize, &[i32])| rule.choose(KEY, u32::try_from(position).expect("small"), &reference::logits(model, row));
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
        |(
            (kv_heads, per_kv, head_dim),
            (dim, ffn, layers, vocabulary),
            (qkv, out, norm, tied),
            (window, rotary, activation, scale, epsilon, c),
        )| {
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
        header in header(), seed in any::<u64>(), len in 1..20usize, lengths in vec(1..20usize, 1..4), temperature in prop_oneof![Just(0), Just(65_536), any::<u32>()],
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
    let mut refused =
        |cache: &mut Cache, ids: &[u32]| decoder.step(&mut work, &mut [Run { cache, ids, choose: None }]).expect_err("refused");
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

const NONE: [u32; 8] = [NO_ID; 8];

fn items(header: &Header, seed: u64) -> Vec<Vec<u32>> {
    let context = header.context as usize;
    let mut items: Vec<Vec<u32>> = [1, 2, 7, 19, context - 1, context].iter().map(|&len| ids(header, seed + len as u64, len)).collect();
    items.extend([vec![], vec![0; context + 1], vec![1, header.vocabulary], vec![u32::MAX]]);
    items
}

#[test]
fn generation_equals_the_plain_definition_for_every_kind_of_item_and_rule() {
    for flags in [0, flag::TIED_HEAD, flag::QK_NORM | flag::QKV_BIAS] {
        let header = Header { flags: flags | flag::GATED_FFN | flag::CAUSAL, window: 5, ..sample::small_decoder_header() };
        let model = sample::decoder(&header, 2).expect("a valid header");
        let decoder = engine(&model);
        let greedy = Rule::greedy(most(6), NONE);
        let hot = Rule { temperature: u32::MAX, min_p: 0, ..sampled(9) };
        let cold = Rule { temperature: 1, min_p: u32::MAX, ..sampled(3) };
        // Most ids are stop ids of some sequence.
        let stops = Rule { stop_ids: [1, 5, 40, 41, 42, 99, 0, 17], ..hot.clone() };
        for item in items(&header, 3) {
            for rule in [&greedy, &sampled(100), &hot, &cold, &stops, &sampled(1)] {
                let generated = decoder.generate(&item, rule, KEY).expect("memory");
                assert_eq!(generated, reference::generate(&model, &item, rule, KEY), "{} ids, {rule:?}", item.len());
            }
        }
    }
}

#[test]
fn reasons_come_in_their_order_and_the_stop_id_is_output() {
    let header = sample::small_decoder_header();
    let model = sample::decoder(&header, 4).expect("a valid header");
    let decoder = engine(&model);
    let generate = |len: usize, rule: &Rule| decoder.generate(&ids(&header, 5, len), rule, KEY).expect("memory");
    let context = header.context as usize;

    let four = generate(3, &Rule::greedy(most(4), NONE));
    assert_eq!((four.reason, four.ids.len(), four.norm_rows.rows()), (FinishReason::MaxOutput, 4, 6));
    // A full context still gives the one id that its last position chooses.
    let full = generate(context, &Rule::greedy(most(4), NONE));
    assert_eq!((full.reason, full.ids.len(), full.norm_rows.rows()), (FinishReason::Context, 1, context));
    let nearly = generate(context - 2, &Rule::greedy(most(4), NONE));
    assert_eq!((nearly.reason, nearly.ids.len(), nearly.norm_rows.rows()), (FinishReason::Context, 3, context));

    // All three at once: the stop id wins, then maxOutput.
    let stop = |id: u32| [NO_ID, NO_ID, NO_ID, id, NO_ID, NO_ID, NO_ID, NO_ID];
    let last = full.ids[0];
    assert_eq!(generate(context, &Rule::greedy(most(1), stop(last))).reason, FinishReason::Stop);
    assert_eq!(generate(context, &Rule::greedy(most(1), NONE)).reason, FinishReason::MaxOutput);
    let stopped = generate(3, &Rule::greedy(most(4), stop(four.ids[1])));
    let end = four.ids.iter().position(|id| *id == four.ids[1]).expect("in it") + 1;
    assert_eq!((stopped.reason, &stopped.ids[..]), (FinishReason::Stop, &four.ids[..end]));

    let refused = |item: &[u32]| {
        let generated = decoder.generate(item, &sampled(4), KEY).expect("memory");
        assert!(generated.ids.is_empty() && generated.norm_rows.rows() == 0);
        generated.reason
    };
    assert_eq!(refused(&[]), FinishReason::EmptyItem);
    assert_eq!(refused(&vec![u32::MAX; context + 1]), FinishReason::ItemTooLong);
    assert_eq!(refused(&[0, header.vocabulary]), FinishReason::UnknownId);
}

/// What a batch made of each of its sequences.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Seen {
    rows: Vec<i32>,
    ids: Vec<u32>,
    end: Option<FinishReason>,
}

struct Watched {
    batch: Batch,
    seen: BTreeMap<Ticket, Seen>,
}

impl Watched {
    fn new(decoder: &Decoder, rows: usize) -> Self {
        Self { batch: Batch::new(decoder.clone(), rows), seen: BTreeMap::new() }
    }

    fn join(&mut self, item: &[u32], rule: &Rule, key: OutputKey) -> Ticket {
        let ticket = self.batch.join(item, rule.clone(), key).expect("memory");
        self.seen.insert(ticket, Seen::default());
        ticket
    }

    fn step(&mut self) -> usize {
        let (seen, dim) = (&mut self.seen, 48);
        let rows = self.batch.step(|event| match event {
            Event::Rows { ticket, first, rows } => {
                let seen = seen.get_mut(&ticket).expect("joined");
                assert_eq!((seen.rows.len(), seen.end), (first * dim, None), "rows come in order, and before the end");
                seen.rows.extend_from_slice(rows);
            }
            Event::Id { ticket, id } => seen.get_mut(&ticket).expect("joined").ids.push(id),
            Event::End { ticket, reason } => assert_eq!(seen.get_mut(&ticket).expect("joined").end.replace(reason), None, "one end"),
        });
        rows.expect("a step of joined sequences")
    }
}

fn alone(decoder: &Decoder, item: &[u32], rule: &Rule, key: OutputKey) -> Seen {
    let generated = decoder.generate(item, rule, key).expect("memory");
    Seen { rows: generated.norm_rows.data().to_vec(), ids: generated.ids, end: Some(generated.reason) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Items join at any step, some leave before their end, steps have few or many rows: every output is the one that it is alone.
    #[test]
    fn outputs_are_the_same_whoever_shares_the_batch(
        seed in any::<u64>(), limit in 1..40usize, threads in 1..3usize,
        plans in vec((0..30usize, 0..45usize, 1..12u32, prop_oneof![Just(0u32), Just(65_536)], prop_oneof![3 => Just(usize::MAX), 1 => 0..20usize]), 1..9),
    ) {
        let header = Header { window: 7, ..sample::small_decoder_header() };
        let model = sample::decoder(&header, 6).expect("a valid header");
        let decoder = Decoder::new(&model, pool(Isa::detect(), threads));
        let mut watched = Watched::new(&decoder, limit);
        let mut expected = BTreeMap::new();
        let mut leaving = Vec::new();
        for step in 0..400 {
            for (at, &(join, len, max_output, temperature, leave)) in plans.iter().enumerate() {
                if join == step {
                    let (item, rule) = (ids(&header, seed.wrapping_add(at as u64), len), Rule { temperature, ..sampled(max_output) });
                    let key = OutputKey { item: u32::try_from(at).expect("few"), sample: 2 };
                    let ticket = watched.join(&item, &rule, key);
                    expected.insert(ticket, alone(&decoder, &item, &rule, key));
                    leaving.push((ticket, step.saturating_add(leave)));
                }
            }
            for (ticket, _) in leaving.extract_if(.., |(_, when)| *when == step) {
                let left = watched.batch.leave(ticket);
                let seen = &watched.seen[&ticket];
                prop_assert!(seen.end.is_none() || left.is_none());
                // What it had is the beginning of what it would have been.
                let expected = &expected[&ticket];
                prop_assert!(expected.rows.starts_with(&seen.rows) && expected.ids.starts_with(&seen.ids));
                if seen.end.is_none() {
                    watched.seen.insert(ticket, expected.clone());
                }
            }
            prop_assert!(watched.step() <= limit);
        }
        prop_assert!(watched.batch.is_empty(), "all have ended");
        prop_assert_eq!(&watched.seen, &expected);
    }

    #[test]
    fn checking_agrees_with_generation_and_names_the_first_departure(
        seed in any::<u64>(), len in 1..40usize, max_output in 1..20u32, temperature in prop_oneof![Just(0u32), Just(65_536), Just(500_000)],
        rows in 1..50usize, change in (0..20usize, any::<u32>()),
    ) {
        let header = sample::small_decoder_header();
        let model = sample::decoder(&header, 7).expect("a valid header");
        let decoder = engine(&model);
        let rule = Rule { temperature, stop_ids: [1, 2, 3, 4, 5, 6, 7, 8], ..sampled(max_output) };
        let item = ids(&header, seed, len);
        let right = decoder.generate(&item, &rule, KEY).expect("memory");
        let mut work = Workspace::new(&header, rows);
        let mut check = |ids: &[u32], reason| {
            let mut norm_rows = Vec::new();
            let departure = decoder.check(&mut work, &item, &rule, KEY, &Given { ids, reason }, |first, rows| {
                assert_eq!(norm_rows.len(), first * 48);
                norm_rows.extend_from_slice(rows);
            });
            (departure.expect("memory"), norm_rows)
        };
        prop_assert_eq!(check(&right.ids, right.reason), (None, right.norm_rows.data().to_vec()));

        let count = right.ids.len();
        let end = Departure { at: count, expected: Expected::End(right.reason) };
        // Another reason, however impossible.
        for reason in [1u8, 2, 3, 4, 5, 6, 7].map(|code| FinishReason::try_from(code).expect("a reason")) {
            prop_assert_eq!(check(&right.ids, reason).0, (reason != right.reason).then_some(end));
        }
        // Cut short, at any length.
        for cut in 0..count {
            let expected = Departure { at: cut, expected: Expected::Id(right.ids[cut]) };
            prop_assert_eq!(check(&right.ids[..cut], right.reason).0, Some(expected));
        }
        // Too long, by an id that might be one and by one that is none.
        for more in [0, u32::MAX] {
            let long = [&right.ids[..], &[more]].concat();
            prop_assert_eq!(check(&long, right.reason).0, Some(end));
        }
        // One id changed, to any other: a stop id, an ordinary one, one outside the vocabulary.
        let (at, other) = (change.0 % count, change.1);
        for other in [other, other % header.vocabulary, 1, NO_ID] {
            if other != right.ids[at] {
                let mut wrong = right.ids.clone();
                wrong[at] = other;
                let expected = Departure { at, expected: Expected::Id(right.ids[at]) };
                prop_assert_eq!(check(&wrong, right.reason).0, Some(expected));
            }
        }
    }
}

#[test]
fn checking_an_item_that_is_not_computed_takes_no_output_and_its_reason_only() {
    let model = sample::decoder(&sample::small_decoder_header(), 1).expect("a valid header");
    let decoder = engine(&model);
    let mut work = Workspace::new(decoder.header(), 4);
    let mut check = |ids: &[u32], reason| {
        let given = Given { ids, reason };
        decoder.check(&mut work, &[5, 100], &sampled(3), KEY, &given, |_, _| panic!("no rows")).expect("memory")
    };
    let departure = Some(Departure { at: 0, expected: Expected::End(FinishReason::UnknownId) });
    assert_eq!(check(&[], FinishReason::UnknownId), None);
    assert_eq!(check(&[], FinishReason::EmptyItem), departure);
    assert_eq!(check(&[5], FinishReason::UnknownId), departure);
}

#[test]
fn samples_of_an_item_share_its_cache() {
    let header = sample::small_decoder_header();
    let model = sample::decoder(&header, 8).expect("a valid header");
    let decoder = engine(&model);
    let (item, rule) = (ids(&header, 9, 11), sampled(8));
    let mut work = Workspace::new(&header, 4);
    let mut prefix = decoder.cache(18).expect("memory");
    let mut rows = Vec::new();
    decoder.prefill(&mut work, &mut prefix, &item[..10], |_, more| rows.extend_from_slice(more)).expect("legal ids");
    let mut batch = Batch::new(decoder.clone(), 4);
    let mut outputs = BTreeMap::new();
    for sample in 0..5 {
        let key = OutputKey { item: 2, sample };
        let cache = prefix.fork(&header).expect("memory");
        outputs
            .insert(batch.join_from(cache, &item, rule.clone(), key).expect("the beginning of the item"), (key, Vec::new(), rows.clone()));
    }
    while !batch.is_empty() {
        batch
            .step(|event| match event {
                Event::Id { ticket, id } => outputs.get_mut(&ticket).expect("joined").1.push(id),
                Event::Rows { ticket, rows, .. } => outputs.get_mut(&ticket).expect("joined").2.extend_from_slice(rows),
                Event::End { .. } => {}
            })
            .expect("a step");
    }
    for (key, ids, rows) in outputs.into_values() {
        let alone = decoder.generate(&item, &rule, key).expect("memory");
        assert_eq!((ids, &rows[..]), (alone.ids, alone.norm_rows.data()));
    }

    // Checked one after the other in one cache, which keeps the item.
    let mut cache = prefix.fork(&header).expect("memory");
    for sample in 0..5 {
        let key = OutputKey { item: 2, sample };
        let right = decoder.generate(&item, &rule, key).expect("memory");
        let mut check = |ids: &[u32]| {
            let (mut more, given) = (rows.clone(), Given { ids, reason: right.reason });
            cache.truncate(10);
            let departure =
                decoder.check_from(&mut work, &mut cache, &item, &rule, key, &given, |_, rows| more.extend_from_slice(rows)).expect("room");
            (departure, more)
        };
        assert_eq!(check(&right.ids), (None, right.norm_rows.data().to_vec()));
        let short = Departure { at: 7, expected: Expected::Id(right.ids[7]) };
        assert_eq!(check(&right.ids[..7]).0, Some(short));
    }
    let given = Given { ids: &[1; 8], reason: FinishReason::MaxOutput };
    let mut unfit = |cache: &mut Cache, item: &[u32]| {
        decoder.check_from(&mut work, cache, item, &rule, KEY, &given, |_, _| panic!("no rows")).expect_err("refused")
    };
    let mut full = decoder.cache(17).expect("memory");
    assert_eq!(unfit(&mut full, &item), DecoderError::CacheFull { len: 0, ids: 18, capacity: 17 });
    cache.truncate(11);
    assert_eq!(unfit(&mut cache, &item), DecoderError::Prefix { prefix: 11, item: 11 });
    assert_eq!(unfit(&mut cache, &[]), DecoderError::Prefix { prefix: 11, item: 0 });

    let mut refused = |cache: Cache, item: &[u32]| batch.join_from(cache, item, rule.clone(), KEY).expect_err("refused");
    let fork = || prefix.fork(&header).expect("memory");
    assert_eq!(refused(fork(), &item[..10]), DecoderError::Prefix { prefix: 10, item: 10 });
    let other = [&[item[0] ^ 1], &item[1..]].concat();
    assert_eq!(refused(fork(), &other), DecoderError::Prefix { prefix: 10, item: 11 });
    let long = [&item[..], &[1]].concat();
    assert_eq!(refused(fork(), &long), DecoderError::CacheFull { len: 10, ids: 9, capacity: 18 });
}

#[test]
fn weights_packed_elsewhere_compute_the_same_and_are_checked_by_name() {
    let header = Header { flags: flag::GATED_FFN | flag::CAUSAL | flag::QK_NORM | flag::QKV_BIAS, ..sample::small_decoder_header() };
    for header in [Header { flags: header.flags | flag::TIED_HEAD, ..header.clone() }, header] {
        let model = sample::decoder(&header, 10).expect("a valid header");
        let packed = || {
            let pack = |(_, tensor): (TensorName, TensorRef<'_>)| match tensor {
                TensorRef::Matrix(matrix) => PackedTensor::Matrix(Packed::new(matrix)),
                TensorRef::Table(table) => PackedTensor::Table(table.clone()),
                TensorRef::Vector(vector) => PackedTensor::Vector(vector.clone()),
            };
            model.weights().tensors().map(pack).collect::<Vec<_>>()
        };
        let weights = PackedWeights::from_tensors(&header, packed()).expect("they fit");
        let decoder = Decoder::from_packed(weights, pool(Isa::detect(), 1));
        let item = ids(&header, 1, 5);
        assert_eq!(decoder.generate(&item, &sampled(4), KEY), engine(&model).generate(&item, &sampled(4), KEY));

        let refused = |tensors: Vec<PackedTensor>| PackedWeights::from_tensors(&header, tensors).expect_err("they do not fit").to_string();
        let mut short = packed();
        short.pop();
        assert_eq!(refused(short), "tensor value_shifts is missing");
        let mut long = packed();
        long.push(PackedTensor::Vector(VectorI32::default()));
        assert_eq!(refused(long), "there are more tensors than the header asks for");
        let mut swapped = packed();
        swapped.swap(1, 4);
        assert_eq!(refused(swapped), "tensor rotary.cos is a matrix of 48 x 48 without bias, the header asks for an int32 table of 40 x 6");
    }
}

/// Every number at an end of its range: weights, mantissas, shifts, biases, gains, rotations, value shifts.
fn extreme(header: &Header, weight: i8, shift: u8, end: i32, value_shift: i32) -> Model {
    let mut sign = 1i8;
    let tensors = tensor_specs(header).expect("supported").into_iter().map(|spec| match spec.shape {
        TensorShape::Matrix { rows, cols, bias } => {
            // Rows of either sign, or all saturate to one side.
            let weights = (0..rows * cols).map(|at| if at / cols % 2 == 0 { weight } else { -weight }).collect::<Vec<_>>();
            let mantissas = vec![u16::MAX; rows * cols.div_ceil(bounds::GROUP)];
            sign = -sign;
            let bias = bias.then(|| vec![if sign > 0 { end } else { i32::MIN }; rows]);
            Tensor::Matrix(Q8Matrix::new(rows, cols, weights, mantissas, vec![shift; rows], bias).expect("legal"))
        }
        TensorShape::Table { rows, width } if spec.name == TensorName::ValueShifts => {
            Tensor::Table(TableI32::new(rows, width, vec![value_shift; rows * width]).expect("sizes fit"))
        }
        TensorShape::Table { rows, width } => {
            let data = (0..rows * width).map(|at| if at % 3 == 0 { end } else { i32::MIN }).collect();
            Tensor::Table(TableI32::new(rows, width, data).expect("sizes fit"))
        }
        TensorShape::Vector { len } => Tensor::Vector(VectorI32::from(vec![end; len])),
    });
    let weights = DecoderWeights::from_tensors(header, tensors.collect::<Vec<_>>()).expect("they fit");
    Model::new(header.clone(), weights).expect("they fit")
}

#[test]
fn saturated_models_are_computed_alike_and_overflow_nowhere() {
    let all = flag::GATED_FFN | flag::CAUSAL | flag::QKV_BIAS | flag::OUTPUT_BIAS | flag::QK_NORM | flag::TIED_HEAD;
    for flags in [all, all & !flag::QK_NORM & !flag::TIED_HEAD] {
        for activation in [1, 2, 3] {
            for (weight, shift, end, value_shift) in
                [(127, 17, i32::MAX, 16), (-127, 17, i32::MIN, 0), (127, 62, i32::MIN, 16), (0, 17, i32::MAX, 0), (127, 30, 1 << 14, 0)]
            {
                let header = Header {
                    flags,
                    activation,
                    score_scale: bounds::SCORE_SCALE,
                    epsilon: if weight > 0 { bounds::EPSILON } else { 0 },
                    embedding_scale: bounds::EMBEDDING_SCALE,
                    ..sample::small_decoder_header()
                };
                let model = extreme(&header, weight, shift, end, value_shift);
                let ids = ids(&header, 1, 9);
                let rule = Rule { temperature: u32::MAX, min_p: 1, ..sampled(3) };
                let expected = plain(&model, &rule, &ids);
                for isa in Isa::available() {
                    assert_eq!(in_runs(&Decoder::new(&model, pool(isa, 2)), &rule, &ids, &[4, 1]), expected, "{isa:?}");
                }
            }
        }
    }
}

/// All logits equal: every choice is a draw among all ids, and greedily the first.
#[test]
fn equal_logits_choose_the_first_id_greedily_and_any_id_by_lot() {
    let header = sample::small_decoder_header();
    let model = extreme(&header, 0, 17, 1 << 14, 0);
    let decoder = engine(&model);
    let greedy = decoder.generate(&[5], &Rule::greedy(most(20), NONE), KEY).expect("memory");
    assert_eq!(greedy.ids, [0; 20]);
    let drawn = decoder.generate(&[5], &Rule { min_p: 65_536, ..sampled(30) }, KEY).expect("memory");
    let distinct: std::collections::BTreeSet<_> = drawn.ids.iter().collect();
    assert!(distinct.len() > 20, "30 draws among 100 ids gave {distinct:?}");
}

/// Two heads of 4 dims over one kv head: the plain definition computes the longest context in a second.
fn long_header() -> Header {
    Header {
        context: 8192,
        vocabulary: 50,
        dim: 8,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        ffn: 8,
        rotary_dims: 4,
        ..sample::small_decoder_header()
    }
}

/// One sequence of 8,192 positions: prefilled in one way, in another, and the last ones decoded one by one. Also where each position reads its last
/// 1,000 only, and where every number is at an end of its range.
#[test]
fn a_context_of_8192_positions_is_exact_however_it_is_cut() {
    let windowed = Header { window: 1000, ..long_header() };
    let saturated = Header { score_scale: bounds::SCORE_SCALE, embedding_scale: bounds::EMBEDDING_SCALE, ..long_header() };
    let models = [
        sample::decoder(&long_header(), 12).expect("a valid header"),
        sample::decoder(&windowed, 12).expect("a valid header"),
        extreme(&saturated, 127, 17, i32::MAX, 16),
    ];
    for model in models {
        let ids = ids(model.header(), 13, 8192);
        let expected = plain(&model, &sampled(1), &ids);
        for isa in Isa::available() {
            let decoder = Decoder::new(&model, pool(isa, 2));
            for lengths in [&[8150, 1, 1, 40][..], &[1000]] {
                assert_eq!(in_runs(&decoder, &sampled(1), &ids, lengths), expected, "{isa:?}, {lengths:?}");
            }
        }
    }
}

#[test]
fn an_output_that_fills_8192_positions_is_checked_to_its_last_id() {
    let model = sample::decoder(&long_header(), 16).expect("a valid header");
    let (item, rule) = (ids(model.header(), 17, 8100), sampled(1000));
    let right = engine(&model).generate(&item, &rule, KEY).expect("memory");
    assert_eq!((right.reason, right.ids.len(), right.norm_rows.rows()), (FinishReason::Context, 93, 8192));
    let (rows, choices) = plain(&model, &rule, &[&item[..], &right.ids[..92]].concat());
    assert_eq!((right.norm_rows.data(), &right.ids[..]), (&rows[..], &choices[8099..]));
    for isa in Isa::available() {
        let decoder = Decoder::new(&model, pool(isa, 2));
        let mut work = Workspace::new(model.header(), 512);
        let mut check = |ids: &[u32]| {
            let given = Given { ids, reason: right.reason };
            decoder.check(&mut work, &item, &rule, KEY, &given, |_, _| {}).expect("memory")
        };
        assert_eq!(check(&right.ids), None);
        let mut wrong = right.ids.clone();
        wrong[92] ^= 1;
        assert_eq!(check(&wrong), Some(Departure { at: 92, expected: Expected::Id(right.ids[92]) }), "{isa:?}");
    }
}

/// From 32 rows a thread on, threads divide the rows of a step; runs of every length are cut between them, in the middle of blocks of positions
/// too, and what was there before is not theirs.
#[test]
fn rows_divided_among_threads_are_the_rows_of_one_thread() {
    let header = Header { context: 300, ..sample::small_decoder_header() };
    let model = sample::decoder(&header, 18).expect("a valid header");
    let rule = sampled(1);
    // For each run, positions before it and its rows.
    let steps: [&[(usize, usize)]; 6] = [
        &[(0, 200)],
        &[(7, 131)],
        &[(16, 97), (3, 1), (0, 33), (100, 70)],
        &[(5, 1); 140],
        &[(0, 15), (31, 17), (40, 129)],
        &[(1, 40), (2, 40), (15, 24), (0, 24)],
    ];
    for threads in [2, 3, 4] {
        let decoder = Decoder::new(&model, pool(Isa::detect(), threads));
        let mut work = Workspace::new(&header, 256);
        for runs in steps {
            let items: Vec<_> = (0..).zip(runs).map(|(seed, (before, rows))| ids(&header, seed, before + rows)).collect();
            let mut caches: Vec<_> = items.iter().map(|item| decoder.cache(item.len()).expect("memory")).collect();
            for ((cache, item), &(before, _)) in caches.iter_mut().zip(&items).zip(runs) {
                decoder.prefill(&mut work, cache, &item[..before], |_, _| {}).expect("legal ids");
            }
            let choose = Some(Choose { rule: &rule, key: KEY, from: 0 });
            let mut step: Vec<_> = caches
                .iter_mut()
                .zip(&items)
                .zip(runs)
                .map(|((cache, item), &(before, _))| Run { cache, ids: &item[before..], choose })
                .collect();
            decoder.step(&mut work, &mut step).expect("legal runs");
            let (mut rows, mut choices) = (Vec::new(), Vec::new());
            for (item, &(before, _)) in items.iter().zip(runs) {
                let (all_rows, all_choices) = plain(&model, &rule, item);
                rows.extend_from_slice(&all_rows[before * header.dim as usize..]);
                choices.extend(all_choices[before..].iter().copied().map(Some));
            }
            assert!(work.norm_rows() == rows && work.choices() == choices, "{threads} threads, {runs:?}");
        }
    }
}

/// A worker moves a batch to its own thread, and several threads may share a decoder.
#[test]
fn decoders_are_shared_and_batches_are_sent_between_threads() {
    const fn shared<T: Send + Sync>() {}
    const fn sent<T: Send>() {}
    shared::<Decoder>();
    shared::<Model>();
    shared::<PackedWeights>();
    sent::<Batch>();
    sent::<Cache>();
    sent::<Workspace>();

    let model = sample::decoder(&sample::small_decoder_header(), 14).expect("a valid header");
    let decoder = Decoder::new(&model, pool(Isa::detect(), 2));
    let item = ids(decoder.header(), 15, 6);
    let generate = || decoder.generate(&item, &sampled(12), KEY).expect("memory");
    let alone = generate();
    let together = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(generate)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert!(together.iter().all(|generated| *generated == alone));
}
