//! The tables of the profile are derived here from their definitions in integers alone, each entry proven to be correctly rounded, and
//! compared with the source. `QUERN_BLESS=1 cargo test -p quern-exact --test tables` writes the source from them.

use std::fmt::Write as _;

use alloy_primitives::{U512, Uint, hex, keccak256};
use quern_exact::tables::{EXP2, LOG1M, LOG2, NORMAL_CDF, TANH_CDF};

type Wide = Uint<8192, 128>;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tables.rs");

/// round(2^(30 - i/256)), the only t with (2t - 1)^256 <= 2^(31 · 256 - i) < (2t + 1)^256.
fn exp2_entry(i: usize) -> u32 {
    let power = |t: u64| (0..8).fold(Wide::from(t), |square, _| square * square);
    let target = Wide::from(1) << (31 * 256 - i);
    let (mut low, mut high) = (1u64 << 29, 1u64 << 30);
    while low < high {
        let t = low + (high - low) / 2;
        if target < power(2 * t + 1) { high = t } else { low = t + 1 }
    }
    assert!(power(2 * low - 1) <= target && target < power(2 * low + 1), "entry {i} is rounded correctly");
    u32::try_from(low).expect("31 bits")
}

/// Fraction bits of the fixed-point numbers below. Every operation below loses less than one unit; there are fewer than 2^12 of them, each
/// amplified by less than 2^48 (e^32), so a result is off by less than 2^-160.
const FRACTION: usize = 220;

fn one() -> U512 {
    U512::from(1) << FRACTION
}

fn multiply(a: U512, b: U512) -> U512 {
    // At most 2^42 (a term of e^32) times 2^6 in value: 2^488 of 2^512.
    (a * b) >> FRACTION
}

fn divide(a: U512, b: U512) -> U512 {
    (a << FRACTION) / b
}

/// Machin: pi = 16 atan(1/5) - 4 atan(1/239).
fn pi() -> U512 {
    let atan_of_reciprocal = |n: u64| {
        let square = U512::from(n * n);
        let mut power = one() / U512::from(n);
        let (mut sum, mut k) = (U512::ZERO, 0u64);
        while power > U512::ZERO {
            let term = power / U512::from(2 * k + 1);
            sum = if k.is_multiple_of(2) { sum + term } else { sum - term };
            power /= square;
            k += 1;
        }
        sum
    };
    U512::from(16) * atan_of_reciprocal(5) - U512::from(4) * atan_of_reciprocal(239)
}

/// round(2^30 · Phi(i / 64)) by Phi(x) = 1/2 + exp(-x²/2) / sqrt(2 pi) · sum of x^(2n + 1) / (1 · 3 · 5 … (2n + 1)).
fn normal_cdf_entry(i: usize, root_two_pi: U512) -> u32 {
    let x = (one() * U512::from(i)) / U512::from(64);
    let square = multiply(x, x);
    let (mut term, mut sum, mut n) = (x, x, 1u64);
    while term > U512::ZERO {
        term = multiply(term, square) / U512::from(2 * n + 1);
        sum += term;
        n += 1;
    }
    let exp = exponential(square / U512::from(2));
    let phi = one() / U512::from(2) + divide(divide(sum, exp), root_two_pi);
    rounded_q30(phi, i)
}

/// e^x for x >= 0 by its series.
fn exponential(x: U512) -> U512 {
    let (mut power, mut sum, mut n) = (one(), one(), 1u64);
    while power > U512::ZERO {
        power = multiply(power, x) / U512::from(n);
        sum += power;
        n += 1;
    }
    sum
}

/// x to nearest in Q30, far enough from a half that no error of 2^-160 · 2^30 could have moved it.
fn rounded_q30(x: U512, i: usize) -> u32 {
    let scaled = x << 30;
    let half = one() >> 1usize;
    let fraction = scaled - ((scaled >> FRACTION) << FRACTION);
    let from_half = if fraction > half { fraction - half } else { half - fraction };
    assert!(from_half > one() >> 100usize, "entry {i} is rounded safely");
    u32::try_from((scaled + half) >> FRACTION).expect("32 bits")
}

/// (1 + tanh(u)) / 2 = 1 / (1 + e^-2u) = 1 - 1 / (1 + e^2u) for u = sqrt(2 / pi) · (x + 0.044715 x³), x = i / 64.
fn tanh_cdf_entry(i: usize, root_two_over_pi: U512) -> u32 {
    let x = (one() * U512::from(i)) / U512::from(64);
    let cube = multiply(multiply(x, x), x);
    let inner = x + cube * U512::from(44_715) / U512::from(1_000_000);
    let twice = U512::from(2) * multiply(root_two_over_pi, inner);
    // e^32 is where `multiply` ends, and beyond it the entry is 1 in Q30: e^-32 < 2^-46.
    let limit = U512::from(32) * one();
    rounded_q30(one() - divide(one(), one() + exponential(twice.min(limit))), i)
}

/// ln(a / b) for a > b by 2 atanh((a - b) / (a + b)), a below 3b.
fn logarithm(a: u64, b: u64) -> U512 {
    let z = one() * U512::from(a - b) / U512::from(a + b);
    let square = multiply(z, z);
    let (mut power, mut sum, mut k) = (z, U512::ZERO, 1u64);
    while power > U512::ZERO {
        sum += power / U512::from(k);
        power = multiply(power, square);
        k += 2;
    }
    U512::from(2) * sum
}

fn square_root(x: U512) -> U512 {
    (x << FRACTION).root(2)
}

fn exp2() -> Vec<u32> {
    (0..=256).map(exp2_entry).collect()
}

fn normal_cdf() -> Vec<u32> {
    let root_two_pi = square_root(U512::from(2) * pi());
    (0..=512).map(|i| normal_cdf_entry(i, root_two_pi)).collect()
}

