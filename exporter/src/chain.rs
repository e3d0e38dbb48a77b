//! Errors in one line.

use std::error::Error;

/// An error and what caused it, in one line.
///
/// Some errors say their cause themselves, others leave it to their source; here no cause is left out or said twice.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::chain;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open {name}{}", if *.says_cause { format!(": {source}") } else { String::new() })]
    struct Failure {
        name: &'static str,
        says_cause: bool,
        source: io::Error,
    }

    #[test]
    fn every_cause_is_said_once() {
        for says_cause in [false, true] {
            let error = Failure { name: "door", says_cause, source: io::Error::other("it is stuck") };
            assert_eq!(chain(&error), "cannot open door: it is stuck");
        }
    }
}
