//! The running batch: what each job gives does not depend on who is beside it, and nobody waits for ever.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, OnceLock},
};

use proptest::prelude::*;
use quern_commit::work::work_leaf;
use quern_exact::{
    decoder::{Cache, Decoder, Rule},
    encoder,
    header::NO_ID,
    kernels::{Isa, Pool},
    sample,
};
use quern_types::{B256, FinishReason, PackageRoot};

use crate::{
    generate::{Generated, Generation, SEQUENCES},
    load::longest,
    running::{JobNumber, Running},
};

/// Two models of one shape.
fn decoder(model: u8) -> Decoder {
    static DECODERS: OnceLock<[Decoder; 2]> = OnceLock::new();
    let make = |seed| {
        let model = sample::decoder(&sample::small_decoder_header(), seed).expect("a decoder");
        Decoder::new(&model, Arc::new(Pool::single(Isa::detect())))
    };
    DECODERS.get_or_init(|| [make(5), make(6)])[usize::from(model)].clone()
}

fn generation(model: u8, items: Vec<Vec<u32>>, samples: u32, max_output: u32, seed: u8) -> Generation {
    let stop_ids = [11, 23, 42, 61, 77, NO_ID, NO_ID, NO_ID];
    let max_output = NonZeroU32::new(max_output).expect("at least 1");
    let rule = Rule { max_output, stop_ids, temperature: 1 << 16, min_p: 0, seed: [seed; 32] };
    Generation { package: PackageRoot(B256::repeat_byte(model)), decoder: decoder(model), items, samples, rule }
}

/// Every way to end: empty, one id, long, as long as the context, longer, an unknown id.
fn every_item(samples: u32) -> Generation {
    let items = vec![vec![], vec![7], (0..30).collect(), vec![3; 40], vec![3; 41], vec![100], vec![1, 2, 3]];
    generation(0, items, samples, 20, 9)
}

fn cache_bytes(positions: usize) -> u64 {
    Cache::bytes(&sample::small_decoder_header(), positions) as u64
}

/// What the definition makes of each output alone.
fn assert_is_defined(job: &Generation, made: &Generated) {
    assert_eq!((made.records.len(), made.leaves.len()), (job.output_count(), job.output_count()));
    for (at, (record, leaf)) in made.records.iter().zip(&made.leaves).enumerate() {
        let key = job.key(at);
        let alone = job.decoder.generate(&job.items[key.item as usize], &job.rule, key).expect("memory");
        assert_eq!((record.reason, &record.elements), (alone.reason, &alone.ids), "{key:?}");
        let output = encoder::Output { reason: alone.reason, vector: Vec::new(), norm_rows: alone.norm_rows };
        if !record.elements.is_empty() {
            assert_eq!(*leaf, work_leaf(&output), "{key:?}");
        }
    }
}

#[test]
fn every_output_is_what_its_definition_alone_makes() {
    let job = every_item(3);
    let made = job.run(u64::MAX);
    assert_is_defined(&job, &made);
    let reasons: Vec<_> = made.records.iter().map(|record| record.reason).collect();
    assert!(reasons.contains(&FinishReason::Stop) && reasons.contains(&FinishReason::Context), "{reasons:?}");
    assert_eq!(made.records.iter().filter(|record| record.elements.is_empty()).count(), 9);
}

#[test]
fn memory_for_one_sequence_at_a_time_gives_the_same_bits() {
    let (wide, narrow) = (every_item(3).run(u64::MAX), every_item(3).run(1));
    assert_eq!((&wide.records, &wide.leaves), (&narrow.records, &narrow.leaves));
    assert!(narrow.load.step_macs > wide.load.step_macs);
    let two = cache_bytes(40) * 2;
    assert_eq!(every_item(3).run(two).records, wide.records);
    assert_eq!(every_item(1).run(two).records.len(), 7);
}

#[test]
fn more_outputs_than_fit_side_by_side_are_all_made() {
    let job = generation(0, (0..80).map(|at| vec![at, at + 1]).collect(), 1, 20, 9);
    let made = job.run(u64::MAX);
    assert_eq!(made.records.len(), 80);
    assert!(made.records.iter().all(|record| !record.elements.is_empty()));
}

#[test]
fn one_job_takes_no_more_than_its_worst_case() {
    for (samples, limit) in [(1, u64::MAX), (3, u64::MAX), (3, 1), (3, cache_bytes(40) * 2), (2, cache_bytes(40) * 5 / 2)] {
        let mut job = every_item(samples);
        job.rule.stop_ids = [NO_ID; 8];
        let worst = longest(job.decoder.header(), &job.items, samples, 20, limit).load;
        let made = job.run(limit).load;
        assert!(made.macs <= worst.macs && made.step_macs <= worst.step_macs, "{samples} samples, {limit}: {made:?}, {worst:?}");
        if limit == u64::MAX {
            assert_eq!(made.macs, worst.macs);
        }
    }
}

