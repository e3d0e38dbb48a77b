//! Which offloads are on, by ethtool's netlink (`Documentation/networking/ethtool-netlink.rst`). Anybody may ask.

use std::{collections::HashMap, future::ready, io};

use futures_util::{Stream, StreamExt as _};
use rtnetlink::{
    packet_core::{
        DecodeError, DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable,
        NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator, parse_string,
        parse_u16, parse_u32,
    },
    proto::{ConnectionHandle, NetlinkProtoError, new_connection},
    sys::{SocketAddr, protocols::NETLINK_GENERIC},
};
use thiserror::Error;

use super::device::Offload;

/// `GENL_ID_CTRL`, the family that knows the others (`include/uapi/linux/genetlink.h`).
const CONTROL: u16 = 0x10;
/// `CTRL_CMD_GETFAMILY`.
const GET_FAMILY: u8 = 3;
/// `CTRL_ATTR_FAMILY_ID`.
const FAMILY_ID: u16 = 1;
/// `CTRL_ATTR_FAMILY_NAME`.
const FAMILY_NAME: u16 = 2;

// What follows is from `include/uapi/linux/ethtool_netlink.h` and its generated part.

/// `ETHTOOL_MSG_STRSET_GET`.
const GET_STRINGS: u8 = 1;
/// `ETHTOOL_MSG_FEATURES_GET`.
const GET_FEATURES: u8 = 11;
/// `ETHTOOL_A_STRSET_HEADER` and `ETHTOOL_A_FEATURES_HEADER`.
const HEADER: u16 = 1;
/// `ETHTOOL_A_HEADER_DEV_INDEX`.
const DEVICE_INDEX: u16 = 1;
/// `ETHTOOL_A_HEADER_FLAGS`.
const HEADER_FLAGS: u16 = 3;
/// `ETHTOOL_FLAG_COMPACT_BITSETS`: bits alone, without the name of each.
const COMPACT_BITSETS: u32 = 1;
/// `ETHTOOL_A_STRSET_STRINGSETS`.
const STRING_SETS: u16 = 2;
/// `ETHTOOL_A_STRINGSETS_STRINGSET`.
const STRING_SET: u16 = 1;
/// `ETHTOOL_A_STRINGSET_ID`.
const STRING_SET_ID: u16 = 1;
/// `ETH_SS_FEATURES`, the string set of features' names.
const FEATURE_NAMES: u32 = 4;
/// `ETHTOOL_A_STRINGSET_STRINGS`.
const STRINGS: u16 = 3;
/// `ETHTOOL_A_STRINGS_STRING`.
const STRING: u16 = 1;
/// `ETHTOOL_A_STRING_INDEX`.
const STRING_INDEX: u16 = 1;
/// `ETHTOOL_A_STRING_VALUE`.
const STRING_VALUE: u16 = 2;
/// `ETHTOOL_A_FEATURES_HW`: those that can be changed.
const CHANGEABLE: u16 = 2;
/// `ETHTOOL_A_FEATURES_ACTIVE`.
const ACTIVE: u16 = 4;
/// `ETHTOOL_A_BITSET_VALUE`.
const BITS: u16 = 4;

