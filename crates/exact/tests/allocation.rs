//! Nothing is allocated per token. One test, which is the whole program: its allocator counts for all threads, and a test harness has its own.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use quern_exact::{
    decoder::{Batch, Choose, Decoder, OutputKey, Rule, Run, Workspace},
    header::{Header, NO_ID},
    kernels::{Isa, Pool},
    sample,
};

/// The system's allocator, and how often memory was asked for.
struct Counting(AtomicUsize);

#[global_allocator]
static ALLOCATOR: Counting = Counting(AtomicUsize::new(0));

// SAFETY: everything is handed on to the system's allocator as it comes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.0.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(start, layout) }
    }
}

fn allocations(f: impl FnOnce()) -> usize {
    let before = ALLOCATOR.0.load(Ordering::Relaxed);
    f();
    ALLOCATOR.0.load(Ordering::Relaxed) - before
}

const SEQUENCES: u32 = 8;
/// Past the end of several blocks of 16 positions.
const STEPS: usize = 50;

/// Steps 2 to n of one sequence: the first computes a prompt of three ids.
fn of_one_sequence(decoder: &Decoder, rule: &Rule) -> usize {
    let mut cache = decoder.cache(3 + STEPS).expect("memory");
    let mut work = Workspace::new(decoder.header(), 3);
    let mut step = |ids: &[u32]| {
        let choose = Choose { rule, key: OutputKey { item: 0, sample: 0 }, from: ids.len() - 1 };
        decoder.step(&mut work, &mut [Run { cache: &mut cache, ids, choose: Some(choose) }]).expect("a legal run");
        work.choices()[ids.len() - 1].expect("asked for")
    };
    let mut id = step(&[1, 2, 3]);
    allocations(|| (0..STEPS).for_each(|_| id = step(&[id])))
}

/// Steps 2 to n of eight sequences side by side: the first computes their prompts, of one to eight ids.
fn of_a_batch(decoder: &Decoder, rule: &Rule) -> usize {
    let mut batch = Batch::new(decoder.clone(), 64);
    for item in 0..SEQUENCES {
        let ids: Vec<u32> = (0..=item).collect();
        batch.join(&ids, rule.clone(), OutputKey { item, sample: 0 }).expect("memory");
    }
    let mut made = 0;
    let mut step = |rows| assert_eq!(batch.step(|_| made += 1).expect("a step"), rows);
    step(36);
    let allocated = allocations(|| (0..STEPS).for_each(|_| step(SEQUENCES as usize)));
    assert_eq!(made, 2 * SEQUENCES as usize * (1 + STEPS), "rows and an id of every sequence in every step");
    allocated
}

/// Steps 2 to n of many rows, which threads divide: the same positions again and again.
fn of_many_rows(decoder: &Decoder, rule: &Rule) -> usize {
    const ROWS: usize = 100;
    let mut cache = decoder.cache(ROWS).expect("memory");
    let mut work = Workspace::new(decoder.header(), ROWS);
    let ids: Vec<u32> = (0..100).collect();
    let mut step = |rows: usize| {
        cache.truncate(0);
        let choose = Choose { rule, key: OutputKey { item: 0, sample: 0 }, from: rows - 20 };
        decoder.step(&mut work, &mut [Run { cache: &mut cache, ids: &ids[..rows], choose: Some(choose) }]).expect("a legal run");
    };
    [ROWS, 63].into_iter().for_each(&mut step);
    allocations(|| [ROWS, 99, 80, 63, 40, 64, ROWS].into_iter().for_each(&mut step))
}

fn main() {
    steps_after_the_first_allocate_nothing_for_one_sequence_eight_and_many_rows();
}

fn steps_after_the_first_allocate_nothing_for_one_sequence_eight_and_many_rows() {
    // Choices are cut into parts from 4,096 ids on.
    let header = Header { vocabulary: 20_000, context: 200, ..sample::small_decoder_header() };
    let model = sample::decoder(&header, 1).expect("a valid header");
    let greedy = Rule::greedy(NonZeroU32::new(100).expect("not zero"), [NO_ID; 8]);
    let sampled = Rule { temperature: 60_000, min_p: 1000, seed: [7; 32], ..greedy.clone() };
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8]))) > 0, "the allocator counts");
    for isa in Isa::available() {
        for threads in [1, 2] {
            let decoder = Decoder::new(&model, Arc::new(Pool::new(isa, NonZeroUsize::new(threads).expect("not zero"))));
            for rule in [&greedy, &sampled] {
                let counts = [of_one_sequence(&decoder, rule), of_a_batch(&decoder, rule), of_many_rows(&decoder, rule)];
                assert_eq!(counts, [0; 3], "{isa:?}, {threads} threads, temperature {}", rule.temperature);
            }
        }
    }
}