#[test]
fn small_job_that_comes_later_does_not_wait_for_the_large_one() {
    let mut running = Running::new(u64::MAX);
    let large = running.join(generation(0, vec![vec![1, 2]; 20 * SEQUENCES], 1, 30, 1));
    for _ in 0..10 {
        running.turn();
    }
    let small = running.join(generation(0, vec![vec![3, 4]; 3], 2, 5, 2));
    // A place is free when one of the large job's sequences ends, after 30 steps at most.
    for turn in 0.. {
        let ended = running.turn().ended;
        assert!(ended.iter().all(|(job, _)| *job != large), "the large one was first");
        if ended.iter().any(|(job, _)| *job == small) {
            break;
        }
        assert!(turn < 60, "the small one waits");
    }
}

#[test]
fn sequence_that_fits_only_alone_is_not_passed_for_ever() {
    let mut running = Running::new(cache_bytes(40));
    running.join(generation(0, vec![vec![1, 2]; 4], 1, 4, 1));
    let large = running.join(generation(0, vec![vec![1; 30]; 2], 1, 20, 2));
    for turn in 0.. {
        // Small ones come faster than they end.
        running.join(generation(0, vec![vec![3, 4]], 2, 4, 3));
        if running.turn().ended.iter().any(|(job, _)| *job == large) {
            break;
        }
        assert!(turn < 200, "the large one waits");
    }
}

/// A job of the property below.
#[derive(Debug, Clone)]
struct Plan {
    arrives: usize,
    leaves: Option<usize>,
    model: u8,
    /// Lengths of the items.
    items: Vec<usize>,
    samples: u32,
    max_output: u32,
    seed: u8,
}

impl Plan {
    fn generation(&self) -> Generation {
        let item = |(at, len): (usize, &usize)| (0..*len).map(|id| ((at * 7 + id * 3 + usize::from(self.seed)) % 101) as u32).collect();
        generation(self.model, self.items.iter().enumerate().map(item).collect(), self.samples, self.max_output, self.seed)
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    let items = prop::collection::vec(0usize..43, 1..6);
    (0usize..40, prop::option::weighted(0.3, 0usize..60), 0u8..2, items, 1u32..5, 1u32..25, any::<u8>()).prop_map(
        |(arrives, leaves, model, items, samples, max_output, seed)| Plan { arrives, leaves, model, items, samples, max_output, seed },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whoever is beside it, comes and leaves, with much memory or little: a job gives what it gives alone, and takes as many multiply-adds as are told of it.
    #[test]
    fn each_job_of_a_running_batch_gives_what_it_gives_alone(plans in prop::collection::vec(plan(), 1..7), sequences in 0u64..20) {
        let limit = if sequences == 0 { u64::MAX } else { cache_bytes(40) * sequences / 2 };
        let mut running = Running::new(limit);
        let (mut joined, mut macs): (HashMap<JobNumber, usize>, HashMap<JobNumber, u128>) = (HashMap::new(), HashMap::new());
        let mut turn = 0;
        while turn < 40 || !running.is_empty() {
            for (at, plan) in plans.iter().enumerate() {
                if plan.arrives == turn {
                    joined.insert(running.join(plan.generation()), at);
                }
            }
            let leaving = joined.iter().filter(|(_, at)| plans[**at].leaves.is_some_and(|after| plans[**at].arrives + after == turn));
            leaving.for_each(|(job, _)| running.leave(*job));
            let done = running.turn();
            for worked in done.worked {
                prop_assert!(worked.left_ppm <= 1_000_000);
                *macs.entry(worked.job).or_default() += worked.macs;
            }
            for (job, made) in done.ended {
                let (made, plan) = (made.expect("memory"), &plans[joined[&job]]);
                assert_is_defined(&plan.generation(), &made);
                prop_assert_eq!(u128::from(made.load.macs), macs.get(&job).copied().unwrap_or_default());
                joined.remove(&job);
            }
            prop_assert!(running.used() <= limit.max(cache_bytes(40)), "{} bytes", running.used());
            turn += 1;
            prop_assert!(turn < 20_000, "it never ends");
        }
        prop_assert_eq!(running.used(), 0);
        prop_assert!(joined.values().all(|at| plans[*at].leaves.is_some()), "only who left has nothing");
    }
}
