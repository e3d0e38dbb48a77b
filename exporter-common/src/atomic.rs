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

/// Keeps of `*word` the bits that are in `bits` too, and answers with what it was.
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
