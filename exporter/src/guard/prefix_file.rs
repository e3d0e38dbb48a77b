//! Lists of prefixes, as people write them and as blocklists are published.
//!
//! One address or prefix on each line; what follows a `#` or a `;` is a comment, and empty lines do not matter. So the lists of
//! Spamhaus (`192.0.2.0/24 ; SBL1`), the netsets of `FireHOL` and plain lists of addresses are read as they are. A list is taken
//! as a whole or not at all: one that was cut off or mixed up must not become a rule.

use std::{
    fmt::{self, Write as _},
    fs::{self, File},
    io::{self, Read as _},
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use thiserror::Error;

/// The most bytes of a file: a million prefixes, with room for comments.
pub const MOST_BYTES: u64 = 64 << 20;

/// The most prefixes of a file.
pub const MOST_PREFIXES: usize = 1 << 20;

/// The most problems that are told of at once.
pub const MOST_PROBLEMS: usize = 10;

/// The most bytes of a text that is no prefix that are shown.
const MOST_SHOWN: usize = 64;

/// A text that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// Nothing like an address.
    #[error("expected an IPv4 or IPv6 address, or a prefix such as 192.0.2.0/24 or 2001:db8::/32, not {0}")]
    NotAPrefix(Excerpt),
    /// An address, and behind its slash something other than a number of its bits.
    #[error("expected a prefix length from 0 to {most} behind {address}/, not {length}")]
    Length {
        /// The address.
        address: IpAddr,
        /// How many bits it has.
        most: u8,
        /// What was written behind the slash.
        length: Excerpt,
    },
    /// Bits beyond its length are set: it cannot be known whether the network or the address was meant.
    #[error("{address}/{} has bits beyond its length, did you mean the network {network} or the address {address}?", network.prefix_len())]
    HostBits {
        /// The address as it was written.
        address: IpAddr,
        /// The network that it is in.
        network: IpNet,
    },
}

/// The beginning of a text that was refused, fit to be shown: bytes that could do something to a terminal or to a line are escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    text: Vec<u8>,
    is_cut: bool,
}

impl From<&[u8]> for Excerpt {
    fn from(text: &[u8]) -> Self {
        let shown = text.get(..MOST_SHOWN).unwrap_or(text);
        Self { text: shown.to_vec(), is_cut: shown.len() < text.len() }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{}\"", self.text.escape_ascii())?;
        if self.is_cut { formatter.write_char('…') } else { Ok(()) }
    }
}

/// The prefix that `text` is, spaces around it aside. An address alone is a prefix of all its bits.
pub fn parse_prefix(text: &str) -> Result<IpNet, PrefixError> {
    parse(text.as_bytes())
}

fn parse(text: &[u8]) -> Result<IpNet, PrefixError> {
    let text = text.trim_ascii();
    let (address, length) = match text.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&text[..slash], Some(&text[slash + 1..])),
        None => (text, None),
    };
    let address: Option<IpAddr> = str::from_utf8(address).ok().and_then(|address| address.parse().ok());
    let Some(address) = address else { return Err(PrefixError::NotAPrefix(text.into())) };
    let Some(length) = length else { return Ok(address.into()) };
    let most = IpNet::from(address).max_prefix_len();
    let refused = || PrefixError::Length { address, most, length: length.into() };
    // A number is parsed with a sign before it, too.
    let digits = str::from_utf8(length).ok().filter(|length| length.bytes().all(|byte| byte.is_ascii_digit()));
    let bits = digits.and_then(|digits| digits.parse().ok()).ok_or_else(refused)?;
    let network = IpNet::new(address, bits).map_err(|_| refused())?.trunc();
    if network.addr() == address { Ok(network) } else { Err(PrefixError::HostBits { address, network }) }
}

