//! Lines per second of a MiniLM-shaped encoder on one core and on two, 20 positions a line, and one text of 512 positions.

use std::{hint::black_box, num::NonZeroUsize, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quern_exact::sample::{self, Generator};

fn encoder(criterion: &mut Criterion) {
    let header = sample::minilm_header();
    let encoder = sample::encoder(&header, 1).expect("the sample header is valid");
    let mut generator = Generator::new(2);
    let mut item =
        |positions: usize| -> Vec<u32> { (0..positions).map(|_| u32::try_from(generator.within(0, 30_521)).expect("an id")).collect() };
    let (line, text) = (item(20), item(512));
    let mut group = criterion.benchmark_group("minilm");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4)).sample_size(20);
    group.throughput(Throughput::Elements(1));
    group.bench_function("line of 20 positions", |bencher| bencher.iter(|| encoder.forward(black_box(&line))));
    group.bench_function("text of 512 positions", |bencher| bencher.iter(|| encoder.forward(black_box(&text))));
    let batch: Vec<_> = (0..32).map(|_| item(20)).collect();
    group.throughput(Throughput::Elements(32));
    for threads in [1, 2].map(|threads| NonZeroUsize::new(threads).expect("not zero")) {
        group.bench_function(format!("32 lines of 20 positions, {threads} threads"), |bencher| {
            bencher.iter(|| encoder.embed_many(black_box(&batch), threads));
        });
    }
    group.finish();
}

criterion_group!(benches, encoder);
criterion_main!(benches);
