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
    /// x86-64 with AMX for int8 on top of AVX-512: products of many positions are made in tiles.
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
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

/// Proof that this machine has AMX tiles with products of int8, and that the system lets this process use them; it then has all of [`Avx512`] too.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Amx(());

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
                    if amx::permitted() {
                        all.push(Self::Amx(Amx(())));
                    }
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

#[cfg(target_arch = "x86_64")]
mod amx {
    #[cfg(target_os = "linux")]
    pub(super) fn permitted() -> bool {
        static PERMITTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        // Asked for once: it is given to all threads, and to the end of the process.
        *PERMITTED.get_or_init(|| exists() && ask())
    }

    /// Others give tiles in ways of their own, or not at all.
    #[cfg(not(target_os = "linux"))]
    pub(super) const fn permitted() -> bool {
        false
    }

    /// Whether processor and system know tiles and their products of int8.
    #[cfg(target_os = "linux")]
    fn exists() -> bool {
        use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
        const TILE: u32 = 1 << 24;
        const INT8: u32 = 1 << 25;
        const STATE: u64 = 3 << 17;
        let listed = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (TILE | INT8) == TILE | INT8;
        // SAFETY: the system has turned on AVX, so it has turned on `xsave`, of which this is a part.
        listed && std::arch::is_x86_feature_detected!("xsave") && unsafe { _xgetbv(0) } & STATE == STATE
    }

    /// Asks for the tiles' data, whose 8 KiB a thread gets only when its process may have it: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA)`.
    /// Refused by kernels before 5.16, and where the stack for signals that a thread has set up is too small for it.
    #[cfg(target_os = "linux")]
    fn ask() -> bool {
        const ARCH_PRCTL: u64 = 158;
        const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
        const XFEATURE_XTILE_DATA: u64 = 18;
        let result: i64;
        // SAFETY: the call takes two numbers and touches no memory of ours; `syscall` overwrites rcx and r11.
        unsafe {
            std::arch::asm!(
                "syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILE_DATA,
                lateout("rcx") _, lateout("r11") _, options(nostack),
            );
        }
        result == 0
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
                // SAFETY: values of `Avx512` and `Amx` exist only on a machine that has the instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Isa::Avx512(_) | $crate::kernels::Isa::Amx(_) => unsafe { avx512($($arg),*) },
                // NEON is the target's baseline: the plain body is compiled for it.
                #[cfg(target_arch = "aarch64")]
                $crate::kernels::Isa::Neon | $crate::kernels::Isa::DotProd(_) => $body($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;
