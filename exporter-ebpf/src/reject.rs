//! stub until merged
use aya_ebpf::bindings::{__sk_buff, xdp_md};
pub(crate) fn reject_frame(_: *mut xdp_md) -> u32 { 1 }
pub(crate) fn reject_buffer(_: *mut __sk_buff) -> i32 { 2 }
pub(crate) fn reset_both(_: *mut __sk_buff) -> i32 { 2 }