/// A file of which no list of prefixes is to be had.
#[derive(Debug, Error)]
pub enum PrefixFileError {
    /// It could not be read.
    #[error("cannot read the prefixes in {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a device, or something else that need not have an end.
    #[error("expected a file of prefixes, and {} is none", .0.display())]
    NotAFile(PathBuf),
    /// More than [`MOST_BYTES`].
    #[error("{} has more than {} MiB, the most that a file of prefixes may have", .0.display(), MOST_BYTES >> 20)]
    TooLarge(PathBuf),
    /// More than [`MOST_PREFIXES`].
    #[error("{} has more than {MOST_PREFIXES} prefixes, the most that a file of them may have", .0.display())]
    TooMany(PathBuf),
    /// Lines of it are no prefixes.
    #[error("{}", told(path, problems, *more))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The first of them, at most [`MOST_PROBLEMS`].
        problems: Vec<LineProblem>,
        /// How many more there are.
        more: usize,
    },
}

/// A line that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineProblem {
    /// Which line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub error: PrefixError,
}

fn told(path: &Path, problems: &[LineProblem], more: usize) -> String {
    let mut lines: Vec<_> =
        problems.iter().map(|LineProblem { line, error }| format!("{}:{line}: {error}", path.display())).collect();
    if more > 0 {
        lines.push(format!("{}: {more} more lines like these", path.display()));
    }
    lines.join("\n")
}

/// The prefixes in the file at `path`, in its order. There may be none.
pub fn read_prefixes(path: &Path) -> Result<Vec<IpNet>, PrefixFileError> {
    let unreadable = |source| PrefixFileError::Unreadable { path: path.to_owned(), source };
    // To open a pipe that nobody writes to would wait for one who does.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(PrefixFileError::NotAFile(path.to_owned()));
    }
    let mut content = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MOST_BYTES + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > MOST_BYTES {
        return Err(PrefixFileError::TooLarge(path.to_owned()));
    }
    parse_list(path, &content)
}

