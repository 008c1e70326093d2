//! Tokens per second of a random decoder: `cargo bench -p quern-exact --bench decoder -- c 2` for shape c on two threads.
//!
//! Each figure is the median of some runs: one sequence that decodes, prefill of 512 positions, checking of 512 output ids, a batch of 8.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use quern_exact::{
    decoder::{Batch, Choose, Decoder, OutputKey, Rule, Run, Workspace},
    header::NO_ID,
    kernels::{Isa, Pool},
    sample,
};
use rustix::time::{ClockId, clock_gettime};

const KEY: OutputKey = OutputKey { item: 0, sample: 0 };
const PREFILL: usize = 512;
const STEPS: usize = 32;

fn median(runs: usize, mut run: impl FnMut() -> Duration) -> f64 {
    let mut times: Vec<Duration> = (0..runs).map(|_| run()).collect();
    times.sort_unstable();
    times[runs / 2].as_secs_f64()
}

/// Time of this thread where it works alone, which leaves out what others on the machine take from it, else of the clock.
fn now(threads: NonZeroUsize) -> Duration {
    let clock = if threads.get() == 1 { ClockId::ThreadCPUTime } else { ClockId::Monotonic };
    clock_gettime(clock).try_into().unwrap_or_default()
}

fn timed(threads: NonZeroUsize, run: impl FnOnce()) -> Duration {
    let start = now(threads);
    run();
    now(threads) - start
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let shape = arguments.first().and_then(|shape| shape.chars().next()).unwrap_or('a');
    let threads = arguments.get(1).and_then(|threads| threads.parse().ok()).unwrap_or(NonZeroUsize::MIN);
    let header = sample::bench_header(shape, 2048).expect("shape a, b or c");
    let start = Instant::now();
    let model = sample::decoder(&header, 1).expect("a valid header");
    let made = start.elapsed();
    let pool = Arc::new(Pool::new(Isa::detect(), threads));
    let decoder = Decoder::new(&model, pool);
    println!("shape {shape}, {threads} threads, {:?}: weights made in {made:.1?}, packed in {:.1?}", Isa::detect(), start.elapsed() - made);
    drop(model);

    let rule = Rule::greedy(u32::MAX.try_into().expect("not zero"), [NO_ID; 8]);
    let sampled = Rule { temperature: 65_536, min_p: 3277, ..rule.clone() };
    let hot = Rule { min_p: 0, ..sampled.clone() };
    let vocabulary = header.vocabulary;
    let ids: Vec<u32> = (0u32..).map(|at| at.wrapping_mul(2_654_435_761) % vocabulary).take(2 * PREFILL).collect();
    let mut work = Workspace::new(&header, PREFILL);
    let mut cache = decoder.cache(2048).expect("memory");

    let prefill = median(3, || {
        cache.truncate(0);
        timed(threads, || decoder.prefill(&mut work, &mut cache, &ids[..PREFILL], |_, _| {}).expect("legal ids"))
    });
    println!("prefill of {PREFILL}: {:.1} positions/s", PREFILL as f64 / prefill);
    let check = median(3, || {
        cache.truncate(0);
        let choose = Some(Choose { rule: &rule, key: KEY, from: 0 });
        timed(threads, || decoder.step(&mut work, &mut [Run { cache: &mut cache, ids: &ids[..PREFILL], choose }]).expect("legal ids"))
    });
    println!("checking of {PREFILL}: {:.1} ids/s", PREFILL as f64 / check);
    for (name, rule) in [("greedy", &rule), ("temperature 1, min-p 0.05", &sampled), ("temperature 1", &hot)] {
        let mut id = 1;
        let mut step = || {
            let run = Run { cache: &mut cache, ids: &[id], choose: Some(Choose { rule, key: KEY, from: 0 }) };
            decoder.step(&mut work, &mut [run]).expect("a legal id");
            id = work.choices()[0].unwrap_or(0);
        };
        let decode = median(STEPS, || timed(threads, &mut step));
        println!("decoding, {name}: {:.2} ids/s", 1.0 / decode);
    }

    let mut batch = Batch::new(decoder.clone(), PREFILL);
    for sample in 0..8 {
        let long = Rule { max_output: 200.try_into().expect("not zero"), ..rule.clone() };
        batch.join(&ids[..1], long, OutputKey { sample, ..KEY }).expect("memory");
    }
    let step = median(STEPS, || timed(threads, || drop(batch.step(|_| {}))));
    println!("a batch of 8: {:.2} ids/s", 8.0 / step);
}
