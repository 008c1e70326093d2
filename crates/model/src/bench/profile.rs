//! Where the time of a step goes: its ops one after the other as the engine runs them, on the same weights, with a clock between them.
//!
//! A twin of the engine's order of ops for measuring only, so that the engine itself stays without a clock. What it computes is thrown away. As in
//! the engine, threads divide the rows of a step where there are many; an op's time is then the mean of theirs.

use std::time::{Duration, Instant};

use quern_exact::{
    decoder::{Decoder, Workspace},
    header::{Header, flag},
    kernels::{self, AttentionScratch, ChoiceScratch, KvCache, Operands, Packed, Pool, Reach, Sequence},
    reference::{Attention, Draw},
    sample::Generator,
};

/// A kind of op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Norms, with the copy of the rows before each.
    Norms,
    /// Rows to operands.
    Operands,
    /// Products of query, key and value.
    Qkv,
    /// Rotation and norms of heads.
    Rotation,
    /// Keys and values into the cache.
    Append,
    /// Attention.
    Attention,
    /// Product of attention's output.
    Output,
    /// Products of gate and up.
    GateUp,
    /// Activation of the gate times up.
    Gate,
    /// Product of down.
    Down,
    /// Residual adds.
    Adds,
    /// Product of the head.
    Head,
    /// Choices from the logits.
    Choice,
}

/// All kinds, in the order in which they first run.
const OPS: [Op; 13] = [
    Op::Norms,
    Op::Operands,
    Op::Qkv,
    Op::Rotation,
    Op::Append,
    Op::Attention,
    Op::Output,
    Op::Adds,
    Op::GateUp,
    Op::Gate,
    Op::Down,
    Op::Head,
    Op::Choice,
];

impl Op {
    /// For a table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Norms => "norms",
            Self::Operands => "operands",
            Self::Qkv => "product qkv",
            Self::Rotation => "rotation",
            Self::Append => "cache",
            Self::Attention => "attention",
            Self::Output => "product output",
            Self::GateUp => "product gate, up",
            Self::Gate => "gate",
            Self::Down => "product down",
            Self::Adds => "adds",
            Self::Head => "product head",
            Self::Choice => "choice",
        }
    }
}

/// Time of one kind of op in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileLine {
    /// Which step.
    pub step: &'static str,
    /// Which kind of op.
    pub op: Op,
    /// Median over some steps.
    pub seconds: f64,
    /// Part of the step.
    pub share: f64,
    /// 10^9 bytes of packed weights per second, of products; each byte is counted once for a step.
    pub gbps: Option<f64>,
    /// 10^9 operations per second, two per weight and row, of products.
    pub gops: Option<f64>,
}

/// A step: so many sequences of so many rows each, the first of them at a position.
#[derive(Clone, Copy)]
struct Step {
    name: &'static str,
    sequences: usize,
    rows: usize,
    first: usize,
    runs: usize,
}

impl Step {
    /// What each of some threads has of it, where they divide its rows: as many positions to attend to.
    const fn share(self, threads: usize) -> Self {
        let rows = self.rows / threads;
        Self { rows, first: self.first + (self.rows - rows) / 2, ..self }
    }
}

/// Decoding alone and in a batch, and a piece of an output that is checked; prefill is the same without head and choice.
const STEPS: [Step; 3] = [
    Step { name: "decode", sequences: 1, rows: 1, first: 63, runs: 15 },
    Step { name: "batch of 8", sequences: 8, rows: 1, first: 63, runs: 9 },
    Step { name: "check 256", sequences: 1, rows: 256, first: 256, runs: 3 },
];

/// Profiles the steps of a decoder.
pub(super) fn profile(decoder: &Decoder, pool: &Pool) -> Vec<ProfileLine> {
    pool.lead(|| STEPS.iter().flat_map(|step| lines(decoder, pool, *step)).collect())
}