/// The prefixes in `content`, which is that of the file at `path`.
fn parse_list(path: &Path, content: &[u8]) -> Result<Vec<IpNet>, PrefixFileError> {
    // Editors of other systems begin files with a byte order mark.
    let content = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content);
    let (mut prefixes, mut problems, mut more) = (vec![], vec![], 0);
    for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let end = line.iter().position(|byte| matches!(byte, b'#' | b';')).unwrap_or(line.len());
        let text = line[..end].trim_ascii();
        if text.is_empty() {
            continue;
        }
        match parse(text) {
            Ok(_) if prefixes.len() >= MOST_PREFIXES => return Err(PrefixFileError::TooMany(path.to_owned())),
            Ok(prefix) => prefixes.push(prefix),
            Err(error) if problems.len() < MOST_PROBLEMS => problems.push(LineProblem { line: index + 1, error }),
            Err(_) => more += 1,
        }
    }
    if problems.is_empty() {
        Ok(prefixes)
    } else {
        Err(PrefixFileError::Invalid { path: path.to_owned(), problems, more })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test panics for a stack trace")]

    use super::*;

    fn read(content: impl AsRef<[u8]>) -> Result<Vec<IpNet>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        fs::write(&path, content).unwrap();
        read_prefixes(&path).map_err(|error| error.to_string().replace(&path.display().to_string(), "list"))
    }

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn published_lists_are_read_as_they_are() {
        let spamhaus = "; Spamhaus DROP List\n; Last-Modified: now\n192.0.2.0/24 ; SBL1\n198.51.100.0/22 ; SBL2\n";
        assert_eq!(read(spamhaus.replace("100.0/22", "100.0/24")), Ok(networks(&["192.0.2.0/24", "198.51.100.0/24"])));
        let firehol =
            "#\n# firehol_level1\n# caf\u{e9} \u{1b}[31m\n0.0.0.0/8\n203.0.113.7\n2001:db8::/32\n2001:db8:1::1\n";
        let expected = networks(&["0.0.0.0/8", "203.0.113.7/32", "2001:db8::/32", "2001:db8:1::1/128"]);
        assert_eq!(read(firehol), Ok(expected.clone()));
        // From another system, with spaces, a comment in another encoding, and no end of the last line.
        assert_eq!(read(format!("\u{feff}{}", firehol.replace('\n', "\t \r\n"))), Ok(expected));
        assert_eq!(
            read(b"  192.0.2.1 # caf\xe9\n\n 192.0.2.2#\n192.0.2.3;"),
            Ok(networks(&["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"]))
        );
        assert_eq!([read(""), read("# nothing\n\n")], [Ok(vec![]), Ok(vec![])]);
        assert_eq!(read("0.0.0.0/0\n::/0"), Ok(networks(&["0.0.0.0/0", "::/0"])));
    }

    #[test]
    fn lines_that_are_no_prefixes_are_told_of() {
        let shape = "expected an IPv4 or IPv6 address, or a prefix such as 192.0.2.0/24 or 2001:db8::/32, not";
        let refused = [
            ("ten", format!("{shape} \"ten\"")),
            ("192.0.2.1 192.0.2.2", format!("{shape} \"192.0.2.1 192.0.2.2\"")),
            ("192.0.2.1-192.0.2.9", format!("{shape} \"192.0.2.1-192.0.2.9\"")),
            ("192.0.2.010", format!("{shape} \"192.0.2.010\"")),
            ("fe80::1%eth0", format!("{shape} \"fe80::1%eth0\"")),
            ("/24", format!("{shape} \"/24\"")),
            ("\u{1b}[31m\"é", format!("{shape} \"\\x1b[31m\\\"\\xc3\\xa9\"")),
            ("192.0.2.0/33", "expected a prefix length from 0 to 32 behind 192.0.2.0/, not \"33\"".to_owned()),
            ("::/129", "expected a prefix length from 0 to 128 behind ::/, not \"129\"".to_owned()),
            ("192.0.2.0/", "expected a prefix length from 0 to 32 behind 192.0.2.0/, not \"\"".to_owned()),
            ("192.0.2.0/+24", "expected a prefix length from 0 to 32 behind 192.0.2.0/, not \"+24\"".to_owned()),
            ("192.0.2.0/24/8", "expected a prefix length from 0 to 32 behind 192.0.2.0/, not \"24/8\"".to_owned()),
            (
                "10.1.2.3/8",
                "10.1.2.3/8 has bits beyond its length, did you mean the network 10.0.0.0/8 or the address 10.1.2.3?"
                    .to_owned(),
            ),
        ];
        for (text, expected) in refused {
            assert_eq!(read(format!("192.0.2.1\n{text}\n")), Err(format!("list:2: {expected}")), "{text}");
            assert_eq!(parse_prefix(text).unwrap_err().to_string(), expected);
        }
        assert_eq!(parse_prefix("").unwrap_err(), PrefixError::NotAPrefix([].as_slice().into()));
        assert_eq!(parse_prefix(" 10.0.0.0/8 "), Ok("10.0.0.0/8".parse().unwrap()));
    }

    #[test]
    fn however_much_is_wrong_what_is_told_is_bounded() {
        let long = "x".repeat(1 << 20);
        let told = read(format!("{long}\n").repeat(15)).unwrap_err();
        assert_eq!(told.lines().count(), MOST_PROBLEMS + 1);
        assert!(told.lines().all(|line| line.len() < 200), "{told}");
        assert!(told.starts_with("list:1: ") && told.ends_with("list: 5 more lines like these"), "{told}");
        assert!(told.contains(&format!("\"{}\"…", "x".repeat(64))), "{told}");
    }

    #[test]
    fn what_is_too_large_or_no_file_is_refused() {
        let address = "1.2.3.4\n";
        assert_eq!(read(address.repeat(MOST_PREFIXES)).map(|prefixes| prefixes.len()), Ok(MOST_PREFIXES));
        assert!(read(address.repeat(MOST_PREFIXES + 1)).unwrap_err().contains("more than 1048576 prefixes"));

        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(read_prefixes(directory.path()), Err(PrefixFileError::NotAFile(_))));
        assert!(matches!(read_prefixes(Path::new("/dev/zero")), Err(PrefixFileError::NotAFile(_))));
        let path = directory.path().join("list");
        assert!(matches!(read_prefixes(&path), Err(PrefixFileError::Unreadable { .. })));
        // Sparse: it takes no room.
        File::create(&path).unwrap().set_len(MOST_BYTES).unwrap();
        assert!(matches!(read_prefixes(&path), Err(PrefixFileError::Invalid { .. })));
        File::create(&path).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(matches!(read_prefixes(&path), Err(PrefixFileError::TooLarge(_))));
    }
}
