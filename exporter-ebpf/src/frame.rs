//! Reading a socket buffer as a [`Frame`].
//!
//! The headers nearly always lie in the linear part of the buffer, where a program may read them directly. Where that
//! ends too soon (some drivers leave even the headers in pages), or the headers are out of the ordinary, the whole parser
//! runs over [`Paged`], which asks the kernel to copy. Trying both at each read would make the usual way slower and the
//! program several times longer.

use aya_ebpf::{EbpfContext as _, helpers::bpf_skb_load_bytes, programs::TcContext};
use tidewaiter_common::frame::Frame;

use crate::context::length;

/// The linear part of a socket buffer, read directly.
pub(crate) struct Linear<'a>(pub(crate) &'a TcContext);

impl Frame for Linear<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        length(self.0)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.0.data() + offset;
        if start + N > self.0.data_end() {
            return None;
        }
        // SAFETY: these bytes lie within the linear part of the buffer; the verifier holds us to the comparison above.
        Some(unsafe { (start as *const [u8; N]).read() })
    }
}

/// The whole of a socket buffer, copied from wherever it lies.
pub(crate) struct Paged<'a>(pub(crate) &'a TcContext);

impl Frame for Paged<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        length(self.0)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the helper writes `N` bytes to `bytes`, which has room for them, or fails.
        let result = unsafe { bpf_skb_load_bytes(self.0.as_ptr(), offset as u32, bytes.as_mut_ptr().cast(), N as u32) };
        (result == 0).then_some(bytes)
    }
}
