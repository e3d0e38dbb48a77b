//! The Internet checksum (RFC 1071).

/// A word as the sum of its two halves.
#[inline(always)]
pub(super) const fn sum(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// A sum in ones' complement, of 16 bits. (Of no more than 65,536 halves: those of some headers.)
#[inline(always)]
pub(super) const fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The sum of some words.
#[inline(always)]
pub(super) fn sum_all<const N: usize>(words: &[u32; N]) -> u32 {
    words.iter().map(|&word| sum(word)).sum()
}
