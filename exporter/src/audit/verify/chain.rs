//! Whether lines are those that were written, in the order in which they were.
//!
//! What was done to a line shows by the one after it, which names its hash. So two lines that do not fit are only judged when
//! the next one vouches for the second of them, or does not.

use super::{
    Note, What,
    lines::{Debris, Line},
};
use crate::{
    audit::record::{GAP, Hash, Head, Link, OPENED, TORN},
    event::{STARTED, STOPPED},
};

/// Where a line is: the place of the file among those that are checked, and the number of the line, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) line: u64,
}

/// What is wrong, and where.
pub(super) type Found = (Place, What);

/// A line that fits to all before it, as far as can be told.
#[derive(Clone, Copy, Debug)]
struct Seen {
    place: Place,
    head: Head,
}

/// Checks line after line.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// The number of records by now.
    pub(super) records: u64,
    /// The number of the first record.
    pub(super) first: Option<u64>,
    /// Times of the first record and the last.
    pub(super) times: Option<(String, String)>,
    /// Whether the exporter runs, by the last record that says so.
    pub(super) is_running: Option<bool>,
    last: Option<Seen>,
    /// The one before the last.
    before: Option<Seen>,
    /// The last line does not name the one before it: which of the two was changed will show.
    doubtful: Option<Place>,
    /// What is no record, and where it begins.
    debris: Debris,
    debris_begins: Option<Place>,
}

impl Chain {
    /// What is no record, for whoever reads lines.
    pub(super) const fn debris(&mut self) -> &mut Debris {
        &mut self.debris
    }

    /// The last record.
    pub(super) fn head(&self) -> Option<Head> {
        self.last.map(|seen| seen.head)
    }

    /// Takes in the line at `place`. Answers with what is to be said of it, if anything is.
    pub(super) fn take(&mut self, place: Place, read: &Line) -> Result<Option<Note>, Found> {
        let record = read.text.as_deref().and_then(|text| Some((Link::read(text)?, Hash::of(text))));
        let Some((link, hash)) = record else {
            self.judge(None)?;
            self.debris.add_line(read);
            self.debris_begins.get_or_insert(place);
            return Ok(None);
        };
        self.judge(Some(&link))?;
        let head = Head { sequence: link.sequence, hash };
        // The newline of a record may be all that was not written: then there is nothing that was torn.
        let torn = link.event == TORN;
        if let Some(begins) = self.debris_begins {
            let is_told = torn && {
                let told = self.debris.torn();
                (link.bytes, link.sha256) == (Some(told.bytes), Some(told.sha256))
            };
            if !is_told {
                return Err((begins, What::NoRecord));
            }
        } else if torn && link.bytes != Some(0) {
            return Err((place, What::TornIsGone));
        }
        if place.line == 1 && link.event != OPENED {
            return Err((place, What::Headless));
        }
        self.follow(place, &link, head)?;
        self.debris = Debris::default();
        self.debris_begins = None;
        self.accept(Seen { place, head }, &link);
        Ok(self.note(&link))
    }

    /// Sees that nothing is left over when all lines were taken in.
    pub(super) fn end(&self) -> Result<(), Found> {
        if let Some(begins) = self.debris_begins {
            return Err((begins, What::Unfinished));
        }
        match (self.doubtful, self.before) {
            // Nobody vouches for the last line, but more can have been changed in the other.
            (Some(_), Some(before)) => Err((before.place, What::EditedOrNext)),
            _ => Ok(()),
        }
    }

    /// Judges two lines that did not fit, by the one after them.
    fn judge(&mut self, link: Option<&Link>) -> Result<(), Found> {
        let Some(place) = self.doubtful else { return Ok(()) };
        let is_vouched_for = link.zip(self.last).is_some_and(|(link, last)| link.previous == last.head.hash);
        match self.before {
            Some(before) if is_vouched_for => Err((before.place, What::Edited)),
            _ => Err((place, What::Edited)),
        }
    }

    /// Sees that a record follows the last one.
    fn follow(&mut self, place: Place, link: &Link, head: Head) -> Result<(), Found> {
        let Some(last) = self.last else {
            // What was before the first record is not known, unless nothing was.
            let is_right = link.sequence > 1 || link.previous == Hash::NONE;
            return if is_right { Ok(()) } else { Err((place, What::Edited)) };
        };
        let expected = last.head.sequence.saturating_add(1);
        match (link.sequence == expected, link.previous == last.head.hash) {
            (true, true) => Ok(()),
            (true, false) => {
                self.doubtful = Some(place);
                Ok(())
            }
            // It is in its place, but its number was changed.
            (false, true) => Err((place, What::Edited)),
            (false, false) => {
                let skips = |before: Seen| {
                    let follows = link.sequence == before.head.sequence.saturating_add(1);
                    follows && link.previous == before.head.hash && head != last.head
                };
                Err(match self.before {
                    Some(before) if skips(before) => (last.place, What::Inserted),
                    _ if link.sequence > expected => (place, What::Missing { from: expected, to: link.sequence - 1 }),
                    _ => (place, What::OutOfOrder { found: link.sequence, expected }),
                })
            }
        }
    }

    fn accept(&mut self, seen: Seen, link: &Link) {
        self.before = self.last.replace(seen);
        self.records += 1;
        self.first.get_or_insert(link.sequence);
        match &mut self.times {
            Some((_, last)) => last.clone_from(&link.time),
            None => self.times = Some((link.time.clone(), link.time.clone())),
        }
    }

    /// What is to be said of a record, though nothing is wrong with it.
    fn note(&mut self, link: &Link) -> Option<Note> {
        match link.event.as_str() {
            OPENED => None,
            TORN => Some(Note::Torn { bytes: link.bytes.unwrap_or_default() }),
            GAP => Some(Note::Gap { lost: link.total.unwrap_or_default() }),
            STOPPED => {
                self.is_running = Some(false);
                None
            }
            event => {
                let was_running = self.is_running.replace(true);
                (event == STARTED && was_running == Some(true)).then_some(Note::Unstopped)
            }
        }
    }
}
