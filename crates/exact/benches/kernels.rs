//! Kernels against what this machine can do at most, measured in the same run: DRAM bandwidth for decoding, int8 multiply-adds for prefill.
//!
//! Not by criterion: shares need the limits of the same minutes, on a machine that others may use. Each line gives the median and the best
//! decile; a share divides best decile by best decile. One thread is timed by its own clock, so others on the machine do not count. `cargo bench -p quern-exact --bench kernels -- [threads] [filter]`.
#![allow(clippy::print_stdout, clippy::needless_range_loop, reason = "a bench prints its figures")]

use std::{hint::black_box, num::NonZeroUsize, sync::Arc};

use quern_exact::{
    format::Q8Matrix,
    header::{ACTIVATION_GELU_TANH, ACTIVATION_SILU},
    kernels::{self, AttentionScratch, ChoiceScratch, Isa, KvCache, Operands, Packed, Pages, Pool, Reach, Sequence, attend, probe},
    reference::{Attention, Draw},
    sample::{self, Generator},
};
use rustix::time::{ClockId, clock_gettime};

/// Bytes that weights rotate through: no cache holds them.
const COLD: usize = 1_100_000_000;
/// Time per line.
const BUDGET_SECS: f64 = 1.5;

/// Seconds of a step: best decile and median.
#[derive(Clone, Copy)]
struct Timed {
    best: f64,
    median: f64,
}

/// Seconds: of this thread where it works alone, which leaves out what others take from it, else of the clock.
fn now(threads: usize) -> f64 {
    let clock = if threads == 1 { ClockId::ThreadCPUTime } else { ClockId::Monotonic };
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn time(threads: usize, mut step: impl FnMut(usize)) -> Timed {
    step(0);
    let mut seconds = Vec::new();
    let start = now(2);
    while now(2) - start < BUDGET_SECS || seconds.len() < 5 {
        let at = now(threads);
        step(seconds.len() + 1);
        seconds.push(now(threads) - at);
    }
    seconds.sort_by(f64::total_cmp);
    Timed { best: seconds[seconds.len() / 10], median: seconds[seconds.len() / 2] }
}

/// One line: what, rate at the median and at the best decile, share of a limit.
fn line(what: &str, timed: Timed, amount: f64, unit: &str, limit: f64) {
    let (median, best) = (amount / timed.median / 1e9, amount / timed.best / 1e9);
    let share = best / limit;
    println!("{what:<44} {:>10.1} us   {median:>7.1} {unit} (best {best:>7.1})   {share:.2} of {limit:.1}", timed.median * 1e6);
}

fn matrix(rows: usize, cols: usize) -> Q8Matrix {
    let mut generator = Generator::new(rows as u64 ^ (cols as u64) << 20);
    let mut weights = vec![0i8; rows * cols];
    for eight in weights.chunks_mut(8) {
        for (slot, byte) in eight.iter_mut().zip(generator.next_u64().to_le_bytes()) {
            *slot = i8::from_le_bytes([byte]).max(-127);
        }
    }
    let groups = rows * cols.div_ceil(128);
    let mantissas = (0..groups).map(|_| u16::try_from(generator.within(1 << 15, 65_535)).expect("a mantissa")).collect();
    Q8Matrix::new(rows, cols, weights, mantissas, vec![38; rows], None).expect("legal parts")
}

/// Copies of one packed matrix in one buffer.
fn copies(matrix: &Q8Matrix, count: usize) -> Vec<Packed> {
    let size = Packed::bytes(matrix.rows(), matrix.cols());
    let mut pages = Pages::new(count * size);
    let first = Packed::new(matrix);
    for copy in pages.as_mut_slice().chunks_exact_mut(size) {
        copy.copy_from_slice(first.as_bytes());
    }
    let buffer: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(pages);
    (0..count).map(|at| Packed::open(Arc::clone(&buffer), at * size, matrix.rows(), matrix.cols()).expect("just written")).collect()
}

fn rows(count: usize) -> Vec<i32> {
    let mut generator = Generator::new(9);
    (0..count).map(|_| i32::try_from(generator.within(-200_000, 200_000)).expect("in range")).collect()
}

/// As [`rows`], but so that scores lie within a few powers of two of each other, as a model's do.
fn near_rows(count: usize) -> Vec<i32> {
    let mut rows = rows(count);
    rows.iter_mut().for_each(|x| *x /= 5);
    rows
}

struct Bench<'a> {
    pool: &'a Pool,
    filter: String,
    /// GB/s and G operations/s at the best decile.
    dram: f64,
    peak: f64,
}

