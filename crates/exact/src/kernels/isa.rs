//! Which instructions a kernel may use. A value is the proof that this machine has them.

/// Instructions that a kernel may use. Every value but [`Isa::Portable`] carries the proof that this machine has them:
/// [`Isa::detect`] and [`Isa::available`] are the only makers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Whatever the target has; every machine.
    Portable,
    /// x86-64 with AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// aarch64 with NEON, which every aarch64 has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// aarch64 with NEON's int8 dot product.
    #[cfg(target_arch = "aarch64")]
    DotProd(DotProd),
}

/// Proof that this machine has AVX2.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Avx2(());

/// Proof that this machine has AVX-512 F, BW, DQ, VL and VNNI; it then has AVX2 too.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Avx512(());

/// Proof that this machine has NEON's int8 dot product.
#[cfg(target_arch = "aarch64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DotProd(());

impl Isa {
    /// The fastest that this machine has.
    #[must_use]
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Self::Portable)
    }

    /// Everything that this machine has, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") {
                all.push(Self::Avx2(Avx2(())));
                if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vnni") {
                    all.push(Self::Avx512(Avx512(())));
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            all.push(Self::Neon);
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                all.push(Self::DotProd(DotProd(())));
            }
        }
        all
    }
}

/// Defines `$name(isa, args)` from a body that is compiled once for every target, once for AVX2 and once for AVX-512.
macro_rules! multiversion {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? = $body:ident) => {
        $(#[$doc])*
        $vis fn $name(isa: $crate::kernels::Isa, $($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $ty),*) $(-> $out)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            fn avx512($($arg: $ty),*) $(-> $out)? {
                $body($($arg),*)
            }
            match isa {
                $crate::kernels::Isa::Portable => $body($($arg),*),
                // SAFETY: a value of `Avx2` exists only on a machine that has the instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Isa::Avx2(_) => unsafe { avx2($($arg),*) },
                // SAFETY: a value of `Avx512` exists only on a machine that has the instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Isa::Avx512(_) => unsafe { avx512($($arg),*) },
                // NEON is the target's baseline: the plain body is compiled for it.
                #[cfg(target_arch = "aarch64")]
                $crate::kernels::Isa::Neon | $crate::kernels::Isa::DotProd(_) => $body($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;
