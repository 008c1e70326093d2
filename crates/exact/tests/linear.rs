//! Products on every instruction set of this machine, for every class of shape, on any number of threads, from any storage, equal the plain
//! definition to the bit.

use std::{num::NonZeroUsize, sync::Arc};

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest},
};
use quern_exact::{
    arith::clamp32,
    bounds,
    format::Q8Matrix,
    kernels::{self, Isa, KvCache, Operands, OutOfMemory, Packed, PackedError, Pages, Pool},
    reference,
    sample::Generator,
};

const LIMIT: i32 = i32::MAX;

fn activation() -> impl Strategy<Value = i32> {
    prop_oneof![
        4 => -60_000..60_000i32,
        2 => any::<i32>().prop_map(|x| clamp32(i64::from(x))),
        1 => prop_oneof![Just(0), Just(LIMIT), Just(-LIMIT), Just(32_767), Just(-32_767), Just(32_768), Just(-32_768)],
    ]
}

fn activations(len: usize) -> impl Strategy<Value = Vec<i32>> {
    prop_oneof![4 => vec(activation(), len), 1 => activation().prop_map(move |x| vec![x; len])]
}

fn matrix(rows: usize, cols: usize) -> impl Strategy<Value = Q8Matrix> {
    let groups = rows * cols.div_ceil(bounds::GROUP);
    let weights = prop_oneof![4 => vec(-127..=127i8, rows * cols), 1 => prop_oneof![Just(127i8), Just(-127), Just(0)].prop_map(move |w| vec![w; rows * cols])];
    let mantissas = prop_oneof![vec(1..=u16::MAX, groups), Just(vec![u16::MAX; groups]), Just(vec![1; groups])];
    let shifts = vec(prop_oneof![bounds::ROW_SHIFT_MIN..=bounds::ROW_SHIFT_MAX, Just(bounds::ROW_SHIFT_MIN)], rows);
    let bias = prop::option::of(vec(any::<i32>(), rows));
    (weights, mantissas, shifts, bias).prop_map(move |(weights, mantissas, shifts, bias)| {
        Q8Matrix::new(rows, cols, weights, mantissas, shifts, bias).expect("legal parts")
    })
}

/// A matrix of random legal parts, without the cost of a strategy.
fn random(rows: usize, cols: usize, seed: u64) -> Q8Matrix {
    let mut generator = Generator::new(seed);
    let mut number = |low: i64, high: i64| generator.within(low, high);
    let weights: Vec<i8> = (0..rows * cols).map(|_| i8::try_from(number(-127, 127)).expect("a weight")).collect();
    let mantissas = (0..rows * cols.div_ceil(128)).map(|_| u16::try_from(number(1, 65_535)).expect("a mantissa")).collect();
    let shifts = (0..rows).map(|_| u8::try_from(number(17, 45)).expect("a shift")).collect();
    let bias = (0..rows).map(|_| i32::try_from(number(-100_000, 100_000)).expect("a bias")).collect();
    Q8Matrix::new(rows, cols, weights, mantissas, shifts, Some(bias)).expect("legal parts")
}

fn random_rows(len: usize, seed: u64) -> Vec<i32> {
    let mut generator = Generator::new(seed);
    (0..len).map(|at| i32::try_from(generator.within(-3_000_000, 3_000_000)).expect("in range") >> (at % 23)).collect()
}

fn plain(matrix: &Q8Matrix, rows: &[i32]) -> Vec<i32> {
    rows.chunks_exact(matrix.cols()).flat_map(|row| reference::linear(matrix, &reference::to_operand(row))).collect()
}