/// log2(1 + i/256) = ln((256 + i) / 256) / ln 2.
fn log2() -> Vec<u32> {
    let ln2 = logarithm(2, 1);
    let entry =
        |i: u64| if i == 256 { 1 << 30 } else { rounded_q30(divide(logarithm(256 + i, 256), ln2), usize::try_from(i).expect("small")) };
    (0..=256).map(entry).collect()
}

/// -log2(1 - v) / v = ln(512 / (512 - i)) · 512 / (i · ln 2), v = i / 512; 1 / ln 2 at 0.
fn log1m() -> Vec<u32> {
    let ln2 = logarithm(2, 1);
    let entry = |i: u64| match i {
        0 => rounded_q30(divide(one(), ln2), 0),
        256 => 1 << 31,
        _ => rounded_q30(divide(logarithm(512, 512 - i) * U512::from(512) / U512::from(i), ln2), usize::try_from(i).expect("small")),
    };
    (0..=256).map(entry).collect()
}

fn tanh_cdf() -> Vec<u32> {
    let root_two_over_pi = square_root(divide(U512::from(2) * one(), pi()));
    (0..=512).map(|i| tanh_cdf_entry(i, root_two_over_pi)).collect()
}

fn source() -> String {
    let mut text = String::from(
        "//! The tables of profile `q8a16`. Generated by tests/tables.rs, which derives each entry, proves its rounding and compares:\n\
         //! `QUERN_BLESS=1 cargo test -p quern-exact --test tables` writes this file.\n",
    );
    let tables = [
        ("EXP2", "2^(-i / 256) in Q30, each rounded to nearest (EXACT.md, section 4.6).", exp2()),
        ("NORMAL_CDF", "Phi(i / 64) of the normal distribution in Q30, each rounded to nearest (EXACT.md, section 4.7).", normal_cdf()),
        (
            "TANH_CDF",
            "(1 + tanh(sqrt(2 / pi) · (x + 0.044715 x³))) / 2 at x = i / 64 in Q30, each rounded to nearest (EXACT.md, section 4.7).",
            tanh_cdf(),
        ),
        ("LOG2", "log2(1 + i / 256) in Q30, each rounded to nearest (EXACT.md, section 4.13).", log2()),
        ("LOG1M", "-log2(1 - v) / v at v = i / 512, and log2(e) at 0, in Q30, each rounded to nearest (EXACT.md, section 4.13).", log1m()),
    ];
    for (name, doc, entries) in tables {
        write!(text, "\n/// {doc}\n#[rustfmt::skip]\npub const {name}: [u32; {}] = [", entries.len()).expect("a string takes it");
        for (i, entry) in entries.iter().enumerate() {
            let gap = if i.is_multiple_of(8) { "\n    " } else { " " };
            write!(text, "{gap}{entry:#010x},").expect("a string takes it");
        }
        text.push_str("\n];\n");
    }
    text
}

#[test]
fn source_of_tables_equals_their_derivation() {
    if std::env::var_os("QUERN_BLESS").is_some() {
        std::fs::write(SOURCE, source()).expect("the source tree is writable");
    }
    assert_eq!(std::fs::read_to_string(SOURCE).expect("the source exists"), source());
}

/// The hashes that EXACT.md states: keccak of the entries as big-endian u32.
#[test]
fn tables_have_the_hashes_of_the_specification() {
    let hash = |table: &[u32]| hex::encode(keccak256(table.iter().flat_map(|entry| entry.to_be_bytes()).collect::<Vec<u8>>()));
    let hashes = [hash(&EXP2), hash(&NORMAL_CDF), hash(&TANH_CDF), hash(&LOG2), hash(&LOG1M)];
    assert_eq!(hashes, [EXP2_HASH, NORMAL_CDF_HASH, TANH_CDF_HASH, LOG2_HASH, LOG1M_HASH]);
}

const EXP2_HASH: &str = "9bb95ae953bafaad39f4324c3fabcef7dcce9654fb7a6ea2506addf4165eec67";
const TANH_CDF_HASH: &str = "67bf947550c13959c0da25ee109d9b6b88de1fe2b75927be07ba546557e98562";
const LOG2_HASH: &str = "8b5251f98502da198177bfbe7e39470a5909ee4a5824254df2a8a397f37228b6";
const LOG1M_HASH: &str = "37a35703181a2866aebc0e92bf5fa7e68645d3ccd4a6e4f4ff174162258c40f6";
const NORMAL_CDF_HASH: &str = "b1b094b0c2c397a21af0075fdf791c164ee3d12b68084b7e72e9a6ebdd2b5362";

#[test]
fn tables_are_monotonic_and_end_where_the_ops_need_it() {
    assert_eq!((EXP2[0], EXP2[256]), (1 << 30, 1 << 29));
    assert!(EXP2.windows(2).all(|pair| pair[0] > pair[1]));
    assert_eq!((NORMAL_CDF[0], NORMAL_CDF[511], NORMAL_CDF[512]), (1 << 29, 1 << 30, 1 << 30));
    assert!(NORMAL_CDF.windows(2).all(|pair| pair[0] <= pair[1]));
    assert_eq!((TANH_CDF[0], TANH_CDF[512]), (1 << 29, 1 << 30));
    assert!(TANH_CDF.windows(2).all(|pair| pair[0] <= pair[1]));
    assert_eq!((LOG2[0], LOG2[128], LOG2[256]), (0, 628_098_702, 1 << 30));
    assert!(LOG2.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!((LOG1M[0], LOG1M[256]), (1_549_082_005, 1 << 31));
    assert!(LOG1M.windows(2).all(|pair| pair[0] < pair[1]));
}
