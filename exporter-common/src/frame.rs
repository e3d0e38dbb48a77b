//! Reading bytes of a frame, wherever it lies.

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
