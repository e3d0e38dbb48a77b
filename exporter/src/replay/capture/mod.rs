//! Reading capture files: pcap and pcapng, plain or compressed with gzip, whatever their name.
//!
//! `stream` gives bytes, `pcap` and `pcapng` find the frames in them with the parsers of the crate `pcap-parser`, and
//! [`link_layer`] turns what a frame begins with into something that the programs read. A file is read from its
//! beginning to its end, so it may be a pipe, and however long it is, it needs little more memory than its
//! largest block.

pub mod error;
pub mod link_layer;
mod pcap;
mod pcapng;
mod stream;

use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use self::{
    error::{CaptureError, Failure, Offset},
    link_layer::Framing,
    pcap::Pcap,
    pcapng::Pcapng,
    stream::Stream,
};

/// How long a block of a capture may be, in bytes: 16 MiB. One is kept in memory at a time.
///
/// Frames end far below: captures cut them at 256 KiB (`MAXIMUM_SNAPLEN` of libpcap) unless told otherwise.
pub const MAXIMUM_BLOCK: u32 = 16 << 20;

/// How many of a file's first bytes say what it is.
const MAGIC: usize = 4;

/// A capture file that is being read.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
    stream: Stream,
    format: Format,
    /// The block that is being read.
    buffer: Vec<u8>,
    frames: u64,
    is_over: bool,
}

/// A frame of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapturedFrame<'a> {
    /// Number in the file, from 1.
    pub number: u64,
    /// When it was captured, in nanoseconds since the Unix epoch; 0 where the file does not say it.
    pub timestamp: u64,
    /// Length on the wire in bytes, link-layer header included, as the capture says it; at least what was captured.
    pub length: u32,
    /// What `data` begins with.
    pub framing: Framing,
    /// The captured bytes, never more than `length`.
    pub data: &'a [u8],
}

#[derive(Debug)]
enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
}

/// A frame as its file has it.
#[derive(Debug)]
struct Record {
    /// In nanoseconds since the Unix epoch.
    timestamp: u64,
    /// What the file calls the original length, in bytes.
    length: u32,
    /// Link type as the tcpdump group numbers them.
    link_type: u16,
    /// Where in the buffer the captured bytes are.
    data: Range<usize>,
}

impl Capture {
    /// Opens a capture and reads its header.
    ///
    /// # Errors
    /// The file cannot be opened or read, is not a capture, or its header is cut off or contradicts itself.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let file = File::open(path).map_err(|source| CaptureError::Unopenable { path: path.to_owned(), source })?;
        let mut stream = Stream::new(file).map_err(|source| {
            let offset = Offset { bytes: 0, is_compressed: false };
            CaptureError::Unreadable { path: path.to_owned(), offset, source }
        })?;
        let mut buffer = Vec::new();
        let format = Format::read(&mut stream, &mut buffer).map_err(|failure| failure.of(path, &stream, 0))?;
        Ok(Self { path: path.to_owned(), stream, format, buffer, frames: 0, is_over: false })
    }

    /// The next frame; `None` at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read any more, is cut off, or contradicts itself. There is nothing after an error.
    pub fn next_frame(&mut self) -> Option<Result<CapturedFrame<'_>, CaptureError>> {
        if self.is_over {
            return None;
        }
        let record = match &mut self.format {
            Format::Pcap(pcap) => pcap.next_record(&mut self.stream, &mut self.buffer),
            Format::Pcapng(pcapng) => pcapng.next_record(&mut self.stream, &mut self.buffer),
        };
        let Record { timestamp, length, link_type, data } = match record {
            Ok(Some(record)) => record,
            Ok(None) => {
                self.is_over = true;
                return None;
            }
            Err(failure) => {
                self.is_over = true;
                return Some(Err(failure.of(&self.path, &self.stream, self.frames)));
            }
        };
        self.frames += 1;

        let captured = self.buffer.get_mut(data).unwrap_or_default();
        let length = length.max(captured.len() as u32);
        let (framing, data) = link_layer::open(link_type, captured);
        // A header that was made up may be longer than a frame that was hardly there.
        let data = data.get(..length as usize).unwrap_or(data);
        Some(Ok(CapturedFrame { number: self.frames, timestamp, length, framing, data }))
    }

    /// How many bytes of the file, as it lies on disk, have been read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.stream.position()
    }
}

impl Format {
    fn read(stream: &mut Stream, buffer: &mut Vec<u8>) -> Result<Self, Failure> {
        // An empty file is none that is cut off, except where gzip says so.
        if stream.is_at_end()? {
            return Err(Failure::Foreign(Vec::new()));
        }
        match stream.append(buffer, MAGIC) {
            // A file that is shorter is no capture.
            Ok(()) | Err(Failure::Truncated) => {}
            Err(failure) => return Err(failure),
        }
        if pcapng::is_magic(buffer) {
            Pcapng::read_header(stream, buffer).map(Self::Pcapng)
        } else if pcap::is_magic(buffer) {
            Pcap::read_header(stream, buffer).map(Self::Pcap)
        } else {
            Err(Failure::Foreign(buffer.clone()))
        }
    }
}