fn pool(isa: Isa, threads: usize) -> Pool {
    Pool::new(isa, NonZeroUsize::new(threads).expect("not zero"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Rows below, at and above one, three and four blocks; columns of every rest by 4, and about 64, 128 and 576; every width of a tile, panels of two
    /// widths.
    #[test]
    fn products_equal_plain_for_every_class_of_shape(
        (matrix, rows) in (prop_oneof![1..20usize, 45..52usize, 60..70usize], prop_oneof![1..12usize, 60..70usize, 124..136usize, 250..300usize, 570..580usize], 1..41usize)
            .prop_flat_map(|(rows, cols, positions)| (matrix(rows, cols), activations(cols * positions)))
    ) {
        let expected = plain(&matrix, &rows);
        let packed = Packed::new(&matrix);
        for isa in Isa::available() {
            prop_assert_eq!(&kernels::linear(isa, &packed, &kernels::to_operands(isa, &rows, matrix.cols())), &expected, "{:?}", isa);
        }
    }

    #[test]
    fn packing_loses_nothing(
        matrix in (1..40usize, 1..300usize).prop_flat_map(|(rows, cols)| matrix(rows, cols)), scale in prop_oneof![Just(0), 1..=bounds::EMBEDDING_SCALE],
    ) {
        let packed = Packed::new(&matrix);
        for (at, row) in matrix.iter_rows().enumerate() {
            let unpacked = packed.row(at).expect("a row");
            prop_assert_eq!(unpacked.as_row(), row);
            let mut embedding = vec![i32::MIN; matrix.cols()];
            packed.embed_word(at, scale, &mut embedding);
            prop_assert_eq!(embedding, reference::embed_word(row, scale));
        }
        prop_assert_eq!(packed.row(matrix.rows()), None);
        prop_assert_eq!((packed.rows(), packed.cols()), (matrix.rows(), matrix.cols()));
    }

    #[test]
    fn operands_filled_again_forget_what_they_were(first in activations(9 * 130), second in activations(3 * 37), third in activations(20 * 70)) {
        for isa in Isa::available() {
            let pool = pool(isa, 2);
            let mut operands = Operands::new(isa);
            for (rows, cols) in [(&first, 130), (&second, 37), (&third, 70), (&first, 130)] {
                operands.fill(&pool, rows, cols);
                for (at, row) in rows.chunks_exact(cols).enumerate() {
                    let plain = reference::to_operand(row);
                    prop_assert_eq!((operands.row(at), operands.shift(at)), (plain.elements, plain.shift));
                }
                let matrix = random(19, cols, 3);
                prop_assert_eq!(kernels::linear(isa, &Packed::new(&matrix), &operands), self::plain(&matrix, rows));
            }
        }
    }
}

/// Long enough for several chunks of positions, and for rows on every thread.
#[test]
fn products_are_equal_for_every_number_of_threads_and_positions() {
    let (wide, narrow) = (random(130, 576, 1), random(50, 576, 2));
    let packed = [&wide, &narrow].map(Packed::new);
    for positions in [1, 2, 3, 5, 8, 9, 17, 64, 131, 300] {
        let rows = random_rows(576 * positions, 7);
        let expected = [plain(&wide, &rows), plain(&narrow, &rows)];
        for isa in Isa::available() {
            for threads in [1, 2, 5] {
                let pool = pool(isa, threads);
                let mut operands = Operands::new(isa);
                operands.fill(&pool, &rows, 576);
                let mut out = [vec![0; 130 * positions], vec![0; 50 * positions]];
                let [first, second] = &mut out;
                kernels::linear_into(&pool, &mut [(&packed[0], first), (&packed[1], second)], &operands);
                assert!(out == expected, "{isa:?}, {threads} threads, {positions} positions");
            }
        }
    }
}

/// Every factor at its limit in every tile, K up to the greatest: the 32-bit sums of digits come within 2^16 of 2^30, the whole within its 2^53.
#[test]
fn products_at_every_limit_fit_in_every_tile() {
    for cols in [128, 1000, bounds::PRODUCT_COLS as usize] {
        let rows = 65;
        for weight in [127i8, -127] {
            let shifts = (0..rows).map(|row| if row % 2 == 0 { 17 } else { 62 }).collect();
            let mantissas = vec![u16::MAX; rows * cols.div_ceil(128)];
            let matrix = Q8Matrix::new(rows, cols, vec![weight; rows * cols], mantissas, shifts, Some(vec![-LIMIT; rows])).expect("legal");
            let packed = Packed::new(&matrix);
            for positions in [1, 2, 3, 4, 8, 17] {
                let x: Vec<i32> = (0..positions).flat_map(|at| vec![if at % 2 == 0 { LIMIT } else { -LIMIT }; cols]).collect();
                let expected = plain(&matrix, &x);
                for isa in Isa::available() {
                    assert!(
                        kernels::linear(isa, &packed, &kernels::to_operands(isa, &x, cols)) == expected,
                        "{isa:?} {cols} {weight} {positions}"
                    );
                }
            }
        }
    }
}

/// Two matrices in one buffer, opened where they lie.
#[test]
fn a_packed_matrix_opens_in_a_shared_buffer_without_a_copy() {
    let matrices = [random(33, 200, 4), random(16, 64, 5)];
    let sizes = [Packed::bytes(33, 200), Packed::bytes(16, 64)];
    assert!(sizes.iter().all(|size| size % 64 == 0));
    let mut pages = Pages::new(sizes[0] + sizes[1]);
    let (first, second) = pages.as_mut_slice().split_at_mut(sizes[0]);
    Packed::write(&matrices[0], first);
    Packed::write(&matrices[1], second);
    let buffer: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(pages);
    let opened = [
        Packed::open(Arc::clone(&buffer), 0, 33, 200).expect("as written"),
        Packed::open(Arc::clone(&buffer), sizes[0], 16, 64).expect("as written"),
    ];
    for (matrix, opened) in matrices.iter().zip(&opened) {
        assert_eq!(opened.as_bytes(), Packed::new(matrix).as_bytes());
        let rows = random_rows(3 * matrix.cols(), 6);
        for isa in Isa::available() {
            assert_eq!(kernels::linear(isa, opened, &kernels::to_operands(isa, &rows, matrix.cols())), plain(matrix, &rows));
        }
    }
    assert_eq!(opened[1].as_bytes().as_ptr(), (*buffer).as_ref()[sizes[0]..].as_ptr());
}

#[test]
fn matrices_packed_together_are_those_packed_alone() {
    let matrices = [random(33, 200, 4), random(16, 64, 5), random(1, 1, 6)];
    let together = Packed::all(&matrices.each_ref());
    assert_eq!(together.len(), 3);
    for (matrix, packed) in matrices.iter().zip(&together) {
        assert_eq!(packed.as_bytes(), Packed::new(matrix).as_bytes());
    }
    let distance = together[1].as_bytes().as_ptr().addr() - together[0].as_bytes().as_ptr().addr();
    assert_eq!(distance, Packed::bytes(33, 200));
    assert!(Packed::all(&[]).is_empty());
}

#[test]
fn bytes_that_are_not_the_packed_matrix_are_refused_by_what_is_wrong() {
    let size = Packed::bytes(16, 64);
    let packed = |change: &dyn Fn(&mut [u8])| -> Arc<dyn AsRef<[u8]> + Send + Sync> {
        let mut pages = Pages::new(size + 64);
        Packed::write(&random(16, 64, 5), &mut pages.as_mut_slice()[..size]);
        change(pages.as_mut_slice());
        Arc::new(pages)
    };
    let good = packed(&|_| ());
    let open = |buffer: &Arc<dyn AsRef<[u8]> + Send + Sync>, at, rows, cols| Packed::open(Arc::clone(buffer), at, rows, cols).map(|_| ());
    assert_eq!(open(&good, 0, 16, 64), Ok(()));
    let shape = PackedError::Shape { at: 0, rows: 16, cols: 64, expected_rows: 64, expected_cols: 16 };
    assert_eq!(open(&good, 0, 64, 16), Err(shape));
    for at in [0, 7, 8, 12 + 3, 16 + 3] {
        let bad = packed(&|bytes| bytes[at] ^= 0x80);
        assert_eq!(open(&bad, 0, 16, 64), Err(PackedError::Layout { at: 0 }), "byte {at}");
    }
    assert_eq!(open(&good, 64, 16, 64), Err(PackedError::Layout { at: 64 }));
    assert_eq!(open(&good, usize::MAX, 16, 64), Err(PackedError::Truncated { start: usize::MAX, end: usize::MAX, len: size + 64 }));
    let shifted = packed(&|bytes| bytes.copy_within(..size, 1));
    assert_eq!(open(&shifted, 1, 16, 64), Err(PackedError::Alignment { at: 1 }));
    let mut cut = Pages::new(128);
    cut.as_mut_slice().copy_from_slice(&(*good).as_ref()[..128]);
    let cut: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(cut);
    assert_eq!(open(&cut, 0, 16, 64), Err(PackedError::Truncated { start: 0, end: size, len: 128 }));
}

#[test]
fn pages_are_zero_and_aligned() {
    for len in [0, 1, 4096, (2 << 20) - 1, 2 << 20, (4 << 20) + 5] {
        let pages = Pages::new(len);
        let bytes = pages.as_ref();
        assert_eq!(bytes.len(), len);
        assert!(bytes.iter().all(|&byte| byte == 0));
        assert!(bytes.as_ptr().addr().is_multiple_of(if len >= 2 << 20 { 2 << 20 } else { 64 }));
    }
}

#[test]
fn memory_that_no_machine_has_is_an_error() {
    for bytes in [1 << 55, usize::MAX] {
        assert_eq!(Pages::try_new(bytes).err(), Some(OutOfMemory { bytes }));
    }
    // 2^30 heads of 256 dims at 2^15 positions: 2^55 bytes of keys and values.
    assert_eq!(KvCache::try_new(1 << 30, 256, 1 << 15).err(), Some(OutOfMemory { bytes: 1 << 55 }));
}

#[test]
#[should_panic(expected = "as many elements as the matrix has columns")]
fn operands_of_another_width_are_refused() {
    let packed = Packed::new(&random(16, 64, 1));
    let _ = kernels::linear(Isa::Portable, &packed, &kernels::to_operands(Isa::Portable, &[1; 65], 65));
}
