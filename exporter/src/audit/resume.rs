//! Where a log goes on: its last whole record, and what an exporter that was killed has left behind that.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use sha2::{Digest as _, Sha256};

use super::record::{Hash, Head, Link, MAX_LINE, Torn};

/// How much is read at a time.
const BLOCK: usize = 8192;
/// The most bytes behind the last record that an exporter can have left. It writes far less at once, but a machine that fails may
/// leave zeros where more was to be.
const MAX_SEARCH: u64 = 64 << 20;
/// What every line begins with.
const BEGINNING: &[u8] = br#"{"sequence":"#;

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There is nothing in it.
    Empty,
    /// With a record.
    Whole(Head),
    /// With something else behind the last record, or a record without its newline. If there is none at all, the head is `None`.
    Torn {
        /// The last record.
        head: Option<Head>,
        /// What is behind it, with a newline at its end.
        torn: Torn,
        /// Whether that newline has to be written first.
        lacks_newline: bool,
    },
    /// It is no audit log.
    Foreign,
}

impl End {
    /// How `file`, which is `size` bytes long, ends.
    pub(super) fn of(file: &File, size: u64) -> io::Result<Self> {
        if size == 0 {
            return Ok(Self::Empty);
        }
        let is_whole = byte(file, size - 1)? == b'\n';
        let (head, end) = match last_record(file, size)? {
            Some((head, end)) if end == size && is_whole => return Ok(Self::Whole(head)),
            Some((head, end)) => (Some(head), end),
            None if size <= MAX_SEARCH && begins_like_ours(file)? => (None, 0),
            None => return Ok(Self::Foreign),
        };
        let torn = torn(file, end, size, !is_whole && end < size)?;
        Ok(Self::Torn { head, torn, lacks_newline: !is_whole })
    }
}

/// The last record of `file`, and where it ends.
fn last_record(file: &File, size: u64) -> io::Result<Option<(Head, u64)>> {
    let mut end = size;
    while end > 0 && size - end <= MAX_SEARCH {
        let is_whole = byte(file, end - 1)? == b'\n';
        let stop = end - u64::from(is_whole);
        let start = line_start(file, stop)?;
        if let Ok(length) = usize::try_from(stop - start)
            && length <= MAX_LINE
        {
            let mut line = vec![0; length];
            file.read_exact_at(&mut line, start)?;
            if let Some(Link { sequence, .. }) = Link::read(&line) {
                return Ok(Some((Head { sequence, hash: Hash::of(&line) }, end)));
            }
        }
        end = start;
    }
    Ok(None)
}

/// Where the line begins that ends at `stop`.
fn line_start(file: &File, stop: u64) -> io::Result<u64> {
    let mut end = stop;
    let mut block = [0; BLOCK];
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let block = &mut block[..usize::try_from(end - start).unwrap_or(BLOCK)];
        file.read_exact_at(block, start)?;
        if let Some(place) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + place as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// What stands from `start` to `end`, with a newline more if it lacks that.
fn torn(file: &File, start: u64, end: u64, lacks_newline: bool) -> io::Result<Torn> {
    let mut hasher = Sha256::new();
    let mut at = start;
    let mut block = [0; BLOCK];
    while at < end {
        let length = (end - at).min(BLOCK as u64);
        let block = &mut block[..usize::try_from(length).unwrap_or(BLOCK)];
        file.read_exact_at(block, at)?;
        hasher.update(block);
        at += length;
    }
    if lacks_newline {
        hasher.update(b"\n");
    }
    Ok(Torn { bytes: end - start + u64::from(lacks_newline), sha256: Hash::from(hasher) })
}

/// Whether `file`, in which there is no record, may be one in which not even the first was written to its end.
fn begins_like_ours(file: &File) -> io::Result<bool> {
    let mut beginning = [0; BEGINNING.len()];
    let length = file.read_at(&mut beginning, 0)?;
    let beginning = &beginning[..length];
    Ok(BEGINNING.starts_with(beginning) || beginning.iter().all(|byte| *byte == 0))
}

fn byte(file: &File, at: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    let [byte] = byte;
    Ok(byte)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::{End, Hash, Head, Torn};
    use crate::audit::record::{Entry, Opened, Why};

    /// Lines of a log, without newlines, and the head of each.
    fn lines(count: usize) -> Vec<(Vec<u8>, Head)> {
        let mut head = Head::NONE;
        let next = |_| {
            let made = Entry::opened(Opened { why: Why::Begun, continues: None }).line(head).expect("can be written");
            head = made.1;
            made
        };
        (0..count).map(next).collect()
    }

    fn end_of(contents: &[u8]) -> End {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(contents).expect("is written");
        End::of(&file, contents.len() as u64).expect("is read")
    }

    #[test]
    fn a_log_goes_on_after_its_last_record() {
        let lines = lines(3);
        let whole: Vec<u8> = lines.iter().flat_map(|(line, _)| [line.as_slice(), b"\n"].concat()).collect();
        let head = lines[2].1;
        assert_eq!(end_of(&whole), End::Whole(head));
        assert_eq!(end_of(b""), End::Empty);
        // Cut anywhere in its last line.
        let before = whole.len() - lines[2].0.len() - 1;
        for cut in before + 1..whole.len() - 1 {
            let torn = [&whole[before..cut], b"\n"].concat();
            let torn = Torn { bytes: torn.len() as u64, sha256: Hash::of(&torn) };
            assert_eq!(end_of(&whole[..cut]), End::Torn { head: Some(lines[1].1), torn, lacks_newline: true }, "{cut}");
        }
        let nothing = Torn { bytes: 0, sha256: Hash::of(b"") };
        assert_eq!(
            end_of(&whole[..whole.len() - 1]),
            End::Torn { head: Some(head), torn: nothing, lacks_newline: true },
            "the newline alone"
        );
        // Torn twice, and with zeros of a machine that has failed.
        for junk in [b"{\"sequ\n{\"sequence\":4,\n".to_vec(), [vec![0; 100_000], b"\n".to_vec()].concat()] {
            let torn = Torn { bytes: junk.len() as u64, sha256: Hash::of(&junk) };
            let end = End::Torn { head: Some(head), torn, lacks_newline: false };
            assert_eq!(end_of(&[whole.as_slice(), &junk].concat()), end);
        }
    }

    #[test]
    fn a_first_line_may_be_torn_but_other_files_are_left_alone() {
        let (line, _) = &lines(1)[0];
        for cut in 1..line.len() {
            assert!(matches!(end_of(&line[..cut]), End::Torn { head: None, lacks_newline: true, .. }), "{cut}");
        }
        assert!(matches!(end_of(&[0; 100]), End::Torn { head: None, .. }));
        for foreign in ["root:x:0:0::/root:/bin/sh\n", "{\"a\":1}\n", "\n", "x"] {
            assert_eq!(end_of(foreign.as_bytes()), End::Foreign, "{foreign}");
        }
    }
}
