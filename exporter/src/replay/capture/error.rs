//! What was wrong with a capture, and where.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::stream::Stream;

/// A capture that could not be read, or not to its end.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The file could not be opened.
    #[error("cannot open the capture {}", path.display())]
    Unopenable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be read, or not be decompressed, any further.
    #[error("cannot read the capture {} at {offset}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// How far it was read.
        offset: Offset,
        /// Why.
        source: io::Error,
    },
    /// It is something else than a capture.
    #[error(
        "{} is not a capture: at {offset} there is {}; expected pcap or pcapng, either of which may be compressed \
         with gzip",
        path.display(), Hexadecimal(.first)
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Where the magic number of a capture should be.
        offset: Offset,
        /// What is there instead, at most 4 bytes.
        first: Vec<u8>,
    },
    /// It ends in the middle of something.
    #[error("the capture {} is cut off at {offset}, whole frames before that: {frames}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where it ends.
        offset: Offset,
        /// How many frames there were before.
        frames: u64,
    },
    /// It contradicts itself.
    #[error("the capture {} is malformed at {offset}, frames before that: {frames}; {malformation}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where the block or record begins that is meant.
        offset: Offset,
        /// How many frames there were before.
        frames: u64,
        /// What is wrong with it.
        malformation: Malformation,
    },
}

/// What is wrong with a block of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformation {
    /// It is longer than any that is read.
    #[error("a block claims {length} bytes, at most {limit} are read")]
    TooLong {
        /// Its length in bytes.
        length: u32,
        /// How long it may be.
        limit: u32,
    },
    /// It is shorter than its own header.
    #[error("a block claims {length} bytes, fewer than its header has")]
    TooShort {
        /// Its length in bytes.
        length: u32,
    },
    /// It states its length at both ends, and not the same.
    #[error("a block begins with the length {first} and ends with {last}")]
    UnequalLengths {
        /// The length that it begins with, in bytes.
        first: u32,
        /// The length that it ends with, in bytes.
        last: u32,
    },
    /// Its fields do not fit into it, or are none that there can be.
    #[error("a block of type {block_type:#x} has contents that do not fit it")]
    Contents {
        /// Type of the block, as the pcapng specification numbers them.
        block_type: u32,
    },
    /// A section begins in neither byte order.
    #[error("a section has the byte-order magic {}, expected 1a2b3c4d in either order", Hexadecimal(.magic))]
    ByteOrder {
        /// What it has instead.
        magic: [u8; 4],
    },
    /// A section is of a version that nobody knows.
    #[error("a section is of version {major}, expected 1")]
    Version {
        /// The major version.
        major: u16,
    },
    /// A frame is of an interface that was not described before.
    #[error("a frame is of interface {interface}, but {known} are described")]
    UnknownInterface {
        /// Number of the interface, from 0.
        interface: u32,
        /// How many interfaces the section has.
        known: usize,
    },
    /// A section describes more interfaces than are kept in memory.
    #[error("a section describes more than {limit} interfaces")]
    TooManyInterfaces {
        /// How many there may be.
        limit: usize,
    },
}

/// A place in a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// Bytes from the beginning.
    pub bytes: u64,
    /// Whether the file is compressed; the bytes are then those of what it holds.
    pub is_compressed: bool,
}

impl fmt::Display for Offset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, is_compressed } = self;
        write!(formatter, "byte {bytes}")?;
        if *is_compressed {
            formatter.write_str(" of the uncompressed data")?;
        }
        Ok(())
    }
}

/// What went wrong, before it is said of which file.
#[derive(Debug)]
pub(super) enum Failure {
    Unreadable(io::Error),
    Foreign(Vec<u8>),
    Truncated,
    Malformed { offset: u64, malformation: Malformation },
}

impl Failure {
    pub(super) fn of(self, path: &Path, stream: &Stream, frames: u64) -> CaptureError {
        let path = path.to_owned();
        let offset = |bytes| Offset { bytes, is_compressed: stream.is_compressed() };
        match self {
            Self::Unreadable(source) => CaptureError::Unreadable { path, offset: offset(stream.offset()), source },
            Self::Foreign(first) => CaptureError::Foreign { path, offset: offset(0), first },
            Self::Truncated => CaptureError::Truncated { path, offset: offset(stream.offset()), frames },
            Self::Malformed { offset: bytes, malformation } => {
                CaptureError::Malformed { path, offset: offset(bytes), frames, malformation }
            }
        }
    }
}

/// Bytes as a hexadecimal dump has them.
struct Hexadecimal<'a>(&'a [u8]);

impl fmt::Display for Hexadecimal<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str("nothing");
        }
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}
