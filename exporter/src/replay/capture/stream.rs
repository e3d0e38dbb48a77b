//! The bytes of a capture, decompressed if need be.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Chain, Cursor, ErrorKind, Read},
};

use flate2::bufread::MultiGzDecoder;

use super::error::Failure;

/// First bytes of a gzip file (RFC 1952 section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A stream of bytes that knows how many were taken from it.
#[derive(Debug)]
pub(super) struct Stream {
    source: Source,
    offset: u64,
}

#[derive(Debug)]
enum Source {
    Plain(BufReader<Disk>),
    /// `MultiGzDecoder`, because files that were compressed one by one may be put together.
    Gzip(Box<BufReader<MultiGzDecoder<BufReader<Disk>>>>),
}

/// A file after its first bytes, which were read already and cannot be put back into a pipe.
type Disk = Chain<Cursor<Vec<u8>>, Counted>;

/// A file that counts the bytes that are read of it.
#[derive(Debug)]
struct Counted {
    file: File,
    count: u64,
}

impl Stream {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let mut file = Counted { file, count: 0 };
        let mut first = Vec::new();
        file.by_ref().take(GZIP.len() as u64).read_to_end(&mut first)?;
        let is_gzip = first == GZIP;
        let disk = BufReader::new(Cursor::new(first).chain(file));
        let source = if is_gzip {
            Source::Gzip(Box::new(BufReader::new(MultiGzDecoder::new(disk))))
        } else {
            Source::Plain(disk)
        };
        Ok(Self { source, offset: 0 })
    }

    /// Appends the next `count` bytes to `buffer`, or as many as there are before it fails.
    pub(super) fn append(&mut self, buffer: &mut Vec<u8>, count: usize) -> Result<(), Failure> {
        let before = buffer.len();
        // This grows the buffer as bytes arrive, not as many are promised.
        let read = self.reader().take(count as u64).read_to_end(buffer);
        let appended = buffer.len() - before;
        self.offset += appended as u64;
        match read {
            Ok(_) if appended == count => Ok(()),
            Ok(_) => Err(Failure::Truncated),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is nothing more.
    pub(super) fn is_at_end(&mut self) -> Result<bool, Failure> {
        Ok(self.reader().fill_buf()?.is_empty())
    }

    /// How many bytes were taken, after decompression.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes of the file were used, as it lies on disk.
    pub(super) fn position(&self) -> u64 {
        let disk = match &self.source {
            Source::Plain(disk) => disk,
            Source::Gzip(decoder) => decoder.get_ref().get_ref(),
        };
        let (_, file) = disk.get_ref().get_ref();
        file.count - disk.buffer().len() as u64
    }

    pub(super) fn is_compressed(&self) -> bool {
        matches!(self.source, Source::Gzip(_))
    }

    fn reader(&mut self) -> &mut dyn BufRead {
        match &mut self.source {
            Source::Plain(disk) => disk,
            Source::Gzip(decoder) => decoder,
        }
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // So says the decoder of gzip of a file that is cut off.
            ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Unreadable(error),
        }
    }
}
