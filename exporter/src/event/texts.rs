//! Texts of events: times, and words of others, of which there may not be too many.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The most bytes of a text: some of them are what others have sent or written.
pub const MAX_TEXT: usize = 1024;
/// The most bytes of all texts of a list.
pub const MAX_LIST: usize = 16_384;

/// The end of a time that RFC 3339 can write: the last second of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// `time` by RFC 3339, in UTC, with nanoseconds. One that cannot be written so, before 1970 or after 9999, as the nearest that
/// can.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    humantime::format_rfc3339_nanos(UNIX_EPOCH + since.min(Duration::from_secs(LAST_SECOND))).to_string()
}

/// `text`, without what is too much of it.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_TEXT {
        return text.into();
    }
    let mark = "…";
    format!("{}{mark}", &text[..text.floor_char_boundary(MAX_TEXT - mark.len())]).into()
}

/// As many of `texts` as there is room for, and how many more there are.
pub(super) fn shortened_list(texts: &[String]) -> Vec<String> {
    let mut room = MAX_LIST;
    let mut kept = Vec::new();
    for text in texts {
        let text = shortened(text);
        let Some(left) = room.checked_sub(text.len() + 1) else {
            kept.push(format!("and {} more", texts.len() - kept.len()));
            break;
        };
        room = left;
        kept.push(text.into_owned());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::{MAX_LIST, MAX_TEXT, rfc3339, shortened, shortened_list};
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    #[test]
    fn every_time_can_be_written() {
        let far = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (time, text) in [
            (UNIX_EPOCH, "1970-01-01T00:00:00.000000000Z"),
            (UNIX_EPOCH - Duration::from_secs(1), "1970-01-01T00:00:00.000000000Z"),
            (far(1_700_000_000) + Duration::from_nanos(7), "2023-11-14T22:13:20.000000007Z"),
            (far(1 << 40), "9999-12-31T23:59:59.000000000Z"),
        ] {
            assert_eq!(rfc3339(time), text);
        }
        let now = SystemTime::now();
        assert_eq!(humantime::parse_rfc3339(&rfc3339(now)).expect("is one"), now);
    }

    #[test]
    fn what_is_too_long_is_cut_between_letters() {
        for letter in ["a", "ä", "€", "𝄞"] {
            let cut = shortened(&letter.repeat(MAX_TEXT)).into_owned();
            assert!(cut.len() <= MAX_TEXT && cut.len() > MAX_TEXT - 8, "{}", cut.len());
            assert_eq!(cut.ends_with('…'), letter != "a", "{cut}");
        }
        assert_eq!(shortened("as it is"), "as it is");
    }

    #[test]
    fn a_long_list_says_how_many_are_left_out() {
        let texts: Vec<_> = (0..1000).map(|number| format!("{number:0>100}")).collect();
        let kept = shortened_list(&texts);
        assert_eq!(kept.len() - 1, MAX_LIST / 101);
        assert_eq!(kept.last(), Some(&format!("and {} more", 1000 - MAX_LIST / 101)));
        assert_eq!(shortened_list(&texts[..3]), texts[..3]);
    }
}
