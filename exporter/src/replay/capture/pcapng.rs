//! The pcapng format (draft-ietf-opsawg-pcapng): blocks, of which some describe interfaces and some are frames.

use std::ops::Range;

use pcap_parser::{
    Block, EPB_MAGIC, IDB_MAGIC, InterfaceDescriptionBlock, SHB_MAGIC, SPB_MAGIC, SectionHeaderBlock,
    SimplePacketBlock, parse_block_be, parse_block_le,
};
use tidewaiter_common::frame::Frame;

use super::{
    MAXIMUM_BLOCK, Record,
    error::{Failure, Malformation},
    stream::Stream,
};

/// Type of the obsolete Packet Block (draft-ietf-opsawg-pcapng, appendix A).
const PACKET_BLOCK: u32 = 2;

/// What every block has: its type, its length, and at its end its length again. In a section header, where there are no
/// shorter ones, the byte-order magic comes before the end.
const SHORTEST_BLOCK: usize = 12;
/// Offset of the byte-order magic in a section header.
const BYTE_ORDER: usize = 8;
/// The byte-order magic.
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Offset of the frame in an Enhanced Packet Block and in the obsolete Packet Block.
const PACKET_DATA: usize = 28;
/// Offset of the frame in a Simple Packet Block.
const SIMPLE_PACKET_DATA: usize = 12;

/// How long a block may be that describes a section or an interface, in bytes; its options are gathered.
const MAXIMUM_DESCRIPTION: u32 = 1 << 20;
/// How many interfaces a section may describe; they are kept in memory.
const MAXIMUM_INTERFACES: usize = 1 << 16;

/// What the blocks so far say.
#[derive(Debug, Default)]
pub(super) struct Pcapng {
    is_big_endian: bool,
    interfaces: Vec<Interface>,
}

#[derive(Debug)]
struct Interface {
    link_type: u16,
    /// How many bytes of a frame are captured at most; 0 for all.
    snap_length: u32,
    /// The unit of timestamps, as `if_tsresol` says it.
    resolution: u8,
    /// What is to be added to timestamps, in seconds.
    offset: i64,
}

/// Whether a file that begins with these 4 bytes is in this format.
pub(super) fn is_magic(first: &[u8]) -> bool {
    // This number is the same in both byte orders.
    first == SHB_MAGIC.to_be_bytes()
}

impl Pcapng {
    /// Reads the first section header, the first bytes of which are in `buffer` already.
    pub(super) fn read_header(stream: &mut Stream, buffer: &mut Vec<u8>) -> Result<Self, Failure> {
        let mut pcapng = Self::default();
        pcapng.read_block(0, stream, buffer)?;
        Ok(pcapng)
    }

