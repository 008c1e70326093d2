/// Runs the body with a constant from 0 below a number of at most 8. A loop over accumulators that the compiler leaves rolled keeps them in
/// memory instead of in registers, at half the speed.
macro_rules! unroll {
    ($at:ident < $n:expr, $body:block) => { unroll!(@ $at, $n, $body, 0 1 2 3 4 5 6 7) };
    (@ $at:ident, $n:expr, $body:block, $($value:literal)*) => {{ $({
        const $at: usize = $value;
        if $at < $n $body
    })* }};
}
pub(crate) use unroll;
