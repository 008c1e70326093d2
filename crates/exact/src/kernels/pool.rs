//! Threads of our own: as many as asked for, each on one core, awake between the steps of a forward pass and asleep soon after it.
//!
//! A forward pass is hundreds of short steps (tens of microseconds in decoding), so a step must not cost a system call: threads spin for
//! the next one for a moment, then park. A step does not wait for threads that are still asleep: whoever is awake takes its parts, and the
//! caller, which always takes part, closes the step when no part is left. So an oversubscribed machine is slow, never stuck.

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
};

use super::Isa;

/// Looks at the state before a thread parks: a few tens of microseconds.
const SPINS: u32 = 2_000;
/// The state of a step in one word: how many workers are inside in the low bits, whether more may enter, and the number of the step.
const OPEN: usize = 1 << 16;
const INSIDE: usize = OPEN - 1;
const STEP: usize = OPEN << 1;

thread_local! {
    /// Whether this thread is inside a step of some pool: a step within a step runs on the thread it is on.
    static IN_STEP: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread is the first of some pool.
    static LEADS: Cell<bool> = const { Cell::new(false) };
}

/// Threads that run the parts of a step, and the instructions that their kernels may use. Neither number nor timing of threads can change a
/// bit of a result: parts are fixed by the step, and each writes what no other does.
///
/// Dropping a pool ends its threads and waits for them.
#[derive(Debug)]
pub struct Pool {
    isa: Isa,
    shared: Arc<Shared>,
    /// One step at a time, whoever calls.
    turn: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
    /// The first thread, if there are others: [`Pool::lead`] only.
    leader: Option<JoinHandle<()>>,
    lead: Arc<Lead>,
    /// One task of the first thread at a time, whoever calls.
    lead_turn: Mutex<()>,
}

/// What the first thread is asked to do.
struct Lead {
    task: Mutex<LeadState>,
    change: Condvar,
}

