//! BTF, the kernel's own type information, as far as it is asked where a member of a structure lies.
//!
//! The format is that of `Documentation/bpf/btf.rst`. (The crates that read it keep members to themselves, or have a licence
//! that is not for this program.)

use std::{fs, io};

use thiserror::Error;

/// Where the kernel shows its own.
pub(super) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
/// Bytes of what each type begins with: `struct btf_type`.
const TYPE: usize = 12;
/// How many structures may stand within each other, and how many names one type may have.
const DEPTH: usize = 16;

/// What a type is (`BTF_KIND_…`, `include/uapi/linux/btf.h`).
pub(super) mod kind {
    pub(in crate::kernel) const INT: u32 = 1;
    pub(in crate::kernel) const POINTER: u32 = 2;
    pub(in crate::kernel) const ARRAY: u32 = 3;
    pub(in crate::kernel) const STRUCT: u32 = 4;
    pub(in crate::kernel) const UNION: u32 = 5;
    pub(in crate::kernel) const ENUM: u32 = 6;
    pub(in crate::kernel) const TYPEDEF: u32 = 8;
    pub(in crate::kernel) const VOLATILE: u32 = 9;
    pub(in crate::kernel) const CONST: u32 = 10;
    pub(in crate::kernel) const RESTRICT: u32 = 11;
    pub(in crate::kernel) const PROTOTYPE: u32 = 13;
    pub(in crate::kernel) const VARIABLE: u32 = 14;
    pub(in crate::kernel) const SECTION: u32 = 15;
    pub(in crate::kernel) const DECLARATION_TAG: u32 = 17;
    pub(in crate::kernel) const TYPE_TAG: u32 = 18;
    pub(in crate::kernel) const ENUM64: u32 = 19;
}

