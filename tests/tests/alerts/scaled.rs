//! The shipped rules with all their times divided by [`FACTOR`]: windows, offsets, intervals, and how long something must be so.
//! Nothing else of them is changed. What takes two minutes takes four seconds then, with a scrape each second instead of each half
//! minute, and a test need not wait for an hour.

use std::{fmt::Write as _, fs, path::Path};

use crate::{files, folder};

/// See above.
const FACTOR: u64 = 30;
/// What times stand behind.
const MARKS: [&str; 4] = ["[", "offset ", "interval: ", "for: "];
/// Their units, in milliseconds.
const UNITS: [(char, u64); 4] = [('s', 1000), ('m', 60_000), ('h', 3_600_000), ('d', 86_400_000)];

/// Writes them into `to`.
pub(crate) fn write(to: &Path) {
    for file in files(&folder(), ".yml") {
        let text = fs::read_to_string(&file).expect("is text");
        fs::write(to.join(file.file_name().expect("has a name")), scale(&text)).expect("can be written");
    }
}

/// `text` with each time behind a mark, and each step of a subquery behind that, divided.
fn scale(text: &str) -> String {
    let (mut scaled, mut rest) = (String::new(), text);
    while let Some(end) = MARKS.iter().filter_map(|mark| rest.find(mark).map(|at| at + mark.len())).min() {
        scaled += &rest[..end];
        rest = &rest[end..];
        rest = divide(rest, &mut scaled);
        if let Some(step) = rest.strip_prefix(':') {
            scaled.push(':');
            rest = divide(step, &mut scaled);
        }
    }
    scaled + rest
}

/// Adds the time that `text` begins with to `scaled`, divided, and answers with what is behind it.
fn divide<'a>(text: &'a str, scaled: &mut String) -> &'a str {
    let length = text.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(text.len());
    let Some(time) = milliseconds(&text[..length]) else { return text };
    write!(scaled, "{}ms", time / FACTOR).expect("a String takes all");
    &text[length..]
}

/// What `2m` or `23h30m` comes to.
fn milliseconds(time: &str) -> Option<u64> {
    let mut parts = time.split_inclusive(|letter: char| letter.is_ascii_alphabetic()).peekable();
    parts.peek()?;
    parts.try_fold(0, |sum, part| {
        let unit = part.chars().last()?;
        let (_, length) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        Some(sum + part.strip_suffix(unit)?.parse::<u64>().ok()? * length)
    })
}

#[test]
fn times_are_divided_and_nothing_else() {
    let text = "interval: 30s\nexpr: max(a{b=\"2m\"}[7d:10m] offset 167h30m) / b:rate2m[1h] > 3 # [see]\nfor: 3m30s\n";
    let scaled = "interval: 1000ms\nexpr: max(a{b=\"2m\"}[20160000ms:20000ms] offset 20100000ms) / b:rate2m[120000ms] > 3 # [see]\nfor: 7000ms\n";
    assert_eq!(scale(text), scaled);
}