impl Bench<'_> {
    fn wants(&self, what: &str) -> bool {
        what.contains(&self.filter)
    }

    fn time(&self, step: impl FnMut(usize)) -> Timed {
        time(self.pool.threads(), step)
    }

    fn operands(&self, positions: usize, cols: usize) -> Operands {
        let mut operands = Operands::new(self.pool.isa());
        operands.fill(self.pool, &rows(positions * cols), cols);
        operands
    }

    fn limits(&mut self) {
        let mut pages = Pages::new(COLD);
        for (at, word) in pages.as_mut_slice().as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *word = at.to_le_bytes();
        }
        let pieces = COLD >> 24;
        let read = self.time(|at| {
            black_box(probe::read(self.pool, &pages.as_ref()[(at % pieces) << 24..][..1 << 24]));
        });
        self.dram = f64::from(1 << 24) / read.best / 1e9;
        line("limit: read from DRAM, 16 MiB pieces of 1.1 GB", read, f64::from(1 << 24), "GB/s", self.dram);
        let mut operations = 0;
        let multiplied = self.time(|_| operations = probe::multiply(self.pool, 50));
        self.peak = operations as f64 / multiplied.best / 1e9;
        line("limit: multiply-adds in registers", multiplied, operations as f64, "GOPS", self.peak);
    }

    fn products(&self, cold: &[usize], hot: &[usize]) {
        for (n, k) in [(4096, 4096), (2048, 8192), (8192, 2048), (1536, 576), (576, 1536)] {
            let matrices = copies(&matrix(n, k), COLD.div_ceil(n * k));
            let bytes = matrices[0].as_bytes().len() as f64;
            for &t in cold {
                let what = format!("matvec {n}x{k}, {t} positions, cold");
                if self.wants(&what) {
                    let (x, mut out) = (self.operands(t, k), vec![0; t * n]);
                    let timed = self.time(|at| kernels::linear_into(self.pool, &mut [(&matrices[at % matrices.len()], &mut out)], &x));
                    line(&what, timed, bytes, "GB/s", self.dram);
                }
            }
            for &t in hot {
                // Rows for about four milliseconds per thread: a longer step is never undisturbed on a machine that others use.
                let n = (400_000_000 * self.pool.threads() / (k * t)).next_multiple_of(48 * self.pool.threads()).min(n);
                let what = format!("matmul {n}x{k}, {t} positions");
                if self.wants(&what) {
                    let matrix = Packed::new(&matrix(n, k));
                    let (x, mut out) = (self.operands(t, k), vec![0; t * n]);
                    let timed = self.time(|_| kernels::linear_into(self.pool, &mut [(&matrix, &mut out)], &x));
                    line(&what, timed, 2.0 * (n * k * t) as f64, "GOPS", self.peak);
                }
            }
        }
    }

    /// All products of one token of a 1.2B model (hidden 2048, 16 layers, 32/8 heads of 64, ffn 8192, vocabulary 128,256), cold.
    fn step(&self) {
        for t in [1, 2, 4, 8] {
            let what = format!("step of a 1.2B shape, {t} positions");
            if !self.wants(&what) {
                continue;
            }
            let layers: Vec<_> = [(2048, 2048), (512, 2048), (512, 2048), (2048, 2048), (8192, 2048), (8192, 2048), (2048, 8192)]
                .map(|(n, k)| copies(&matrix(n, k), 16))
                .into();
            let head = Packed::new(&matrix(128_256, 2048));
            let bytes: usize = layers.iter().flatten().map(|matrix| matrix.as_bytes().len()).sum::<usize>() + head.as_bytes().len();
            let (narrow, wide) = (self.operands(t, 2048), self.operands(t, 8192));
            let mut out = layers.iter().map(|copies| vec![0; t * copies[0].rows()]).collect::<Vec<_>>();
            let mut logits = vec![0; t * head.rows()];
            let [q, k, v, o, gate, up, down] = &mut out[..] else { unreachable!("seven matrices") };
            let steps: Vec<[&Packed; 7]> = (0..16).map(|layer| std::array::from_fn(|at| &layers[at][layer])).collect();
            let timed = self.time(|_| {
                for [w_q, w_k, w_v, w_o, w_gate, w_up, w_down] in &steps {
                    kernels::linear_into(self.pool, &mut [(w_q, q), (w_k, k), (w_v, v)], &narrow);
                    kernels::linear_into(self.pool, &mut [(w_o, o)], &narrow);
                    kernels::linear_into(self.pool, &mut [(w_gate, gate), (w_up, up)], &narrow);
                    kernels::linear_into(self.pool, &mut [(w_down, down)], &wide);
                }
                kernels::linear_into(self.pool, &mut [(&head, &mut logits)], &narrow);
            });
            line(&what, timed, bytes as f64, "GB/s", self.dram);
        }
    }

    /// What a step costs by itself: a thousand of them, each thread its part.
    fn empty_steps(&self) {
        let what = "1000 empty steps";
        if self.wants(what) {
            let timed = self.time(|_| (0..1000).for_each(|_| self.pool.run(4 * self.pool.threads(), |part| _ = black_box(part))));
            println!("{what:<44} {:>10.1} us   (best {:>7.1})", timed.median * 1e6, timed.best * 1e6);
        }
    }

    fn operand_making(&self) {
        for (t, k) in [(1, 2048), (1, 8192), (512, 2048), (512, 8192), (64, 576), (64, 1536)] {
            let what = format!("operands of {t} x {k}");
            if self.wants(&what) {
                let (rows, mut operands) = (rows(t * k), Operands::new(self.pool.isa()));
                let timed = self.time(|_| operands.fill(self.pool, &rows, k));
                line(&what, timed, (t * k * 4) as f64, "GB/s", self.dram);
            }
        }
    }

    /// Ops on each element of 64 rows of a 135M model (dim 576, ffn 1536): what stays in the second-level cache.
    fn elementwise(&self) {
        let isa = self.pool.isa();
        let up = rows(64 * 1536);
        for (name, activation) in [("SiLU", ACTIVATION_SILU), ("GELU", ACTIVATION_GELU_TANH)] {
            self.each_element(&format!("gate by {name}"), 1536, |gate| kernels::gate(isa, activation, gate, &up));
        }
        let gain = vec![1 << 14; 576];
        self.each_element("RMSNorm", 576, |x| kernels::rms_norm(isa, x, 1 << 20, &gain));
        self.each_element("RMSNorm of heads", 64, |x| kernels::rms_norm(isa, x, 1 << 20, &gain[..64]));
        let angles = vec![1 << 29; 32];
        self.each_element("rotation", 576, |x| x.chunks_exact_mut(576).for_each(|row| kernels::rotate(isa, row, 64, &angles, &angles)));
        self.each_element("residual add", 576, |x| kernels::add(isa, x, &up));
    }

    /// One line: an op in place, again and again on its own result, since its time does not depend on values.
    fn each_element(&self, what: &str, width: usize, mut op: impl FnMut(&mut [i32])) {
        let what = format!("{what}, 64 x {width}");
        if self.wants(&what) {
            let mut rows = rows(64 * width);
            let timed = self.time(|_| op(&mut rows));
            let of_each = 1e9 / rows.len() as f64;
            println!(
                "{what:<44} {:>10.1} us   {:>7.3} ns per element (best {:>7.3})",
                timed.median * 1e6,
                timed.median * of_each,
                timed.best * of_each
            );
        }
    }

    /// Choices from 64 rows of logits, all different.
    fn choices(&self) {
        const VOCABULARY: usize = 49_152;
        let logits = rows(64 * VOCABULARY);
        for (name, temperature, min_p) in [("greedy", 0, 0), ("sampled by min-p of 1/20", 1 << 16, 3277)] {
            let what = format!("choice, {name}, 64 x {VOCABULARY}");
            if self.wants(&what) {
                let draw = Draw { temperature, min_p, seed: &[7; 32], item: 0, sample: 0, position: 0 };
                let mut scratch = ChoiceScratch::default();
                let timed = self
                    .time(|_| kernels::choose(self.pool, VOCABULARY, &logits, &[draw; 64], &mut scratch).for_each(|id| _ = black_box(id)));
                line(&what, timed, (logits.len() * 4) as f64, "GB/s", self.dram);
            }
        }
    }

    /// One layer: `queries` at the end of a context of `positions`, heads of 64 dims.
    fn attention(&self) {
        let shapes = [
            (64, 512, 32, 8),
            (1, 512, 32, 8),
            (1, 8192, 32, 8),
            (8, 4096, 32, 8),
            (256, 512, 9, 3),
            (64, 256, 9, 3),
            (1, 512, 9, 3),
            (256, 512, 32, 8),
            (256, 512, 14, 2),
            (1, 4096, 14, 2),
            (256, 8192, 32, 8),
        ];
        for (queries, positions, heads, kv_heads) in shapes {
            let what = format!("attention of {queries} at {positions}, {heads}/{kv_heads} heads");
            if !self.wants(&what) {
                continue;
            }
            let head_dim = 64;
            let attention = Attention { heads, kv_heads, head_dim, score_scale: 3_025_570, value_shifts: &[0; 8][..kv_heads] };
            let mut cache = KvCache::new(kv_heads, head_dim, positions);
            let kv = near_rows(positions * kv_heads * head_dim);
            cache.append(self.pool.isa(), &kv, &kv, attention.value_shifts);
            let q = near_rows(queries * heads * head_dim);
            let mut out = vec![0; q.len()];
            let sequence = [Sequence { cache: &cache, rows: 0..queries, first: positions - queries }];
            let mut scratch = AttentionScratch::default();
            let timed = self.time(|_| attend(self.pool, &attention, Reach::Causal { window: 0 }, &sequence, &q, &mut out, &mut scratch));
            let pairs = queries * (2 * positions + 1 - queries) / 2;
            // Two products of head dim per pair of positions and head.
            line(&what, timed, (4 * pairs * heads * head_dim) as f64, "GOPS", self.peak);
        }
    }
}

