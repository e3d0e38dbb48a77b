//! The system calls that no crate here has: reading a map in batches, and the cookie of a network namespace.

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use aya::Pod;
use rustix::net::{AddressFamily, SocketType, socket};

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`, `include/uapi/linux/bpf.h`; Linux 5.6.
const MAP_LOOKUP_BATCH: libc::c_long = 24;
/// `BPF_MAP_UPDATE_BATCH`, likewise.
const MAP_UPDATE_BATCH: libc::c_long = 26;
/// `MEMBARRIER_CMD_GLOBAL` of `enum membarrier_cmd`, `include/uapi/linux/membarrier.h`; Linux 4.3.
const MEMBARRIER_GLOBAL: libc::c_long = 1;

/// The part of `union bpf_attr` that batches use (`include/uapi/linux/bpf.h`).
#[repr(C)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Where the next batch of a map begins: what the kernel answered to the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor(Option<[u8; 64]>);

/// Entries of a map that were read together.
#[derive(Debug)]
pub(super) struct Batch<K, V> {
    pub(super) entries: Vec<(K, V)>,
    /// Where the next one begins; `None` if this was the last.
    pub(super) next: Option<Cursor>,
}

/// Reads up to `count` entries of a hash or an array from `cursor` on. Entries that are changed meanwhile may be read twice
/// or not at all.
///
/// # Errors
/// Those of the system call; `ENOSPC` if `count` is too small for one bucket of the hash.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    Cursor(cursor): Cursor,
    count: usize,
) -> io::Result<Batch<K, V>> {
    let mut keys: Vec<K> = Vec::with_capacity(count);
    let mut values: Vec<V> = Vec::with_capacity(count);
    // The kernel's cursor is a key of an array, or the number of a bucket: 4 bytes. There is room for any key of ours.
    let mut next = [0_u8; 64];
    let mut attributes = BatchAttributes {
        in_batch: cursor.as_ref().map_or(0, |cursor| cursor.as_ptr() as u64),
        out_batch: next.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: count as u32,
        map_fd: map.as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the attributes are laid out as the kernel has them, and all that they point to lives until the call is over;
    // it writes at most `count` keys and values.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, MAP_LOOKUP_BATCH, &raw mut attributes, size_of::<BatchAttributes>()) };
    let is_last = match (result, io::Error::last_os_error()) {
        (0, _) => false,
        // There is no more, but what was read is there.
        (_, error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        (_, error) => return Err(error),
    };
    let read = (attributes.count as usize).min(count);
    // SAFETY: the kernel has written so many of each, and any bytes make a `Pod`.
    unsafe {
        keys.set_len(read);
        values.set_len(read);
    }
    let entries = keys.into_iter().zip(values).collect();
    Ok(Batch { entries, next: (!is_last).then_some(Cursor(Some(next))) })
}

/// Writes `values` to an array, from `first` on.
pub(super) fn update_array<V: Pod>(map: BorrowedFd<'_>, first: u32, values: &[V]) -> io::Result<()> {
    let keys: Vec<u32> = (first..).take(values.len()).collect();
    let mut written = 0;
    while written < values.len() {
        let mut attributes = BatchAttributes {
            in_batch: 0,
            out_batch: 0,
            keys: keys[written..].as_ptr() as u64,
            values: values[written..].as_ptr() as u64,
            count: (values.len() - written) as u32,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: as in `lookup_batch`; the kernel reads `count` keys and values, which are there. An array's values are padded to
        // 8 bytes in the kernel, where it copies as many as a value has.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, MAP_UPDATE_BATCH, &raw mut attributes, size_of::<BatchAttributes>())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        match attributes.count as usize {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => written += count,
        }
    }
    Ok(())
}

/// Waits until every program that runs now has ended: until a grace period of RCU is over (`sys_membarrier`,
/// `kernel/sched/membarrier.c`). Where the kernel does not do that for us, a time passes in which it surely does.
pub(super) fn wait_for_programs() {
    // SAFETY: the system call takes numbers alone.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// The cookie of this thread's network namespace (`SO_NETNS_COOKIE`, Linux 5.14): unique until the machine is started anew.
pub(super) fn namespace_cookie() -> io::Result<u64> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut cookie = MaybeUninit::<u64>::uninit();
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which the cookie has.
    let result = unsafe {
        libc::getsockopt(
            any.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            cookie.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success the kernel has written all of it.
    Ok(unsafe { cookie.assume_init() })
}
