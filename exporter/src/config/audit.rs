//! The audit log: `[audit]`, as it is written and as it is meant.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::validate::Check;

/// How large a file may become: no less than some hundred lines, and no more than anybody can look at.
const SIZES: RangeInclusive<u64> = 64 << 10..=1 << 40;

/// How many files may be kept.
const KEPT: RangeInclusive<i64> = 1..=100_000;

/// How the audit log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// The file.
    pub file: PathBuf,
    /// How many bytes it may have until another is begun.
    pub max_size: u64,
    /// How many files are kept beside the one that is written.
    pub keep: usize,
    /// When lines are kept on the disk.
    pub sync: AuditSync,
    /// Whether each finished flow is a line.
    pub flows: bool,
}

/// When what was written is kept on the disk, so that it outlives the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"interval\" or \"never\"")]
pub enum AuditSync {
    /// Each second.
    Interval,
    /// When the kernel likes, and when a file is put away.
    Never,
}

/// `[audit]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawAudit {
    /// The file; there is no audit log if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// How many bytes it may have.
    pub max_size: Size,
    /// How many files are kept beside it.
    pub keep: i64,
    /// When lines are kept on the disk.
    pub sync: AuditSync,
    /// Whether each finished flow is a line.
    pub flows: bool,
}

impl Default for RawAudit {
    fn default() -> Self {
        Self { file: None, max_size: Size(64 << 20), keep: 10, sync: AuditSync::Interval, flows: false }
    }
}

/// A number of bytes, written as `"64MiB"`, `"1GB"` or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Exactly, in the largest unit that it is so many of.
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "B")];
        let unit = units.into_iter().find(|(shift, _)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        let (shift, unit) = unit.unwrap_or((0, "B"));
        serializer.collect_str(&format_args!("{}{unit}", self.0 >> shift))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a number of bytes such as \"64MiB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                let size = text.parse::<ByteSize>().map(|size| Size(size.as_u64()));
                size.map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Size, E> {
                Ok(Size(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
                u64::try_from(number).map(Size).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl Check<'_> {
    /// What is meant by `[audit]`, where `has_flows` is whether any are kept.
    pub(super) fn audit(&mut self, raw: RawAudit, has_flows: bool) -> Option<Audit> {
        let RawAudit { file, max_size: Size(max_size), keep, sync, flows } = raw;
        if !SIZES.contains(&max_size) {
            let [found, least, most] = [max_size, *SIZES.start(), *SIZES.end()].map(shown);
            self.problem_at(&["audit", "max_size"], format!("found {found}, expected {least} to {most}"));
        }
        if !KEPT.contains(&keep) {
            let (least, most) = (KEPT.start(), KEPT.end());
            self.problem_at(&["audit", "keep"], format!("found {keep}, expected {least} to {most}"));
        }
        if flows && file.is_none() {
            self.problem_at(&["audit", "flows"], "found true, expected audit.file with it".to_owned());
        } else if flows && !has_flows {
            let expected = "found true, expected false while flows.capacity is 0: no flows are kept";
            self.problem_at(&["audit", "flows"], expected.to_owned());
        }
        let file = file?;
        if !is_file_name(&file) {
            let expected = "expected the absolute path of a file such as \"/var/log/tidewaiter/audit.jsonl\"";
            self.problem_at(&["audit", "file"], format!("found {:?}, {expected}", file.display().to_string()));
        }
        Some(Audit { file, max_size, keep: usize::try_from(keep).unwrap_or_default(), sync, flows })
    }
}

/// Whether `path` may be that of a file: also what it is called is told, so it has to be text.
fn is_file_name(path: &Path) -> bool {
    let is_folder = path.as_os_str().to_str().is_none_or(|text| text.ends_with(['/', '.']));
    path.is_absolute() && !is_folder && path.file_name().is_some()
}

/// `bytes` as people write them.
pub(crate) fn shown(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn a_size_is_written_as_it_can_be_read() {
        for (text, bytes) in [
            ("\"64MiB\"", 64 << 20),
            ("\"1GiB\"", 1 << 30),
            ("\"1536KiB\"", 1536 << 10),
            ("\"1000B\"", 1000),
            ("\"0B\"", 0),
        ] {
            assert_eq!(serde_json::from_str::<Size>(text).expect("a size"), Size(bytes));
            assert_eq!(serde_json::to_string(&Size(bytes)).expect("text"), text);
        }
        assert_eq!(serde_json::from_str::<Size>("\"1 MB\"").expect("a size"), Size(1_000_000));
        assert_eq!(serde_json::from_str::<Size>("65536").expect("a size"), Size(65_536));
        for wrong in ["\"\"", "\"a lot\"", "-1", "\"-1MiB\"", "true"] {
            assert!(serde_json::from_str::<Size>(wrong).is_err(), "{wrong}");
        }
    }
}
