//! Atomic instructions on 64-bit words of a map.
//!
//! The compiler's own atomics lack these for the BPF target, although BPF has the instructions (`BPF_ATOMIC`,
//! `Documentation/bpf/standardization/instruction-set.rst`). Those that answer with the old value are fully ordered, the
//! others not at all.

#[cfg(target_arch = "bpf")]
use core::arch::asm;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU64, Ordering};

/// Adds `value` to `*word`.
///
/// # Safety
/// `word` is aligned, may be written to, and whoever else writes to it does so atomically.
#[inline(always)]
pub unsafe fn add(word: *mut u64, value: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) += {value}", word = in(reg) word, value = in(reg) value);
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(word) }.fetch_add(value, Ordering::Relaxed);
}

/// Adds `value` to `*word`, and answers with what it was.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u64, value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: the caller's.
        unsafe {
            asm!("{value} = atomic_fetch_add((u64 *)({word} + 0), {value})", word = in(reg) word, value = inout(reg) value);
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(word) }.fetch_add(value, Ordering::SeqCst)
}

/// Sets `bits` in `*word`, and answers with what it was.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub unsafe fn fetch_or(word: *mut u64, bits: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = bits;
        // SAFETY: the caller's.
        unsafe {
            asm!("{value} = atomic_fetch_or((u64 *)({word} + 0), {value})", word = in(reg) word, value = inout(reg) value);
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(word) }.fetch_or(bits, Ordering::SeqCst)
}

/// Clears whatever is not in `bits` of `*word`, and answers with what it was.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub unsafe fn fetch_and(word: *mut u64, bits: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = bits;
        // SAFETY: the caller's.
        unsafe {
            asm!("{value} = atomic_fetch_and((u64 *)({word} + 0), {value})", word = in(reg) word, value = inout(reg) value);
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(word) }.fetch_and(bits, Ordering::SeqCst)
}

/// Replaces `*word`, and answers with what it was.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub unsafe fn swap(word: *mut u64, value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: the caller's.
        unsafe {
            asm!("{value} = xchg_64({word} + 0, {value})", word = in(reg) word, value = inout(reg) value);
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(word) }.swap(value, Ordering::SeqCst)
}

/// Replaces `*word` by `new` if it is `expected`, and answers with what it was: `expected` if that was done.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub unsafe fn compare_exchange(word: *mut u64, expected: u64, new: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = expected;
        // SAFETY: the caller's. The instruction has one place for what is expected and for the answer, r0.
        unsafe {
            asm!("r0 = cmpxchg_64({word} + 0, r0, {new})", word = in(reg) word, new = in(reg) new, inout("r0") value);
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's.
    match unsafe { AtomicU64::from_ptr(word) }.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(value) | Err(value) => value,
    }
}