fn lines(decoder: &Decoder, pool: &Pool, step: Step) -> Vec<ProfileLine> {
    let lanes = Workspace::lanes(pool.threads(), step.sequences * step.rows);
    let mut twins: Vec<_> = (0..lanes).map(|_| Twin::new(decoder, pool, step.share(lanes))).collect();
    let mut head = Head::new(decoder, pool, step);
    let mut run = || {
        kernels::each(pool, &mut twins, Twin::run);
        let mut spent = head.run();
        for (at, spent) in spent.iter_mut().enumerate() {
            let of_lanes: Duration = twins.iter().map(|twin| twin.spent[at]).sum();
            *spent += of_lanes.div_f64(lanes as f64);
        }
        spent
    };
    run();
    let runs: Vec<_> = (0..step.runs).map(|_| run()).collect();
    let median = |op: Op| super::median(&mut runs.iter().map(|spent| spent[op as usize].as_secs_f64()).collect::<Vec<_>>());
    let total: f64 = OPS.iter().map(|&op| median(op)).sum();
    let line = |&op: &Op| {
        let seconds = median(op);
        let (bytes, operations) = work(decoder, step, op);
        let rate = |amount: f64| (amount > 0.0).then(|| amount / seconds / 1e9);
        ProfileLine { step: step.name, op, seconds, share: seconds / total, gbps: rate(bytes), gops: rate(operations) }
    };
    OPS.iter().map(line).collect()
}

/// Bytes of weights of the products of a kind, and their operations in a step.
#[expect(clippy::cast_precision_loss, reason = "rates")]
fn work(decoder: &Decoder, step: Step, op: Op) -> (f64, f64) {
    let weights = decoder.weights();
    let of = |at: std::ops::Range<usize>| weights.layers().flat_map(|layer| layer[at.clone()].to_vec()).collect::<Vec<_>>();
    let matrices = match op {
        Op::Qkv => of(0..3),
        Op::Output => of(3..4),
        Op::GateUp => of(4..6),
        Op::Down => of(6..7),
        Op::Head => vec![weights.head()],
        _ => Vec::new(),
    };
    let rows = step.sequences * step.rows;
    let bytes: usize = matrices.iter().map(|matrix| matrix.as_bytes().len()).sum();
    let operations: usize = matrices.iter().map(|matrix| 2 * matrix.rows() * matrix.cols() * rows).sum();
    (bytes as f64, operations as f64)
}

struct Clock {
    since: Instant,
    spent: [Duration; OPS.len()],
}

impl Clock {
    fn lap(&mut self, op: Op) {
        let now = Instant::now();
        self.spent[op as usize] += now - self.since;
        self.since = now;
    }
}

struct Twin<'a> {
    decoder: &'a Decoder,
    pool: &'a Pool,
    step: Step,
    /// Of each sequence, one per layer.
    caches: Vec<Vec<KvCache>>,
    scratch: AttentionScratch,
    operands: Operands,
    gain: Vec<i32>,
    turn: Vec<i32>,
    x: Vec<i32>,
    normed: Vec<i32>,
    q: Vec<i32>,
    k: Vec<i32>,
    v: Vec<i32>,
    mixed: Vec<i32>,
    projected: Vec<i32>,
    gate: Vec<i32>,
    up: Vec<i32>,
    spent: [Duration; OPS.len()],
}

impl<'a> Twin<'a> {
    fn new(decoder: &'a Decoder, pool: &'a Pool, step: Step) -> Self {
        let header = decoder.header();
        let rows = step.sequences * step.rows;
        let [dim, ffn, q, kv] =
            [header.dim, header.ffn, header.heads * header.head_dim, header.kv_heads * header.head_dim].map(|width| width as usize);
        let past = numbers(step.first * kv);
        let cache = || {
            let mut cache = KvCache::new(header.kv_heads as usize, header.head_dim as usize, step.first + step.rows);
            cache.append(pool.isa(), &past, &past, &vec![0; header.kv_heads as usize]);
            cache
        };
        let caches = (0..step.sequences).map(|_| (0..header.layers).map(|_| cache()).collect()).collect();
        Self {
            decoder,
            pool,
            step,
            caches,
            operands: Operands::new(pool.isa()),
            scratch: AttentionScratch::default(),
            gain: vec![1 << 14; dim.max(header.head_dim as usize)],
            turn: vec![1 << 29; header.rotary_dims as usize / 2],
            x: numbers(rows * dim),
            normed: vec![0; rows * dim],
            q: vec![0; rows * q],
            k: vec![0; rows * kv],
            v: vec![0; rows * kv],
            mixed: vec![0; rows * q],
            projected: vec![0; rows * dim],
            gate: vec![0; rows.min(Workspace::FFN_ROWS) * ffn],
            up: vec![0; rows.min(Workspace::FFN_ROWS) * ffn],
            spent: [Duration::ZERO; OPS.len()],
        }
    }

