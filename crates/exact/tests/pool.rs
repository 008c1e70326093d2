//! The thread pool: every part once, panics reach the caller, nobody is left behind.

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
};

use quern_exact::kernels::{Isa, Pool};

fn pool(threads: usize) -> Pool {
    Pool::new(Isa::Portable, NonZeroUsize::new(threads).expect("not zero"))
}

fn counts(pool: &Pool, parts: usize) -> Vec<usize> {
    let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
    pool.run(parts, |part| {
        counts[part].fetch_add(1, Ordering::Relaxed);
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn each_part_runs_once_for_every_number_of_threads() {
    for threads in [1, 2, 3, 16] {
        let pool = pool(threads);
        assert_eq!(pool.threads(), threads);
        for parts in [0, 1, 2, 3, 7, 100] {
            for _ in 0..200 {
                assert_eq!(counts(&pool, parts), vec![1; parts], "{threads} threads");
            }
        }
    }
}

#[test]
fn results_of_a_step_are_there_when_it_returns() {
    let pool = pool(2);
    let cells: Vec<_> = (0..64).map(|_| AtomicUsize::new(0)).collect();
    for round in 1..2_000 {
        pool.run(64, |part| cells[part].store(round, Ordering::Relaxed));
        assert!(cells.iter().all(|cell| cell.load(Ordering::Relaxed) == round));
    }
}

#[test]
fn many_callers_take_turns() {
    let pool = pool(3);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    assert_eq!(counts(&pool, 5), [1; 5]);
                }
            });
        }
    });
}

#[test]
fn a_step_within_a_step_runs_on_the_thread_it_is_on() {
    let pool = pool(2);
    let total = AtomicUsize::new(0);
    pool.run(8, |_| {
        pool.run(8, |_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(total.into_inner(), 64);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    for threads in [1, 2, 5] {
        let pool = pool(threads);
        for bad in [0, 7, 63] {
            let panic = catch_unwind(AssertUnwindSafe(|| pool.run(64, |part| assert_ne!(part, bad, "part {bad} is bad"))));
            let panic = panic.expect_err("part panics");
            assert!(panic.downcast_ref::<String>().is_some_and(|text| text.contains(&format!("part {bad} is bad"))));
            assert_eq!(counts(&pool, 64), vec![1; 64]);
        }
    }
}

/// Dropping joins: after it no thread of the pool can hold what its parts borrowed or shared.
#[test]
fn dropping_ends_the_threads_whether_they_work_spin_or_sleep() {
    for rounds in 0..100 {
        let pool = pool(4);
        for _ in 0..rounds % 3 {
            assert_eq!(counts(&pool, 9), [1; 9]);
        }
        if rounds % 10 == 0 {
            // Long enough for the others to park: they are woken by the drop.
            (0..200_000).for_each(|_| std::hint::spin_loop());
        }
        drop(pool);
    }
}

#[test]
fn what_the_first_thread_is_asked_for_comes_back_also_a_panic() {
    for threads in [1, 2, 3] {
        let pool = pool(threads);
        let mut seen = vec![];
        for round in 0..200 {
            let here = std::thread::current().id();
            // What it borrows lives here; its steps run on all threads, and it may lead again.
            let (there, sum) = pool.lead(|| {
                seen.push(round);
                (std::thread::current().id(), pool.lead(|| counts(&pool, 7).into_iter().sum::<usize>()))
            });
            assert_eq!((there == here, sum), (threads == 1, 7));
        }
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        let panic = catch_unwind(AssertUnwindSafe(|| pool.lead(|| assert_eq!(threads, 0, "no threads")))).expect_err("the task panics");
        assert!(panic.downcast_ref::<String>().is_some_and(|text| text.contains("no threads")));
        assert_eq!(pool.lead(|| counts(&pool, 3)), [1; 3]);
    }
}

#[test]
fn many_callers_of_the_first_thread_take_turns() {
    let pool = pool(2);
    std::thread::scope(|scope| {
        for caller in 0..4usize {
            let pool = &pool;
            scope.spawn(move || (0..100).for_each(|round| assert_eq!(pool.lead(|| caller + round), caller + round)));
        }
    });
}
