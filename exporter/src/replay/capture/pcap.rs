//! The pcap format (draft-ietf-opsawg-pcap): a header, then records of one frame each.

use pcap_parser::{
    LegacyPcapBlock, PcapError, PcapHeader,
    nom::{Err::Incomplete, IResult},
    parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header,
};
use tidewaiter_common::frame::Frame;

use super::{
    MAXIMUM_BLOCK, Record,
    error::{Failure, Malformation},
    stream::Stream,
};

/// Length of the file header.
const HEADER: usize = 24;
/// Length of a record's header.
const RECORD_HEADER: usize = 16;
/// The same in the format of A. Kuznetzov's libpcap, which says more of each frame.
const MODIFIED_RECORD_HEADER: usize = 24;
/// Offset of the captured length in a record; the original length follows it.
const CAPTURED_LENGTH: usize = 8;
/// Offset of the original length in a record.
const ORIGINAL_LENGTH: usize = 12;

/// What the header of a pcap file says.
#[derive(Debug)]
pub(super) struct Pcap {
    record: RecordLayout,
    first_length: FirstLength,
    /// Nanoseconds in the unit of the fraction of a second.
    fraction: u64,
    link_type: u16,
}

#[derive(Clone, Copy, Debug)]
enum RecordLayout {
    LittleEndian,
    BigEndian,
    Modified,
}

/// Which of the two lengths of a record comes first.
///
/// It is the original one up to version 2.2, and in version 543.0 which DG/UX had; at 2.3 it depends on who wrote the
/// file (libpcap, `sf-pcap.c`).
#[derive(Clone, Copy, Debug)]
enum FirstLength {
    Captured,
    Original,
    Smaller,
}

/// Whether a file that begins with these 4 bytes is in this format.
pub(super) fn is_magic(first: &[u8]) -> bool {
    // The parser knows all magic numbers, and then wants the rest of the header.
    first.len() == 4 && matches!(parse_pcap_header(first), Err(Incomplete(_)))
}

impl Pcap {
    /// Reads the file header, the first bytes of which are in `buffer` already.
    pub(super) fn read_header(stream: &mut Stream, buffer: &mut Vec<u8>) -> Result<Self, Failure> {
        stream.append(buffer, HEADER - buffer.len())?;
        let Ok((_, header)) = parse_pcap_header(buffer) else { return Err(Failure::Foreign(buffer.clone())) };
        Ok(Self::new(&header))
    }

    fn new(header: &PcapHeader) -> Self {
        let record = if header.is_modified_format() {
            RecordLayout::Modified
        } else if header.is_bigendian() {
            RecordLayout::BigEndian
        } else {
            RecordLayout::LittleEndian
        };
        let first_length = match (header.version_major, header.version_minor) {
            (2, ..=2) | (543, _) => FirstLength::Original,
            (2, 3) => FirstLength::Smaller,
            _ => FirstLength::Captured,
        };
        let fraction = if header.is_nanosecond_precision() { 1 } else { 1_000 };
        // The upper half says whether frames end with a check sequence.
        Self { record, first_length, fraction, link_type: header.network.0.cast_unsigned() as u16 }
    }

    pub(super) fn next_record(&self, stream: &mut Stream, buffer: &mut Vec<u8>) -> Result<Option<Record>, Failure> {
        if stream.is_at_end()? {
            return Ok(None);
        }
        let offset = stream.offset();
        let header = self.record.header();
        buffer.clear();
        stream.append(buffer, header)?;
        let captured = self.order_lengths(buffer).ok_or(Failure::Truncated)?;
        if captured > MAXIMUM_BLOCK {
            return Err(Failure::Malformed {
                offset,
                malformation: Malformation::TooLong { length: captured, limit: MAXIMUM_BLOCK },
            });
        }
        stream.append(buffer, captured as usize)?;
        let Ok((_, record)) = self.record.parse(buffer) else { return Err(Failure::Truncated) };
        Ok(Some(Record {
            timestamp: u64::from(record.ts_sec) * 1_000_000_000 + u64::from(record.ts_usec) * self.fraction,
            length: record.origlen,
            link_type: self.link_type,
            data: header..header + record.data.len(),
        }))
    }

    /// Puts the captured length first, as today's files have it and the parser expects, and returns it.
    fn order_lengths(&self, record: &mut [u8]) -> Option<u32> {
        let first = self.record.length(record, CAPTURED_LENGTH)?;
        let second = self.record.length(record, ORIGINAL_LENGTH)?;
        let is_swapped = match self.first_length {
            FirstLength::Captured => false,
            FirstLength::Original => true,
            FirstLength::Smaller => first > second,
        };
        if is_swapped {
            record.get_mut(CAPTURED_LENGTH..ORIGINAL_LENGTH + 4)?.rotate_left(4);
        }
        Some(if is_swapped { second } else { first })
    }
}

impl RecordLayout {
    fn header(self) -> usize {
        match self {
            Self::LittleEndian | Self::BigEndian => RECORD_HEADER,
            Self::Modified => MODIFIED_RECORD_HEADER,
        }
    }

    fn length(self, record: &[u8], offset: usize) -> Option<u32> {
        let length = record.read(offset)?;
        Some(match self {
            Self::LittleEndian | Self::Modified => u32::from_le_bytes(length),
            Self::BigEndian => u32::from_be_bytes(length),
        })
    }

    fn parse(self, record: &[u8]) -> IResult<&[u8], LegacyPcapBlock<'_>, PcapError<&[u8]>> {
        match self {
            Self::LittleEndian => parse_pcap_frame(record),
            Self::BigEndian => parse_pcap_frame_be(record),
            Self::Modified => parse_pcap_frame_modified(record),
        }
    }
}