    /// The layers of a step, each op in its turn.
    fn run(&mut self) {
        let (header, pool, weights) = (self.decoder.header(), self.pool, self.decoder.weights());
        let [dim, ffn, q_width] = [header.dim, header.ffn, header.heads * header.head_dim].map(|width| width as usize);
        let value_shifts = vec![0; header.kv_heads as usize];
        let mut clock = Clock { since: Instant::now(), spent: [Duration::ZERO; OPS.len()] };
        for (at, [query, key, value, output, gate, up, down]) in weights.layers().enumerate() {
            norm(pool, header, &self.x, &mut self.normed, &self.gain);
            clock.lap(Op::Norms);
            self.operands.fill(pool, &self.normed, dim);
            clock.lap(Op::Operands);
            let qkv: &mut [(&Packed, &mut [i32])] = &mut [(query, &mut self.q), (key, &mut self.k), (value, &mut self.v)];
            kernels::linear_into(pool, qkv, &self.operands);
            clock.lap(Op::Qkv);
            turn(pool, header, &mut self.q, header.heads, &self.gain, &self.turn);
            turn(pool, header, &mut self.k, header.kv_heads, &self.gain, &self.turn);
            clock.lap(Op::Rotation);
            let each = self.k.len() / self.step.sequences;
            for (caches, (k, v)) in self.caches.iter_mut().zip(self.k.chunks(each).zip(self.v.chunks(each))) {
                caches[at].truncate(self.step.first);
                caches[at].append(pool.isa(), k, v, &value_shifts);
            }
            clock.lap(Op::Append);
            self.attend(at, &value_shifts);
            clock.lap(Op::Attention);
            self.operands.fill(pool, &self.mixed, q_width);
            clock.lap(Op::Operands);
            kernels::linear_into(pool, &mut [(output, &mut self.projected)], &self.operands);
            clock.lap(Op::Output);
            add(pool, &mut self.x, &self.projected);
            clock.lap(Op::Adds);
            for x in self.x.chunks_mut(Workspace::FFN_ROWS * dim) {
                let (normed, projected) = (&mut self.normed[..x.len()], &mut self.projected[..x.len()]);
                let [inner, up_rows] = [&mut self.gate, &mut self.up].map(|rows| &mut rows[..x.len() / dim * ffn]);
                norm(pool, header, x, normed, &self.gain);
                clock.lap(Op::Norms);
                self.operands.fill(pool, normed, dim);
                clock.lap(Op::Operands);
                kernels::linear_into(pool, &mut [(gate, &mut *inner), (up, &mut *up_rows)], &self.operands);
                clock.lap(Op::GateUp);
                kernels::each_piece(pool, inner, 1, |first, gate| {
                    kernels::gate(pool.isa(), header.activation, gate, &up_rows[first..first + gate.len()]);
                });
                clock.lap(Op::Gate);
                self.operands.fill(pool, inner, ffn);
                clock.lap(Op::Operands);
                kernels::linear_into(pool, &mut [(down, &mut *projected)], &self.operands);
                clock.lap(Op::Down);
                add(pool, x, projected);
                clock.lap(Op::Adds);
            }
        }
        norm(pool, header, &self.x, &mut self.normed, &self.gain);
        clock.lap(Op::Norms);
        self.spent = clock.spent;
    }