enum LeadState {
    Idle,
    /// A task on the stack of the caller that waits for it.
    Wanted(&'static mut (dyn FnMut() + Send)),
    Running,
    Done,
    End,
}

impl Lead {
    fn work(&self) {
        LEADS.set(true);
        let mut state = lock(&self.task);
        loop {
            match std::mem::replace(&mut *state, LeadState::Running) {
                LeadState::Wanted(task) => {
                    drop(state);
                    task();
                    state = lock(&self.task);
                    *state = LeadState::Done;
                    self.change.notify_all();
                }
                LeadState::End => return,
                other => {
                    *state = other;
                    state = self.change.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

struct Shared {
    state: AtomicUsize,
    /// For each thread, how many parts of its share of the step were taken.
    taken: Vec<Line<AtomicUsize>>,
    step: UnsafeCell<Step>,
    /// The first panic of a part, for the caller.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    end: AtomicBool,
    /// Set by a worker before it parks.
    parked: Vec<AtomicBool>,
    threads: Mutex<Vec<Thread>>,
    /// Set by the caller before it parks, with its handle in `caller`.
    caller_parked: AtomicBool,
    caller: Mutex<Option<Thread>>,
}

/// A cache line of its own.
#[repr(align(64))]
struct Line<T>(T);

#[derive(Clone, Copy)]
struct Step {
    parts: usize,
    run: Option<*const (dyn Fn(usize) + Sync)>,
}

// SAFETY: `step` is written only by the caller that holds the turn, while no worker is inside, and read only by workers that are inside;
// entering acquires what opening released. The pointer in it is to a `Sync` closure that outlives the step.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to one thread.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Lead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lead").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("parked", &self.parked).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `threads`, the calling thread, or the one that [`Pool::lead`] uses, among them. Each is pinned to a core of its own among those
    /// that this process was given (on Linux, and if there are as many). Threads that the system refuses are done without.
    #[must_use]
    pub fn new(isa: Isa, threads: NonZeroUsize) -> Self {
        let others = (threads.get() - 1).min(INSIDE - 1);
        let cores = affinity::cores();
        let shared = Arc::new(Shared {
            state: AtomicUsize::new(0),
            taken: (0..=others).map(|_| Line(AtomicUsize::new(0))).collect(),
            step: UnsafeCell::new(Step { parts: 0, run: None }),
            panic: Mutex::new(None),
            end: AtomicBool::new(false),
            parked: (0..others).map(|_| AtomicBool::new(false)).collect(),
            threads: Mutex::new(Vec::new()),
            caller_parked: AtomicBool::new(false),
            caller: Mutex::new(None),
        });
        let workers: Vec<_> = (0..others)
            .map_while(|worker| {
                let shared = Arc::clone(&shared);
                let own = if cores.len() > others { &cores[worker + 1..worker + 2] } else { cores };
                thread::Builder::new()
                    .name(format!("exact-{}", worker + 1))
                    .spawn(move || {
                        affinity::pin(own);
                        shared.work(worker);
                    })
                    .ok()
            })
            .collect();
        let lead = Arc::new(Lead { task: Mutex::new(LeadState::Idle), change: Condvar::new() });
        let leader = (!workers.is_empty()).then(|| {
            let (lead, own) = (Arc::clone(&lead), if cores.len() > others { &cores[..1] } else { cores });
            let work = move || {
                affinity::pin(own);
                lead.work();
            };
            thread::Builder::new().name("exact-0".to_owned()).spawn(work).ok()
        });
        *lock(&shared.threads) = workers.iter().map(|worker| worker.thread().clone()).collect();
        Self { isa, shared, turn: Mutex::new(()), workers, leader: leader.flatten(), lead, lead_turn: Mutex::new(()) }
    }

    /// A pool of one thread, the caller's, with the fastest kernels of this machine.
    #[must_use]
    pub fn single(isa: Isa) -> Self {
        Self::new(isa, NonZeroUsize::MIN)
    }

    /// The instructions that kernels on this pool use.
    #[must_use]
    pub const fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads, the caller's among them.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Threads that a step would have from here: one within a step.
    #[must_use]
    pub fn width(&self) -> usize {
        if IN_STEP.get() { 1 } else { self.threads() }
    }

    /// Runs `f` on the pool's first thread, which is pinned as the others are, and waits for it asleep. For work of many steps: called from a
    /// thread that floats, their parts would meet on one core. With one thread, or on the first thread already, `f` runs where it is.
    ///
    /// # Panics
    /// With the panic of `f`.
    pub fn lead<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        if self.leader.is_none() || IN_STEP.get() || LEADS.get() {
            return f();
        }
        let turn = lock(&self.lead_turn);
        let (mut f, mut result) = (Some(f), None);
        let mut task = || result = f.take().map(|f| catch_unwind(AssertUnwindSafe(f)));
        let task: &mut (dyn FnMut() + Send) = &mut task;
        // SAFETY: only the lifetime changes. The first thread has called the task and forgotten it before `Done` is set, and this function waits
        // for that, in which nothing panics.
        let task: &'static mut (dyn FnMut() + Send) = unsafe { std::mem::transmute(task) };
        let Lead { task: slot, change } = &*self.lead;
        let mut state = lock(slot);
        *state = LeadState::Wanted(task);
        change.notify_all();
        while !matches!(*state, LeadState::Done) {
            state = change.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *state = LeadState::Idle;
        drop(state);
        drop(turn);
        match result {
            Some(Ok(result)) => result,
            Some(Err(panic)) => resume_unwind(panic),
            None => unreachable!("a task that is done has a result"),
        }
    }

    /// Runs `part(0)` to `part(parts - 1)`, each once, on this pool's threads, and returns when all are done. Within a part it runs its parts
    /// one after the other on the same thread.
    ///
    /// # Panics
    /// With the panic of a part, after all parts that were taken have ended; parts that nobody had taken by then are dropped.
    pub fn run(&self, parts: usize, part: impl Fn(usize) + Sync) {
        if parts <= 1 || self.workers.is_empty() || IN_STEP.get() {
            (0..parts).for_each(part);
            return;
        }
        let turn = lock(&self.turn);
        let shared = &*self.shared;
        let run: &(dyn Fn(usize) + Sync) = &part;
        // SAFETY: only the lifetime changes. The closure lives until this function ends, and it does not end before the step is closed and
        // nobody is inside: `Inside` waits for that also when unwinding.
        let run: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(run) };
        // SAFETY: this thread holds the turn, the last step is closed and nobody is inside.
        unsafe { *shared.step.get() = Step { parts, run: Some(run) } };
        for taken in &shared.taken {
            taken.0.store(0, Ordering::Relaxed);
        }
        let step = shared.state.load(Ordering::Relaxed) & !(STEP - 1);
        shared.state.store(step.wrapping_add(STEP) | OPEN, Ordering::SeqCst);
        shared.wake();
        let inside = Inside(shared);
        shared.take(0, parts, run);
        drop(inside);
        let panic = lock(&shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// Closes the step and waits for the workers that are inside.
struct Inside<'a>(&'a Shared);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let shared = self.0;
        shared.state.fetch_and(!OPEN, Ordering::SeqCst);
        let busy = || shared.state.load(Ordering::Acquire) & INSIDE != 0;
        for _ in 0..SPINS {
            if !busy() {
                return;
            }
            std::hint::spin_loop();
        }
        *lock(&shared.caller) = Some(thread::current());
        shared.caller_parked.store(true, Ordering::SeqCst);
        while shared.state.load(Ordering::SeqCst) & INSIDE != 0 {
            thread::park();
        }
        shared.caller_parked.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    /// Takes parts until none is left: this thread's own share first, one after the other, because they often lie one after the other in memory;
    /// then what others have left of theirs.
    fn take(&self, thread: usize, parts: usize, run: &(dyn Fn(usize) + Sync)) {
        let threads = self.taken.len();
        IN_STEP.set(true);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            for owner in (thread..threads).chain(0..thread) {
                let share = parts * owner / threads..parts * (owner + 1) / threads;
                loop {
                    let part = share.start + self.taken[owner].0.fetch_add(1, Ordering::Relaxed);
                    if part >= share.end {
                        break;
                    }
                    run(part);
                }
            }
        }));
        IN_STEP.set(false);
        if let Err(panic) = ended {
            self.taken.iter().for_each(|taken| taken.0.store(parts, Ordering::Relaxed));
            lock(&self.panic).get_or_insert(panic);
        }
    }

    /// Wakes the workers that have parked. Their flag and our state are both sequentially consistent: either the worker sees the new step
    /// before it parks, or we see its flag.
    fn wake(&self) {
        for (worker, parked) in self.parked.iter().enumerate() {
            if parked.load(Ordering::SeqCst) {
                parked.store(false, Ordering::SeqCst);
                if let Some(thread) = lock(&self.threads).get(worker) {
                    thread.unpark();
                }
            }
        }
    }

    fn work(&self, worker: usize) {
        let mut done = 0;
        while let Some(step) = self.enter(worker, done) {
            // SAFETY: this thread is inside, so nobody writes the step.
            let Step { parts, run } = unsafe { *self.step.get() };
            if let Some(run) = run {
                // SAFETY: the caller keeps the closure alive while anybody is inside.
                self.take(worker + 1, parts, unsafe { &*run });
            }
            done = step;
            // The last one out after the close tells the caller.
            let before = self.state.fetch_sub(1, Ordering::SeqCst);
            if before & (OPEN | INSIDE) == 1
                && self.caller_parked.load(Ordering::SeqCst)
                && let Some(caller) = &*lock(&self.caller)
            {
                caller.unpark();
            }
        }
    }

    /// Waits for an open step other than the one that is done and enters it; its number, or `None` at the end of the pool.
    fn enter(&self, worker: usize, done: usize) -> Option<usize> {
        let mut spins = 0;
        loop {
            let state = self.state.load(Ordering::SeqCst);
            let step = state & !(STEP - 1);
            if state & OPEN != 0 && step != done {
                if self.state.compare_exchange(state, state + 1, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                    return Some(step);
                }
                continue;
            }
            if self.end.load(Ordering::SeqCst) {
                return None;
            }
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            self.parked[worker].store(true, Ordering::SeqCst);
            if self.state.load(Ordering::SeqCst) == state && !self.end.load(Ordering::SeqCst) {
                thread::park();
            }
            self.parked[worker].store(false, Ordering::SeqCst);
            spins = 0;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        *lock(&self.lead.task) = LeadState::End;
        self.lead.change.notify_all();
        if let Some(leader) = self.leader.take() {
            // A task's panic is caught in it.
            let _ = leader.join();
        }
        self.shared.end.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker's panics are caught in its parts.
            let _ = worker.join();
        }
    }
}

/// The data under a lock is whole also after a panic: it is set in one move.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(target_os = "linux")]
mod affinity {
    use std::sync::OnceLock;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    static CORES: OnceLock<Vec<usize>> = OnceLock::new();

    /// The cores that this process was given, in order. Asked for once, before any thread is pinned: a thread inherits its maker's cores.
    pub(super) fn cores() -> &'static [usize] {
        CORES.get_or_init(|| {
            sched_getaffinity(None).map_or_else(|_| Vec::new(), |set| (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
        })
    }

    /// Keeps this thread on these cores. A refusal costs speed, not results.
    pub(super) fn pin(cores: &[usize]) {
        let mut set = CpuSet::new();
        cores.iter().for_each(|&core| set.set(core));
        let _ = sched_setaffinity(None, &set);
    }
}

#[cfg(not(target_os = "linux"))]
mod affinity {
    pub(super) fn cores() -> &'static [usize] {
        &[]
    }

    pub(super) fn pin(_cores: &[usize]) {}
}
