//! The token that requests must have which change something.

use std::{fmt, io, os::unix::fs::PermissionsExt as _, path::Path};

use super::{
    error::{Place, Problem},
    web::files::Files,
};

/// The fewest characters of a token: what has less can be guessed.
const MIN_LENGTH: usize = 16;

/// The most of them.
const MAX_LENGTH: usize = 1024;

/// What others than owner and group may not do with the file: read or write it.
const OTHERS: u32 = 0o006;

/// A token, which nobody is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Reads the file at `path`: the token, and nothing else but white space around it.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do about it.
    pub fn read(path: &Path, files: &mut Files) -> Result<Self, Problem> {
        let shown = path.display();
        let permissions = |metadata: &std::fs::Metadata| {
            let mode = metadata.permissions().mode() & 0o777;
            let message = format!("everybody may read or write it (mode {mode:o}): chmod 600 {shown}");
            if mode & OTHERS == 0 { Ok(()) } else { Err(io::Error::other(message)) }
        };
        let problem =
            |message| Problem { key: String::new(), place: Place::File { path: path.to_owned(), line: None }, message };
        let bytes = files.read_if(path, permissions);
        let bytes = bytes.map_err(|error| problem(format!("cannot take a token from it: {error}")))?;
        let token = bytes.trim_ascii();
        let make = format!("make another: (umask 077; openssl rand -hex 32 > {shown})");
        if !(MIN_LENGTH..=MAX_LENGTH).contains(&token.len()) {
            let length = token.len();
            let message = format!("found {length} characters, expected {MIN_LENGTH} to {MAX_LENGTH}: {make}");
            return Err(problem(message));
        }
        match str::from_utf8(token) {
            Ok(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Self(token.to_owned())),
            // A header could not have it.
            _ => Err(problem(format!("expected printable ASCII without spaces: {make}"))),
        }
    }

    /// The token.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<secret>")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::{Files, Token};

    fn read(contents: &[u8], mode: u32) -> Result<String, String> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        fs::write(&path, contents).expect("is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("is ours");
        let token = Token::read(&path, &mut Files::default());
        let token = token.map(|token| token.reveal().to_owned());
        token.map_err(|problem| problem.to_string().replace(&path.display().to_string(), "FILE"))
    }

    #[test]
    fn a_token_is_taken_from_a_file_that_others_cannot_read() {
        for mode in [0o600, 0o400, 0o640, 0o660] {
            assert_eq!(read(b"\n 0123456789abcdef \n", mode).as_deref(), Ok("0123456789abcdef"), "{mode:o}");
        }
        for mode in [0o644, 0o602, 0o604, 0o666, 0o777] {
            let problem = format!(
                "FILE: cannot take a token from it: everybody may read or write it (mode {mode:o}): chmod 600 FILE"
            );
            assert_eq!(read(b"0123456789abcdef", mode), Err(problem));
        }
    }

    #[test]
    fn what_can_be_guessed_or_sent_by_nobody_is_refused() {
        for (contents, words) in [
            (&b""[..], "FILE: found 0 characters, expected 16 to 1024: make another"),
            (b" \n", "found 0 characters"),
            (b"0123456789abcde\n", "found 15 characters"),
            (&[b'a'; 1025], "found 1025 characters"),
            (b"01234567 89abcdef", "expected printable ASCII without spaces"),
            (b"0123456789abcdef\nmore", "expected printable ASCII without spaces"),
            (b"0123456789abcde\xff", "expected printable ASCII without spaces"),
        ] {
            let problem = read(contents, 0o600).expect_err("is refused");
            assert!(problem.contains(words), "{problem}");
        }
        assert!(
            Token::read("/nowhere".as_ref(), &mut Files::default())
                .expect_err("is not there")
                .to_string()
                .contains("No such file")
        );
    }
}
