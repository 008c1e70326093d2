use super::{Pool, slots::Slots};

/// Runs `f(first row, rows)` on pieces of `rows`, a matrix of `width` columns, on the threads of a pool. Each row is in one piece.
///
/// # Panics
/// If `width` is 0.
pub fn each_piece(pool: &Pool, rows: &mut [i32], width: usize, f: impl Fn(usize, &mut [i32]) + Sync) {
    /// Less is not worth waking a thread for.
    const LEAST: usize = 2048;
    let count = rows.len() / width;
    // Several pieces per thread level out what threads lose to others.
    let pieces = count.min(rows.len() / LEAST).min(4 * pool.width()).max(1);
    let slots = Slots::new(rows);
    pool.run(pieces, |piece| {
        let (first, end) = (count * piece / pieces, count * (piece + 1) / pieces);
        // SAFETY: pieces do not overlap.
        f(first, unsafe { slots.piece(first * width..end * width) });
    });
}

/// Runs `f` on each element, side by side on the threads of a pool.
pub fn each<T: Send>(pool: &Pool, elements: &mut [T], f: impl Fn(&mut T) + Sync) {
    let count = elements.len();
    let slots = Slots::new(elements);
    pool.run(count, |at| {
        // SAFETY: each part has the element of its own index.
        unsafe { slots.piece(at..at + 1) }.iter_mut().for_each(&f);
    });
}

/// As [`each`], on each element and the one of `others` at the same index.
///
/// # Panics
/// If there are not as many others.
pub fn each_pair<T: Send, U: Send>(pool: &Pool, elements: &mut [T], others: &mut [U], f: impl Fn(&mut T, &mut U) + Sync) {
    assert_eq!(elements.len(), others.len(), "pairs");
    let others = Slots::new(others);
    let (count, elements) = (elements.len(), Slots::new(elements));
    pool.run(count, |at| {
        // SAFETY: each part has the elements of its own index.
        let (elements, others) = unsafe { (elements.piece(at..at + 1), others.piece(at..at + 1)) };
        elements.iter_mut().zip(others).for_each(|(element, other)| f(element, other));
    });
}

/// Replaces `results` by those of `f(0)` to `f(count - 1)`, in order, computed on the threads of a pool.
pub(super) fn map_into<T: Copy + Default + Send>(pool: &Pool, results: &mut Vec<T>, count: usize, f: impl Fn(usize) -> T + Sync) {
    results.clear();
    results.resize(count, T::default());
    let slots = Slots::new(results);
    pool.run(count, |at| {
        let result = f(at);
        // SAFETY: each part writes its own element.
        let slot = unsafe { slots.piece(at..at + 1) };
        slot.fill(result);
    });
}