    fn attend(&mut self, layer: usize, value_shifts: &[i32]) {
        let (header, rows) = (self.decoder.header(), self.step.rows);
        let attention = Attention {
            heads: header.heads as usize,
            kv_heads: header.kv_heads as usize,
            head_dim: header.head_dim as usize,
            score_scale: header.score_scale,
            value_shifts,
        };
        let sequences = self.caches.iter().enumerate();
        let sequences: Vec<_> = sequences
            .map(|(at, caches)| Sequence { cache: &caches[layer], rows: at * rows..(at + 1) * rows, first: self.step.first })
            .collect();
        let reach = Reach::Causal { window: header.window as usize };
        kernels::attend(self.pool, &attention, reach, &sequences, &self.q, &mut self.mixed, &mut self.scratch);
    }
}

/// The head, of all rows of a step, and the choices.
struct Head<'a> {
    decoder: &'a Decoder,
    pool: &'a Pool,
    choices: ChoiceScratch,
    operands: Operands,
    normed: Vec<i32>,
    /// Rows whose logits are in memory at a time.
    head_rows: usize,
    logits: Vec<i32>,
}

impl<'a> Head<'a> {
    fn new(decoder: &'a Decoder, pool: &'a Pool, step: Step) -> Self {
        let [dim, vocabulary] = [decoder.header().dim, decoder.header().vocabulary].map(|width| width as usize);
        let rows = step.sequences * step.rows;
        let head_rows = Workspace::new(decoder.header(), rows).head_rows();
        Self {
            decoder,
            pool,
            choices: ChoiceScratch::default(),
            operands: Operands::new(pool.isa()),
            normed: numbers(rows * dim),
            logits: vec![0; head_rows * vocabulary],
            head_rows,
        }
    }

    fn run(&mut self) -> [Duration; OPS.len()] {
        let (header, head) = (self.decoder.header(), self.decoder.weights().head());
        let [dim, vocabulary] = [header.dim, header.vocabulary].map(|width| width as usize);
        let mut clock = Clock { since: Instant::now(), spent: [Duration::ZERO; OPS.len()] };
        let draw = Draw { temperature: 0, min_p: 0, seed: &[0; 32], item: 0, sample: 0, position: 0 };
        for rows in self.normed.chunks(self.head_rows * dim) {
            let (count, draws) = (rows.len() / dim, vec![draw; rows.len() / dim]);
            let logits = &mut self.logits[..count * vocabulary];
            self.operands.fill(self.pool, rows, dim);
            clock.lap(Op::Operands);
            kernels::linear_into(self.pool, &mut [(head, &mut *logits)], &self.operands);
            clock.lap(Op::Head);
            kernels::choose(self.pool, vocabulary, logits, &draws, &mut self.choices).for_each(drop);
            clock.lap(Op::Choice);
        }
        clock.spent
    }
}

fn numbers(count: usize) -> Vec<i32> {
    let mut generator = Generator::new(3);
    (0..count).map(|_| i32::try_from(generator.within(-30_000, 30_000)).unwrap_or(0)).collect()
}

fn norm(pool: &Pool, header: &Header, x: &[i32], normed: &mut [i32], gain: &[i32]) {
    normed.copy_from_slice(x);
    let gain = &gain[..header.dim as usize];
    kernels::each_piece(pool, normed, gain.len(), |_, rows| kernels::rms_norm(pool.isa(), rows, header.epsilon, gain));
}

fn turn(pool: &Pool, header: &Header, rows: &mut [i32], heads: u32, gain: &[i32], angles: &[i32]) {
    let head_dim = header.head_dim as usize;
    let width = heads as usize * head_dim;
    kernels::each_piece(pool, rows, width, |_, rows| {
        if header.has(flag::QK_NORM) {
            kernels::rms_norm(pool.isa(), rows, header.epsilon, &gain[..head_dim]);
        }
        if !angles.is_empty() {
            rows.chunks_exact_mut(width).for_each(|row| kernels::rotate(pool.isa(), row, head_dim, angles, angles));
        }
    });
}

fn add(pool: &Pool, x: &mut [i32], y: &[i32]) {
    kernels::each_piece(pool, x, 1, |first, x| kernels::add(pool.isa(), x, &y[first..]));
}
