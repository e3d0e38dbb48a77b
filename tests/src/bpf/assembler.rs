//! Instructions of BPF, as far as they are used here (`Documentation/bpf/standardization/instruction-set.rst`).

/// `struct bpf_insn`: code, destination and source registers, offset, immediate value.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    let registers = (to | from << 4) as u64;
    let offset = offset.cast_unsigned() as u64;
    code as u64 | registers << 8 | offset << 16 | (immediate.cast_unsigned() as u64) << 32
}

/// Puts a constant into a register.
pub(super) const fn constant(register: u8, value: i32) -> u64 {
    instruction(0xb7, register, 0, 0, value)
}

/// Copies a register.
pub(super) const fn copy(to: u8, from: u8) -> u64 {
    instruction(0xbf, to, from, 0, 0)
}

/// Adds a constant to all 64 bits of a register.
pub(super) const fn add(register: u8, value: i32) -> u64 {
    instruction(0x07, register, 0, 0, value)
}

/// Adds a constant to the lower 32 bits of a register, and clears the others.
pub(super) const fn add_word(register: u8, value: u32) -> u64 {
    instruction(0x04, register, 0, 0, value.cast_signed())
}

/// As [`add_word`], by multiplication.
pub(super) const fn multiply_word(register: u8, value: u32) -> u64 {
    instruction(0x24, register, 0, 0, value.cast_signed())
}

/// As [`add_word`]: a constant instead of what was there.
pub(super) const fn constant_word(register: u8, value: u32) -> u64 {
    instruction(0xb4, register, 0, 0, value.cast_signed())
}

/// Keeps of a register what a constant has, too.
pub(super) const fn and(register: u8, value: i32) -> u64 {
    instruction(0x57, register, 0, 0, value)
}

/// Divides a register by a constant.
pub(super) const fn divide(register: u8, value: i32) -> u64 {
    instruction(0x37, register, 0, 0, value)
}

/// Leaves in a register what is over when it is divided by a constant.
pub(super) const fn remainder(register: u8, value: i32) -> u64 {
    instruction(0x97, register, 0, 0, value)
}

/// Turns 4 bytes of a register from the order of the host into that of the network, or back.
pub(super) const fn swap_word(register: u8) -> u64 {
    instruction(0xdc, register, 0, 0, 32)
}

/// Loads 4 bytes from where a register points to, and `offset` bytes on.
pub(super) const fn load_word(to: u8, from: u8, offset: i16) -> u64 {
    instruction(0x61, to, from, offset, 0)
}

/// As [`load_word`], 8 bytes.
pub(super) const fn load_double_word(to: u8, from: u8, offset: i16) -> u64 {
    instruction(0x79, to, from, offset, 0)
}

/// The reverse of [`load_word`].
pub(super) const fn store_word(to: u8, offset: i16, from: u8) -> u64 {
    instruction(0x63, to, from, offset, 0)
}

/// The reverse of [`load_double_word`].
pub(super) const fn store_double_word(to: u8, offset: i16, from: u8) -> u64 {
    instruction(0x7b, to, from, offset, 0)
}

/// Stores 2 bytes of a register.
pub(super) const fn store_half_word(to: u8, offset: i16, from: u8) -> u64 {
    instruction(0x6b, to, from, offset, 0)
}

/// Stores a byte of a register.
pub(super) const fn store_byte(to: u8, offset: i16, from: u8) -> u64 {
    instruction(0x73, to, from, offset, 0)
}

/// Goes on `skip` instructions further if one register is above another.
pub(super) const fn skip_if_above(register: u8, other: u8, skip: i16) -> u64 {
    instruction(0x2d, register, other, skip, 0)
}

/// Goes on `skip` instructions further if a register is below `value`.
pub(super) const fn skip_if_less(register: u8, value: i32, skip: i16) -> u64 {
    instruction(0xa5, register, 0, skip, value)
}

/// Goes on `skip` instructions further if a register is not `value`.
pub(super) const fn skip_unless(register: u8, value: i32, skip: i16) -> u64 {
    instruction(0x55, register, 0, skip, value)
}

/// Goes on `skip` instructions further if the lower 32 bits of a register are not `value`.
pub(super) const fn skip_unless_word(register: u8, value: u32, skip: i16) -> u64 {
    instruction(0x56, register, 0, skip, value.cast_signed())
}

/// Puts into a register what names a map to helpers.
pub(super) const fn map(register: u8, descriptor: i32) -> [u64; 2] {
    [instruction(0x18, register, 1, 0, descriptor), 0]
}

/// Puts into a register where the values of an array are.
pub(super) const fn map_values(register: u8, descriptor: i32) -> [u64; 2] {
    [instruction(0x18, register, 2, 0, descriptor), 0]
}

/// Calls a helper.
pub(super) const fn call(helper: i32) -> u64 {
    instruction(0x85, 0, 0, 0, helper)
}

/// Ends the program.
pub(super) const fn exit() -> u64 {
    instruction(0x95, 0, 0, 0, 0)
}
