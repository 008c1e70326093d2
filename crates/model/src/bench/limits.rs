//! What this machine can do at most, and what the product kernel does.

use std::{hint::black_box, time::Instant};

use quern_exact::{
    kernels::{self, Operands, Packed, Pages, Pool, probe},
    sample,
};

use super::per_second;
use crate::ModelError;

/// Each limit is the best of so many runs: nothing else is to be measured with it.
const RUNS: usize = 6;

/// Limits of a machine for the threads of a pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// 10^9 bytes per second that all threads read from memory: the better of a vectorised read that asks ahead and a plain sum.
    pub dram_gbps: f64,
    /// 10^9 int8 operations per second (a product and a sum are two) that all threads do in registers, by the instructions of the kernels (AMX,
    /// AVX-512 VNNI, or AVX2's multiply-add of pairs).
    pub int8_peak_gops: f64,
    /// 10^9 int8 operations per second of the product kernel on a matrix that stays in the cache. Where the kernels multiply bytes, each weight takes
    /// two products.
    pub int8_kernel_gops: f64,
}

impl Limits {
    pub(super) fn measure(pool: &Pool) -> Result<Self, ModelError> {
        Ok(Self {
            dram_gbps: pool.lead(|| dram(pool)) / 1e9,
            int8_peak_gops: pool.lead(|| multiply(pool)) / 1e9,
            int8_kernel_gops: kernel(pool)? / 1e9,
        })
    }
}

/// Bytes per second.
fn dram(pool: &Pool) -> f64 {
    /// More than the caches hold by far, on most machines.
    const BYTES: usize = 1 << 30;
    let pages = Pages::new(BYTES);
    let bytes: &[u8] = pages.as_ref();
    let parts = 8 * pool.threads();
    let part = BYTES / parts;
    let plain = |bytes: &[u8]| bytes.as_chunks::<8>().0.iter().fold(0u64, |sum, eight| sum.wrapping_add(u64::from_le_bytes(*eight)));
    let sum = || pool.run(parts, |at| _ = black_box(plain(&bytes[at * part..(at + 1) * part])));
    let read = || _ = black_box(probe::read(pool, bytes));
    let run = |step: &dyn Fn()| {
        let start = Instant::now();
        step();
        per_second(BYTES, start.elapsed())
    };
    (0..RUNS).fold(0.0, |best, _| f64::max(best, f64::max(run(&sum), run(&read))))
}

/// Operations per second in registers.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn multiply(pool: &Pool) -> f64 {
    /// Some ten milliseconds.
    const ROUNDS: u64 = 1000;
    let run = || {
        let start = Instant::now();
        probe::multiply(pool, ROUNDS) as f64 / start.elapsed().as_secs_f64()
    };
    (0..RUNS).fold(0.0, |best, _| f64::max(best, run()))
}

/// Operations per second of the product kernel.
fn kernel(pool: &Pool) -> Result<f64, ModelError> {
    const COLS: usize = 512;
    const POSITIONS: usize = 256;
    const REPEATS: usize = 20;
    let rows = 192 * 4 * pool.threads();
    let mut generator = sample::Generator::new(1);
    let matrix = sample::quick_matrix(&mut generator, rows, COLS).map_err(|error| ModelError::Header { reason: error.to_string() })?;
    let packed = Packed::new(&matrix);
    let x: Vec<i32> = (0..POSITIONS * COLS).map(|_| i32::try_from(generator.within(-100_000, 100_000)).unwrap_or(0)).collect();
    let mut operands = Operands::new(pool.isa());
    operands.fill(pool, &x, COLS);
    let mut out = vec![0; POSITIONS * rows];
    let mut run = || {
        let start = Instant::now();
        for _ in 0..REPEATS {
            kernels::linear_into(pool, &mut [(&packed, &mut out)], &operands);
        }
        per_second(REPEATS * rows * COLS * POSITIONS * probe::operations_per_weight(pool), start.elapsed())
    };
    Ok(pool.lead(|| (0..RUNS).fold(0.0, |best, _| f64::max(best, run()))))
}
