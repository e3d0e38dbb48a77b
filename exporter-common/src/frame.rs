//! Reading bytes of a frame, wherever it lies.

/// What the frames of an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet = 0,
    /// The IP header itself, as on tun, `WireGuard` and other devices of the network layer.
    Ip = 1,
}

impl Framing {
    /// The framing with this number, as [`crate::interface::InterfaceEntry`] holds it.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        if number == Self::Ip as u8 { Self::Ip } else { Self::Ethernet }
    }
}

/// A frame as the parser sees it: bytes at an offset, or nothing where the frame has ended.
///
/// The parser is generic over this, so the same code reads a byte slice in a test and a socket buffer in the kernel.
/// An implementation must answer `None`, never panic or read elsewhere, for whatever offset it is asked.
pub trait Frame {
    /// Length of the whole frame in bytes, from its link-layer header on; a super-packet's headers count once.
    fn length(&self) -> usize;

    /// The `N` bytes at `offset`, or `None` if the frame ends before them.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Frame for [u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}
