//! Making a process believe that its kernel is older than it is.

use std::{io, os::unix::process::CommandExt as _, process::Command};

/// `BPF_LINK_CREATE` of `enum bpf_cmd`, `include/uapi/linux/bpf.h`.
const LINK_CREATE: u32 = 28;

/// Has `command` run as if on a kernel without TCX (before Linux 6.6), which answers "invalid argument" to making such a link.
pub fn without_tcx(command: &mut Command) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let unless_equal =
        |k: u32, jf: u8| libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let result = libc::BPF_RET | libc::BPF_K;
    // `struct seccomp_data` (`include/uapi/linux/seccomp.h`): the call's number at 0, its first argument at 16.
    let filter = [
        statement(load, 0),
        unless_equal(u32::try_from(libc::SYS_bpf).expect("is small"), 3),
        statement(load, 16),
        unless_equal(LINK_CREATE, 1),
        statement(result, libc::SECCOMP_RET_ERRNO | libc::EINVAL.cast_unsigned()),
        statement(result, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: the program is laid out as prctl(2) says, and lives until the call is over.
        match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure does nothing but one system call, which is allowed after a fork.
    unsafe { command.pre_exec(install) };
}