/// What can go wrong with BTF.
#[derive(Debug, Error)]
pub(super) enum BtfError {
    /// The kernel shows none.
    #[error("cannot read {KERNEL_BTF} (CONFIG_DEBUG_INFO_BTF): {0}")]
    Unreadable(#[from] io::Error),
    /// It is not what it says to be.
    #[error("{KERNEL_BTF} is malformed")]
    Malformed,
    /// A type or a member is not there.
    #[error("this kernel has no {0}")]
    Missing(String),
}

/// The types of a kernel.
#[derive(Debug)]
pub(super) struct Types {
    data: Vec<u8>,
    /// Where each type begins, by its number; number 0 is `void`.
    places: Vec<usize>,
    /// Where the names begin.
    names: usize,
}

/// One type.
#[derive(Clone, Copy, Debug)]
struct Type {
    place: usize,
    name: u32,
    kind: u32,
    /// How many members, values or parameters it has.
    count: usize,
    /// Whether members say how many bits they have.
    has_bits: bool,
    /// Its size, or the type that it refers to.
    refers_to: u32,
}

impl Types {
    /// Those of the running kernel.
    pub(super) fn of_running_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(KERNEL_BTF)?)
    }

    /// Reads `data`, in the byte order of this machine.
    fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let mut types = Self { data, places: vec![0], names: 0 };
        let magic = types.data.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
        if magic != Some(MAGIC) {
            return Err(BtfError::Malformed);
        }
        let header = types.word(4)? as usize;
        let (start, length) = (header + types.word(8)? as usize, types.word(12)? as usize);
        types.names = header + types.word(16)? as usize;
        let mut place = start;
        while place < start + length {
            types.places.push(place);
            let Type { kind, count, .. } = types.at(place)?;
            place += TYPE
                + match kind {
                    kind::INT | kind::VARIABLE | kind::DECLARATION_TAG => 4,
                    kind::ARRAY => 12,
                    kind::STRUCT | kind::UNION | kind::SECTION | kind::ENUM64 => count * 12,
                    kind::ENUM | kind::PROTOTYPE => count * 8,
                    _ => 0,
                };
        }
        Ok(types)
    }

    /// Where the member lies that is reached by `path`, names with dots between them, in bytes from the beginning of the
    /// structure called `structure`.
    pub(super) fn offset(&self, structure: &str, path: &str) -> Result<u32, BtfError> {
        let mut current = self.find(kind::STRUCT, structure)?;
        let mut offset = 0;
        for name in path.split('.') {
            let missing = || BtfError::Missing(format!("{structure}.{path}"));
            let (at, of_type) = self.member(self.resolve(current)?, name, DEPTH)?.ok_or_else(missing)?;
            offset += at;
            current = of_type;
        }
        Ok(offset / 8)
    }

    /// The values of the enumeration called `name`, and their names.
    pub(super) fn values(&self, name: &str) -> Result<Vec<(u32, String)>, BtfError> {
        let one = self.get(self.find(kind::ENUM, name)?)?;
        (0..one.count)
            .map(|number| {
                let place = one.place + TYPE + number * 8;
                Ok((self.word(place + 4)?, self.name(self.word(place)?)?.to_owned()))
            })
            .collect()
    }

    /// What the programs of a tracepoint are given: the names of the structures that are pointed to, and of other types.
    pub(super) fn parameters(&self, tracepoint: &str) -> Result<Vec<String>, BtfError> {
        let pointer = self.get(self.find(kind::TYPEDEF, &format!("btf_trace_{tracepoint}"))?)?.refers_to;
        let prototype = self.get(self.get(pointer)?.refers_to)?;
        if prototype.kind != kind::PROTOTYPE {
            return Err(BtfError::Malformed);
        }
        // The first is the tracepoint's own.
        (1..prototype.count)
            .map(|number| {
                let mut one = self.resolve(self.word(prototype.place + TYPE + number * 8 + 4)?)?;
                if self.get(one)?.kind == kind::POINTER {
                    one = self.resolve(self.get(one)?.refers_to)?;
                }
                // There is no number 0: that is `void`.
                if one == 0 { Ok(String::new()) } else { self.name(self.get(one)?.name).map(str::to_owned) }
            })
            .collect()
    }

    /// Where in the structure with the number `structure` the member called `name` lies, in bits, and its type. Structures
    /// without a name within it count as part of it.
    fn member(&self, structure: u32, name: &str, depth: usize) -> Result<Option<(u32, u32)>, BtfError> {
        let Type { place, kind, count, has_bits, .. } = self.get(structure)?;
        if depth == 0 || ![kind::STRUCT, kind::UNION].contains(&kind) {
            return Err(BtfError::Malformed);
        }
        for number in 0..count {
            let place = place + TYPE + number * 12;
            let (own_name, of_type, at) = (self.name(self.word(place)?)?, self.word(place + 4)?, self.word(place + 8)?);
            let at = if has_bits { at & 0x00ff_ffff } else { at };
            if own_name == name {
                return Ok(Some((at, of_type)));
            }
            if own_name.is_empty()
                && let Some((within, of_type)) = self.member(self.resolve(of_type)?, name, depth - 1)?
            {
                return Ok(Some((at + within, of_type)));
            }
        }
        Ok(None)
    }

    /// The type with the number `one`, without what only qualifies or names it.
    fn resolve(&self, mut one: u32) -> Result<u32, BtfError> {
        for _ in 0..DEPTH {
            match self.get(one) {
                Ok(Type {
                    kind: kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG,
                    refers_to,
                    ..
                }) => one = refers_to,
                _ => return Ok(one),
            }
        }
        Err(BtfError::Malformed)
    }

    /// The number of the type of `kind` that is called `name`.
    fn find(&self, kind: u32, name: &str) -> Result<u32, BtfError> {
        for number in 1..self.places.len() as u32 {
            let one = self.get(number)?;
            if one.kind == kind && self.name(one.name)? == name {
                return Ok(number);
            }
        }
        Err(BtfError::Missing(name.to_owned()))
    }

    fn get(&self, number: u32) -> Result<Type, BtfError> {
        match self.places.get(number as usize) {
            Some(&place) if number > 0 => self.at(place),
            _ => Err(BtfError::Malformed),
        }
    }

    fn at(&self, place: usize) -> Result<Type, BtfError> {
        let info = self.word(place + 4)?;
        Ok(Type {
            place,
            name: self.word(place)?,
            kind: info >> 24 & 0x1f,
            count: (info & 0xffff) as usize,
            has_bits: info >> 31 != 0,
            refers_to: self.word(place + 8)?,
        })
    }

    fn word(&self, place: usize) -> Result<u32, BtfError> {
        let bytes = self.data.get(place..).and_then(<[u8]>::first_chunk).ok_or(BtfError::Malformed)?;
        Ok(u32::from_ne_bytes(*bytes))
    }

    fn name(&self, offset: u32) -> Result<&str, BtfError> {
        let rest = self.data.get(self.names + offset as usize..).ok_or(BtfError::Malformed)?;
        let end = rest.iter().position(|byte| *byte == 0).ok_or(BtfError::Malformed)?;
        str::from_utf8(&rest[..end]).map_err(|_| BtfError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::{BtfError, Types, kind};

    /// A file of `types`, each in words, and `names`.
    fn file(types: &[&[u32]], names: &str) -> Vec<u8> {
        let types: Vec<u8> = types.concat().into_iter().flat_map(u32::to_ne_bytes).collect();
        let length = types.len() as u32;
        let mut file = super::MAGIC.to_ne_bytes().to_vec();
        file.extend([1, 0]);
        file.extend([24, 0, length, length, names.len() as u32].into_iter().flat_map(u32::to_ne_bytes));
        file.extend(types);
        file.extend(names.bytes());
        file
    }

    #[test]
    fn members_are_found_through_nameless_structures_and_other_names() {
        let names = "\0outer\0inner\0deep\0alias\0reason\0FIRST\0";
        let at = |name: &str| names.find(&format!("\0{name}\0")).unwrap() as u32 + 1;
        let of = |kind: u32, count: u32| kind << 24 | count;
        let file = file(
            &[
                &[0, of(kind::INT, 0), 4, 32],
                &[at("alias"), of(kind::TYPEDEF, 0), 3],
                &[at("inner"), of(kind::STRUCT, 1), 8, at("deep"), 1, 32],
                &[0, of(kind::UNION, 1), 8, at("inner"), 2, 0],
                // A bit field before it, so that members say how many bits they have.
                &[at("outer"), 1 << 31 | of(kind::STRUCT, 2), 16, at("alias"), 1, 3 << 24, 0, 4, 64],
                &[at("reason"), of(kind::ENUM, 1), 4, at("FIRST"), 7],
            ],
            names,
        );
        let types = Types::parse(file.clone()).unwrap();
        assert_eq!(types.offset("outer", "inner").unwrap(), 8);
        assert_eq!(types.offset("outer", "inner.deep").unwrap(), 12);
        assert_eq!(types.values("reason").unwrap(), [(7, "FIRST".to_owned())]);
        for (structure, path) in [("outer", "deep"), ("nothing", "deep"), ("outer", "inner.nothing")] {
            assert!(matches!(types.offset(structure, path), Err(BtfError::Missing(_))), "{structure}.{path}");
        }
        // Whatever is cut off, nothing is read beyond it.
        for length in 0..file.len() {
            if let Ok(types) = Types::parse(file[..length].to_vec()) {
                assert!(types.offset("outer", "inner.deep").is_err() || types.values("reason").is_err());
            }
        }
    }
}