/// The whole encoder, 32 lines of 20 positions.
fn minilm(threads: usize, filter: &str) {
    let what = "minilm, 32 lines of 20 positions";
    if what.contains(filter) {
        let encoder = sample::encoder(&sample::minilm_header(), 1).expect("a valid header");
        let mut generator = Generator::new(2);
        let mut id = || u32::try_from(generator.within(0, 30_521)).expect("an id");
        let items: Vec<Vec<u32>> = (0..32).map(|_| (0..20).map(|_| id()).collect()).collect();
        let count = NonZeroUsize::new(threads).expect("not zero");
        let timed = time(threads, |_| drop(black_box(encoder.embed_many(&items, count))));
        println!("{what:<44} {:>10.1} us   {:>7.1} lines/s (best {:>7.1})", timed.median * 1e6, 32.0 / timed.median, 32.0 / timed.best);
    }
}

fn main() {
    // cargo passes --bench.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let threads: Vec<usize> = arguments.next().map_or_else(|| vec![1, 2], |number| vec![number.parse().expect("a number of threads")]);
    let filter = arguments.next().unwrap_or_default();
    for isa in Isa::available()
        .into_iter()
        .rev()
        .filter(|isa| std::env::var("ISA").map_or(*isa == Isa::detect(), |name| format!("{isa:?}").starts_with(&name)))
    {
        for &threads in &threads {
            let pool = Pool::new(isa, NonZeroUsize::new(threads).expect("at least one thread"));
            println!("\n{isa:?}, {threads} threads");
            pool.lead(|| {
                let mut bench = Bench { pool: &pool, filter: filter.clone(), dram: 1.0, peak: 1.0 };
                bench.limits();
                bench.step();
                bench.products(&[1, 2, 4, 8, 16], &[8, 128, 512]);
                bench.empty_steps();
                bench.operand_making();
                bench.elementwise();
                bench.choices();
                bench.attention();
            });
            minilm(threads, &filter);
        }
    }
}
