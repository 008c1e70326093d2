//! How many blocks to ask for at once.

/// Grows while answers are small, halves on any failure: no error text is ever read. INVARIANT: at least one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RangeSize {
    blocks: u64,
    largest: u64,
    target_logs: usize,
}

impl RangeSize {
    pub(crate) fn new(largest: u64, target_logs: usize) -> Self {
        let largest = largest.max(1);
        Self { blocks: largest.min(100), largest, target_logs: target_logs.max(1) }
    }

    pub(crate) const fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(crate) fn answered(&mut self, logs: usize) {
        if logs > self.target_logs {
            self.blocks = (self.blocks / 2).max(1);
        } else if logs <= self.target_logs / 2 {
            self.blocks = self.blocks.saturating_mul(2).min(self.largest);
        }
    }

    /// A request for `asked` blocks failed, for whatever reason.
    pub(crate) fn failed(&mut self, asked: u64) {
        self.blocks = (asked / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_failure_halves_down_to_one_block_and_small_answers_grow_it_back() {
        let mut range = RangeSize::new(1_000, 100);
        let mut sizes = vec![range.blocks()];
        for _ in 0..8 {
            range.failed(range.blocks());
            sizes.push(range.blocks());
        }
        assert_eq!(sizes, [100, 50, 25, 12, 6, 3, 1, 1, 1]);
        for _ in 0..20 {
            range.answered(0);
        }
        assert_eq!(range.blocks(), 1_000);
        range.answered(101);
        assert_eq!(range.blocks(), 500);
        range.answered(80);
        assert_eq!(range.blocks(), 500);
    }
}