    pub(super) fn next_record(&mut self, stream: &mut Stream, buffer: &mut Vec<u8>) -> Result<Option<Record>, Failure> {
        while !stream.is_at_end()? {
            buffer.clear();
            if let Some(record) = self.read_block(stream.offset(), stream, buffer)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Reads the block that begins at `offset`, the first bytes of which may be in `buffer` already.
    fn read_block(
        &mut self,
        offset: u64,
        stream: &mut Stream,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Record>, Failure> {
        let malformed = |malformation| Failure::Malformed { offset, malformation };
        stream.append(buffer, SHORTEST_BLOCK - buffer.len())?;
        if is_magic(buffer.get(..4).unwrap_or_default()) {
            self.is_big_endian = is_big_endian(buffer).map_err(malformed)?;
        }
        let first = self.word(buffer, 4).ok_or(Failure::Truncated)?;
        if first > MAXIMUM_BLOCK {
            return Err(malformed(Malformation::TooLong { length: first, limit: MAXIMUM_BLOCK }));
        }
        let length = first as usize;
        let rest = length.checked_sub(SHORTEST_BLOCK).ok_or(malformed(Malformation::TooShort { length: first }))?;
        stream.append(buffer, rest)?;
        let last = self.word(buffer, length - 4).ok_or(Failure::Truncated)?;
        if first != last {
            return Err(malformed(Malformation::UnequalLengths { first, last }));
        }
        self.understand(buffer).map_err(malformed)
    }

    /// Takes in what a whole block says; it may be a frame.
    fn understand(&mut self, block: &[u8]) -> Result<Option<Record>, Malformation> {
        let block_type = self.word(block, 0).unwrap_or_default();
        let contents = Malformation::Contents { block_type };
        let limit = match block_type {
            // The crate would gather the options of a frame, and of a hostile frame that is eight times its length.
            EPB_MAGIC | PACKET_BLOCK => return self.packet(block_type, block).ok_or(contents)?.map(Some),
            SPB_MAGIC => MAXIMUM_BLOCK,
            SHB_MAGIC | IDB_MAGIC => MAXIMUM_DESCRIPTION,
            _ => return Ok(None),
        };
        if block.len() > limit as usize {
            return Err(Malformation::TooLong { length: block.len() as u32, limit });
        }
        let parse = if self.is_big_endian { parse_block_be } else { parse_block_le };
        let (_, parsed) = parse(block).map_err(|_| contents)?;
        match parsed {
            Block::SectionHeader(header) => self.begin_section(&header).map(|()| None),
            Block::InterfaceDescription(description) => self.add_interface(&description).map(|()| None),
            Block::SimplePacket(packet) => self.simple_packet(&packet).map(Some),
            _ => Ok(None),
        }
    }

    fn begin_section(&mut self, header: &SectionHeaderBlock<'_>) -> Result<(), Malformation> {
        if header.major_version != 1 {
            return Err(Malformation::Version { major: header.major_version });
        }
        self.interfaces.clear();
        Ok(())
    }

    fn add_interface(&mut self, description: &InterfaceDescriptionBlock<'_>) -> Result<(), Malformation> {
        if self.interfaces.len() >= MAXIMUM_INTERFACES {
            return Err(Malformation::TooManyInterfaces { limit: MAXIMUM_INTERFACES });
        }
        // The crate takes this one for little-endian in every section (0.17.0, `if_extract_tsoffset_and_tsresol`).
        let offset = description.if_tsoffset.to_le_bytes();
        self.interfaces.push(Interface {
            link_type: description.linktype.0.cast_unsigned() as u16,
            snap_length: description.snaplen,
            resolution: description.if_tsresol,
            offset: if self.is_big_endian { i64::from_be_bytes(offset) } else { i64::from_le_bytes(offset) },
        });
        Ok(())
    }

    fn interface(&self, number: u32) -> Result<&Interface, Malformation> {
        let unknown = Malformation::UnknownInterface { interface: number, known: self.interfaces.len() };
        self.interfaces.get(number as usize).ok_or(unknown)
    }

    /// A frame in an Enhanced Packet Block or an obsolete Packet Block; `None` if its fields do not fit into it.
    fn packet(&self, block_type: u32, block: &[u8]) -> Option<Result<Record, Malformation>> {
        // The older one has 16 bits for the interface and, after them, 16 for a number of frames that were lost.
        let interface = match block_type {
            PACKET_BLOCK if self.is_big_endian => self.word(block, 8)? >> 16,
            PACKET_BLOCK => self.word(block, 8)? & 0xffff,
            _ => self.word(block, 8)?,
        };
        let ticks = u64::from(self.word(block, 12)?) << 32 | u64::from(self.word(block, 16)?);
        let data = bytes_at(PACKET_DATA, self.word(block, 20)?);
        let length = self.word(block, 24)?;
        if data.end > block.len().checked_sub(4)? {
            return None;
        }
        Some(self.interface(interface).map(|interface| interface.record(ticks, length, data)))
    }

    fn simple_packet(&self, packet: &SimplePacketBlock<'_>) -> Result<Record, Malformation> {
        let interface = self.interface(0)?;
        let captured = match interface.snap_length {
            0 => packet.origlen,
            snap_length => packet.origlen.min(snap_length),
        };
        if captured as usize > packet.data.len() {
            return Err(Malformation::Contents { block_type: SPB_MAGIC });
        }
        let data = bytes_at(SIMPLE_PACKET_DATA, captured);
        Ok(Record { timestamp: 0, ..interface.record(0, packet.origlen, data) })
    }

    fn word(&self, block: &[u8], offset: usize) -> Option<u32> {
        let word = block.read(offset)?;
        Some(if self.is_big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
    }
}

impl Interface {
    fn record(&self, ticks: u64, length: u32, data: Range<usize>) -> Record {
        Record { timestamp: self.timestamp(ticks), length, link_type: self.link_type, data }
    }

    /// Nanoseconds since the Unix epoch; what is before it or later than 2554 is told as the nearest that is not.
    fn timestamp(&self, ticks: u64) -> u64 {
        const SECOND: u128 = 1_000_000_000;
        let exponent = u32::from(self.resolution & 0x7f);
        let nanoseconds = u128::from(ticks) * SECOND;
        let nanoseconds = if self.resolution & 0x80 == 0 {
            // A unit that small makes nothing of any number of them.
            10_u128.checked_pow(exponent).map_or(0, |unit| nanoseconds / unit)
        } else {
            nanoseconds >> exponent
        };
        let offset = i128::from(self.offset) * SECOND.cast_signed();
        let nanoseconds = nanoseconds.saturating_add_signed(offset);
        u64::try_from(nanoseconds).unwrap_or(u64::MAX)
    }
}

fn is_big_endian(section_header: &[u8]) -> Result<bool, Malformation> {
    let magic = section_header.read(BYTE_ORDER).unwrap_or_default();
    match u32::from_le_bytes(magic) {
        BYTE_ORDER_MAGIC => Ok(false),
        swapped if swapped.swap_bytes() == BYTE_ORDER_MAGIC => Ok(true),
        _ => Err(Malformation::ByteOrder { magic }),
    }
}

fn bytes_at(offset: usize, count: u32) -> Range<usize> {
    offset..offset.saturating_add(count as usize)
}
