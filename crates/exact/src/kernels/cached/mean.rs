//! The last step of attention: sums of weight times value over the sum of weights.

#[cfg(target_arch = "x86_64")]
use super::avx512;
use crate::{
    arith::{clamp32, rdiv},
    kernels::Isa,
};

/// `rdiv(sum << shift, total)` for one total and many sums: a multiplication by the reciprocal, and the remainder decides.
pub(super) struct Mean {
    pub(super) total: i64,
    pub(super) shift: u32,
    /// floor(2^63 / 2 · total), below 2^39.
    pub(super) reciprocal: i64,
}

impl Mean {
    pub(super) const fn new(total: i64, shift: u32) -> Self {
        Self { total, shift, reciprocal: (1u64 << 63).div_euclid(2 * total.unsigned_abs()).cast_signed() }
    }

    /// With |sum << shift| < 2^61 and total <= 2^39, |2 · sum + total| < 2^63, so what the reciprocal lacks of 2^63 / 2 · total is worth less than
    /// one, and the quotient ends at most one from its place.
    #[inline(always)]
    fn of(&self, sum: i64) -> i32 {
        if sum.unsigned_abs() >= 1 << (61 - self.shift) {
            return clamp32(i64::try_from(rdiv(i128::from(sum) << self.shift, i128::from(self.total))).unwrap_or(0));
        }
        let (numerator, divisor) = (2 * (sum << self.shift) + self.total, 2 * self.total);
        #[expect(clippy::cast_possible_truncation, reason = "the quotient is the mean, below 2^32")]
        let near = ((i128::from(numerator) * i128::from(self.reciprocal)) >> 63) as i64;
        let rest = numerator.wrapping_sub(near.wrapping_mul(divisor));
        clamp32(near.wrapping_add(i64::from(rest >= divisor)).wrapping_sub(i64::from(rest < 0)))
    }

    /// Results of some dims, whose sums are at most 32767 · total.
    pub(super) fn write(&self, isa: Isa, sums: &[i64], out: &mut [i32]) {
        match isa {
            // SAFETY: values of `Avx512` and `Amx` exist only on a machine that has the instructions.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) | Isa::Amx(_) if self.shift <= 15 && self.bits() + self.shift <= 48 => unsafe { avx512::means(sums, self, out) },
            _ => {
                for (out, &sum) in out.iter_mut().zip(sums) {
                    *out = self.of(sum);
                }
            }
        }
    }

    /// 2^(bits - 1) < 2 · total <= 2^bits: 25 to 40.
    #[cfg(target_arch = "x86_64")]
    pub(super) const fn bits(&self) -> u32 {
        (2 * self.total - 1).unsigned_abs().ilog2() + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{Just, ProptestConfig, Strategy, any, prop_assert_eq, prop_oneof, proptest},
    };

    use super::Mean;
    use crate::{
        arith::{clamp32, rdiv},
        kernels::Isa,
    };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        /// Totals and sums of every length, multiples and halves of the total, and the ends: 2^24 to 2^39, 2^54.
        #[test]
        fn mean_by_reciprocal_is_the_rounded_quotient(
            total in (24..39u32, any::<u64>()).prop_map(|(bits, rest)| (1i64 << bits) + i64::try_from(rest & ((1 << bits) - 1)).expect("39 bits")),
            (bits, rest, kind) in (0..55u32, any::<i64>(), 0..4u8), near in -2..=2i64,
            shift in prop_oneof![0..=16u32, Just(16)],
        ) {
            let any_sum = rest >> (63 - bits);
            let sum = match kind {
                // A multiple of half of the total, and its neighbours.
                0 => ((any_sum % 0x7fff) * total / 2 + near).clamp(-(1 << 54), 1 << 54),
                1 => (1 << 54) * rest.signum() + near,
                _ => any_sum,
            };
            let expected = clamp32(i64::try_from(rdiv(i128::from(sum) << shift, i128::from(total))).expect("64 bits"));
            prop_assert_eq!(Mean::new(total, shift).of(sum), expected);
        }

        /// Of values of every size up to the greatest, on every instruction set: multiples and halves of the total among the sums.
        #[test]
        fn means_of_many_dims_are_rounded_quotients(
            total in prop_oneof![
                (24..39u32, any::<u64>()).prop_map(|(bits, rest)| (1i64 << bits) + i64::try_from(rest & ((1 << bits) - 1)).expect("39 bits")),
                (24..=39u32, -1..=1i64).prop_map(|(bits, near)| ((1i64 << bits) + near).clamp(1 << 24, 1 << 39)),
            ],
            values in vec((-0xffff..=0xffffi64, -2..=2i64, any::<bool>(), any::<u64>()), 1..20), shift in 0..=16u32,
        ) {
            let sums: Vec<i64> = values.into_iter().map(|(twice, near, exact, rest)| {
                let between = if exact { near } else { i64::try_from(rest % total.unsigned_abs()).expect("39 bits") };
                (twice * total / 2 + between).clamp(-0x7fff * total, 0x7fff * total)
            }).collect();
            let quotient = |&sum: &i64| clamp32(i64::try_from(rdiv(i128::from(sum) << shift, i128::from(total))).expect("64 bits"));
            let expected: Vec<i32> = sums.iter().map(quotient).collect();
            for isa in Isa::available() {
                let mut out = vec![0; sums.len()];
                Mean::new(total, shift).write(isa, &sums, &mut out);
                prop_assert_eq!(&out, &expected, "{:?}", isa);
            }
        }
    }
}