/// Why the kernel did not say which offloads are on.
#[derive(Debug, Error)]
pub(super) enum EthtoolError {
    /// There is no connection.
    #[error("cannot open generic netlink: {0}")]
    Open(#[source] io::Error),
    /// The connection has ended.
    #[error(transparent)]
    Netlink(#[from] NetlinkProtoError),
    /// The kernel refused.
    #[error("cannot get {what}: {source}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// There was no answer, or one without what was asked for.
    #[error("the kernel's answer lacks {0}")]
    Lacking(&'static str),
    /// The answer cannot be read.
    #[error("cannot read the kernel's answer: {0}")]
    Malformed(#[from] DecodeError),
}

/// A message of any family of generic netlink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    family: u16,
    command: u8,
    pub(super) attributes: Vec<u8>,
}

impl Message {
    /// `struct genlmsghdr`: the command, the version, and two bytes that are reserved.
    const HEADER: usize = 4;
    /// Of both families that are spoken to here.
    const VERSION: u8 = 1;
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        Self::HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(Self::HEADER);
        header.copy_from_slice(&[self.command, Self::VERSION, 0, 0]);
        attributes.copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        match payload {
            [command, _version, _, _, attributes @ ..] => {
                Ok(Self { family: header.message_type, command: *command, attributes: attributes.to_vec() })
            }
            _ => Err(DecodeError::invalid_number(Self::HEADER, payload.len())),
        }
    }
}

/// Which offloads are on, of each device, by the index of its interface.
pub(super) async fn offloads() -> Result<HashMap<u32, Offload>, EthtoolError> {
    let (connection, handle, _messages) = new_connection(NETLINK_GENERIC).map_err(EthtoolError::Open)?;
    // It ends when the handle is dropped.
    tokio::spawn(connection);
    let family = family(&handle, b"ethtool\0").await?;
    let names = feature_names(&handle, family).await?;

    let what = "the features of devices";
    let header = nested(HEADER, &[attribute(HEADER_FLAGS, &COMPACT_BITSETS.to_ne_bytes())]);
    let mut answers = ask(&handle, what, NLM_F_DUMP, family, GET_FEATURES, &[header])?;
    let mut offloads = HashMap::new();
    while let Some(answer) = answers.next().await {
        let attributes = answer?.attributes;
        let index = required(required(&attributes, HEADER, what)?, DEVICE_INDEX, what)?;
        let features = |which| required(required(&attributes, which, what)?, BITS, what);
        let (on, changeable) = (names_of(features(ACTIVE)?, &names), names_of(features(CHANGEABLE)?, &names));
        offloads.insert(parse_u32(index)?, Offload::new(&on, &changeable));
    }
    Ok(offloads)
}

/// The number of the family called `name`, which is another one at each boot.
pub(super) async fn family(handle: &ConnectionHandle<Message>, name: &[u8]) -> Result<u16, EthtoolError> {
    let what = "the family of generic netlink";
    let name = attribute(FAMILY_NAME, name);
    let mut answers = ask(handle, what, 0, CONTROL, GET_FAMILY, &[name])?;
    let answer = answers.next().await.ok_or(EthtoolError::Lacking(what))??;
    Ok(parse_u16(required(&answer.attributes, FAMILY_ID, what)?)?)
}

/// Names of features, by the number of their bit.
async fn feature_names(
    handle: &ConnectionHandle<Message>,
    family: u16,
) -> Result<HashMap<usize, String>, EthtoolError> {
    let what = "the names of features";
    let set = nested(STRING_SET, &[attribute(STRING_SET_ID, &FEATURE_NAMES.to_ne_bytes())]);
    let mut answers = ask(handle, what, 0, family, GET_STRINGS, &[nested(HEADER, &[]), nested(STRING_SETS, &[set])])?;
    let answer = answers.next().await.ok_or(EthtoolError::Lacking(what))??;
    let set = required(required(&answer.attributes, STRING_SETS, what)?, STRING_SET, what)?;
    let mut names = HashMap::new();
    for string in NlasIterator::new(required(set, STRINGS, what)?) {
        let string = string?;
        if string.kind() == STRING {
            let string = value(&string);
            let index = parse_u32(required(string, STRING_INDEX, what)?)?;
            names.insert(index as usize, parse_string(required(string, STRING_VALUE, what)?)?);
        }
    }
    Ok(names)
}

/// Asks the kernel; `what` is for people to read.
pub(super) fn ask(
    handle: &ConnectionHandle<Message>,
    what: &'static str,
    flags: u16,
    family: u16,
    command: u8,
    attributes: &[DefaultNla],
) -> Result<impl Stream<Item = Result<Message, EthtoolError>> + Unpin + use<>, EthtoolError> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    let payload = NetlinkPayload::InnerMessage(Message { family, command, attributes: bytes });
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
    message.header.flags = NLM_F_REQUEST | flags;
    let answers = handle.request(message, SocketAddr::new(0, 0))?;
    let messages = answers.map(move |message| match message.payload {
        NetlinkPayload::InnerMessage(message) => Some(Ok(message)),
        NetlinkPayload::Error(error) if error.code.is_some() => {
            Some(Err(EthtoolError::Refused { what, source: error.to_io() }))
        }
        NetlinkPayload::Overrun(_) => Some(Err(EthtoolError::Lacking(what))),
        _ => None,
    });
    Ok(messages.filter_map(ready).boxed())
}

pub(super) fn attribute(kind: u16, value: &[u8]) -> DefaultNla {
    DefaultNla::new(kind, value.to_vec())
}

fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

/// The value of the first of `attributes` that is of `kind`.
pub(super) fn required<'a>(attributes: &'a [u8], kind: u16, what: &'static str) -> Result<&'a [u8], EthtoolError> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == kind {
            return Ok(value(&attribute));
        }
    }
    Err(EthtoolError::Lacking(what))
}

/// The value of `attribute`, for as long as the message lives.
fn value<'a>(attribute: &NlaBuffer<&'a [u8]>) -> &'a [u8] {
    let bytes = attribute.into_inner();
    bytes.get(size_of::<u32>()..usize::from(attribute.length())).unwrap_or_default()
}

/// Names of the bits that are set: in words of 32 bits, each as this machine has it.
fn names_of<'a>(bits: &[u8], names: &'a HashMap<usize, String>) -> Vec<&'a str> {
    let words = bits.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word));
    let is_set = |(place, word): (usize, u32)| {
        (0..u32::BITS as usize).filter(move |bit| word & (1 << bit) != 0).map(move |bit| place * 32 + bit)
    };
    words.enumerate().flat_map(is_set).filter_map(|bit| names.get(&bit).map(String::as_str)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rtnetlink::packet_core::{NetlinkDeserializable as _, NetlinkHeader, NetlinkSerializable as _};

    use super::{Message, names_of};

    #[test]
    fn bits_are_found_in_every_word() {
        let names: HashMap<_, _> =
            [(0, "a"), (31, "b"), (32, "c"), (70, "d")].map(|(bit, name)| (bit, name.into())).into();
        let words = [1_u32 | 1 << 31, 1, 1 << 6 | 1 << 7];
        let bits: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(names_of(&bits, &names), ["a", "b", "c", "d"]);
        assert!(names_of(&[], &names).is_empty());
    }

    #[test]
    fn a_message_is_read_as_it_was_written_and_a_short_one_is_refused() {
        let message = Message { family: 20, command: 11, attributes: vec![4, 0, 1, 0] };
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        assert_eq!(bytes, [11, 1, 0, 0, 4, 0, 1, 0]);
        let mut header = NetlinkHeader::default();
        header.message_type = 20;
        assert_eq!(Message::deserialize(&header, &bytes).ok(), Some(message));
        assert!(Message::deserialize(&header, &bytes[..3]).is_err());
    }
}
