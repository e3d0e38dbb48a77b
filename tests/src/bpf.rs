//! Small BPF programs of the tests' own, instruction by instruction: one that makes packets faster than any socket can, and
//! two that put VLAN tags on and take them off, which devices of this kernel may not be able to, and one that loses packets.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use tidewaiter_common::direction::Direction;

/// Commands of the system call, types and flags (`include/uapi/linux/bpf.h`).
mod uapi {
    pub(super) const PROG_LOAD: libc::c_long = 5;
    pub(super) const PROG_TEST_RUN: libc::c_long = 10;
    pub(super) const LINK_CREATE: libc::c_long = 28;
    pub(super) const SCHED_CLS: u32 = 3;
    pub(super) const XDP: u32 = 6;
    pub(super) const TCX_INGRESS: u32 = 46;
    pub(super) const TCX_EGRESS: u32 = 47;
    pub(super) const LIVE_FRAMES: u32 = 1 << 1;
    pub(super) const SKB_VLAN_PUSH: i32 = 18;
    pub(super) const SKB_VLAN_POP: i32 = 19;
    pub(super) const RANDOM: i32 = 7;
    pub(super) const REDIRECT: i32 = 23;
    pub(super) const TCX_NEXT: i32 = -1;
    pub(super) const TCX_DROP: i32 = 2;
}

/// `EtherType` of a tag of IEEE 802.1Q, in network byte order.
const VLAN: i32 = 0x8100_u16.to_be() as i32;

/// A program in the kernel.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// Keeps a program attached.
#[derive(Debug)]
pub struct Link(#[expect(dead_code, reason = "closing it detaches the program")] OwnedFd);

impl Program {
    /// Puts a tag with `id` on each packet.
    #[must_use]
    pub fn push_tag(id: u16) -> Self {
        Self::load(
            uapi::SCHED_CLS,
            &[
                constant(2, VLAN),
                constant(3, id.into()),
                call(uapi::SKB_VLAN_PUSH),
                constant(0, uapi::TCX_NEXT),
                exit(),
            ],
        )
    }

    /// Takes a tag off each packet.
    #[must_use]
    pub fn pop_tag() -> Self {
        Self::load(uapi::SCHED_CLS, &[call(uapi::SKB_VLAN_POP), constant(0, uapi::TCX_NEXT), exit()])
    }

    /// Drops so many packets out of 65,536, at random.
    #[must_use]
    pub fn drop_some(of_65536: u32) -> Self {
        const AND: u8 = 0x57;
        const JUMP_IF_LESS: u8 = 0xa5;
        let over_two = 2 << 16;
        let threshold = of_65536.try_into().expect("a small number");
        Self::load(
            uapi::SCHED_CLS,
            &[
                call(uapi::RANDOM),
                instruction(AND, 0, 0xffff),
                instruction(JUMP_IF_LESS, 0, threshold) | over_two,
                constant(0, uapi::TCX_NEXT),
                exit(),
                constant(0, uapi::TCX_DROP),
                exit(),
            ],
        )
    }

    /// Sends each frame out of the interface with `index`.
    #[must_use]
    pub fn redirect(index: u32) -> Self {
        let index = index.try_into().expect("a small number");
        Self::load(uapi::XDP, &[constant(1, index), constant(2, 0), call(uapi::REDIRECT), exit()])
    }

    fn load(kind: u32, instructions: &[u64]) -> Self {
        #[repr(C)]
        struct Attributes {
            kind: u32,
            count: u32,
            instructions: u64,
            license: u64,
            // Where the log goes, the version and the flags.
            zeros: [u32; 6],
        }
        let count = instructions.len().try_into().expect("a few");
        let (instructions, license) = (instructions.as_ptr() as u64, c"GPL".as_ptr() as u64);
        let attributes = Attributes { kind, count, instructions, license, zeros: [0; 6] };
        // SAFETY: the attributes are those of the command, and what they point to is there until it is over.
        Self(unsafe { descriptor(bpf(uapi::PROG_LOAD, &attributes)) })
    }

    /// Attaches the program, behind all that are there already, to the interface with `index`; from its namespace.
    #[must_use]
    pub fn attach(&self, index: u32, direction: Direction) -> Link {
        #[repr(C)]
        struct Attributes {
            program: i32,
            index: u32,
            kind: u32,
            // Flags, and where among others.
            zeros: [u32; 5],
        }
        let kind = match direction {
            Direction::Receive => uapi::TCX_INGRESS,
            Direction::Transmit => uapi::TCX_EGRESS,
        };
        let attributes = Attributes { program: self.0.as_raw_fd(), index, kind, zeros: [0; 5] };
        // SAFETY: as in `load`.
        Link(unsafe { descriptor(bpf(uapi::LINK_CREATE, &attributes)) })
    }

    /// Runs the program on `frame` as if a device had received that, `times` over; from the namespace that it is for.
    pub fn run_live(&self, frame: &[u8], times: u32) -> io::Result<()> {
        #[repr(C)]
        struct Attributes {
            program: i32,
            result: u32,
            length: u32,
            length_out: u32,
            data: u64,
            data_out: u64,
            repeat: u32,
            // Duration and the lengths of the context.
            zeros: [u32; 3],
            context: [u64; 2],
            flags: u32,
            cpu: u32,
            batch: u32,
            padding: u32,
        }
        let attributes = Attributes {
            program: self.0.as_raw_fd(),
            result: 0,
            length: frame.len().try_into().expect("a frame"),
            length_out: 0,
            data: frame.as_ptr() as u64,
            data_out: 0,
            repeat: times,
            zeros: [0; 3],
            context: [0; 2],
            flags: uapi::LIVE_FRAMES,
            cpu: 0,
            batch: 64,
            padding: 0,
        };
        // SAFETY: as in `load`.
        match unsafe { bpf(uapi::PROG_TEST_RUN, &attributes) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// # Safety
/// `attributes` must be those of `command`.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> libc::c_long {
    // The kernel writes to some of them, never to those that are read here afterwards.
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) }
}

/// # Safety
/// `result` must be that of a call that answers with a descriptor of the caller's own.
unsafe fn descriptor(result: libc::c_long) -> OwnedFd {
    assert!(result >= 0, "the kernel refuses it: {}", io::Error::last_os_error());
    // SAFETY: the caller's.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(result).expect("a descriptor")) }
}

/// `struct bpf_insn`: code, registers, offset, immediate value.
const fn instruction(code: u8, register: u8, immediate: i32) -> u64 {
    code as u64 | (register as u64) << 8 | (immediate.cast_unsigned() as u64) << 32
}

/// Puts a constant into a register.
const fn constant(register: u8, value: i32) -> u64 {
    instruction(0xb7, register, value)
}

const fn call(helper: i32) -> u64 {
    instruction(0x85, 0, helper)
}

const fn exit() -> u64 {
    instruction(0x95, 0, 0)
}
