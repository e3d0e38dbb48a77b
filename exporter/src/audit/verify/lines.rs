//! Lines of a file, of which no more is kept than a line of ours can have.

use std::io::{self, BufRead};

use sha2::{Digest as _, Sha256};

use crate::audit::record::{Hash, MAX_LINE, Torn};

/// Bytes that are no records, one after the other.
#[derive(Debug, Default)]
pub(super) struct Debris {
    bytes: u64,
    hasher: Sha256,
}

impl Debris {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    /// All of it, as the record would have it that is written behind it.
    pub(super) fn torn(&self) -> Torn {
        Torn { bytes: self.bytes, sha256: Hash::from(self.hasher.clone()) }
    }

    /// Adds `line`, which is no record. Of one that is too long, all of it was added as it was read.
    pub(super) fn add_line(&mut self, line: &Line) {
        if let Some(text) = &line.text {
            self.add(text);
            self.add(if line.is_whole { b"\n" } else { b"" });
        }
    }
}

/// A line.
#[derive(Debug)]
pub(super) struct Line {
    /// What is in it, without the newline; none if it is too long.
    pub(super) text: Option<Vec<u8>>,
    /// Whether it has a newline.
    pub(super) is_whole: bool,
}

/// Reads the next line; none at the end. What of one that is too long cannot be kept is added to `debris`.
pub(super) fn next(reader: &mut impl BufRead, debris: &mut Debris) -> io::Result<Option<Line>> {
    let mut text = Some(Vec::new());
    let mut has_any = false;
    loop {
        let block = match reader.fill_buf() {
            Ok(block) => block,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if block.is_empty() {
            return Ok(has_any.then_some(Line { text, is_whole: false }));
        }
        has_any = true;
        let newline = block.iter().position(|byte| *byte == b'\n');
        let part = &block[..newline.unwrap_or(block.len())];
        match &mut text {
            Some(kept) if kept.len() + part.len() <= MAX_LINE => kept.extend_from_slice(part),
            Some(kept) => {
                debris.add(kept);
                debris.add(part);
                text = None;
            }
            None => debris.add(part),
        }
        if text.is_none() && newline.is_some() {
            debris.add(b"\n");
        }
        let used = part.len() + usize::from(newline.is_some());
        reader.consume(used);
        if newline.is_some() {
            return Ok(Some(Line { text, is_whole: true }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::{Debris, Hash, MAX_LINE, next};

    #[test]
    fn lines_are_read_in_pieces_and_long_ones_are_only_hashed() {
        let long = vec![b'x'; MAX_LINE + 1];
        let text = [b"one\n\n".as_slice(), &long, b"\nlast"].concat();
        for size in [1, 7, 8192, text.len()] {
            let (mut reader, mut debris) = (BufReader::with_capacity(size, text.as_slice()), Debris::default());
            let mut lines = Vec::new();
            while let Some(line) = next(&mut reader, &mut debris).expect("is read") {
                lines.push((line.text, line.is_whole));
            }
            let kept = |text: &[u8]| Some(text.to_vec());
            assert_eq!(lines, [(kept(b"one"), true), (kept(b""), true), (None, true), (kept(b"last"), false)]);
            let torn = debris.torn();
            assert_eq!(torn.bytes, long.len() as u64 + 1);
            assert_eq!(torn.sha256, Hash::of(&[&long, b"\n".as_slice()].concat()));
        }
    }
}
