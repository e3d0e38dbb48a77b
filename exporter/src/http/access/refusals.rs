//! What is refused is told seldom: a stranger can send more of it than any log has room for.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::warn;

/// Time between two messages of a kind at least.
const QUIET: Duration = Duration::from_mins(1);

/// Why somebody was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Refusal {
    /// The handshake of TLS failed.
    Handshake,
    /// No user, or the wrong password.
    Password,
    /// Neither the right token, nor anything else that says who asks.
    Token,
    /// There is neither a token nor a user who could be let in.
    Nobody,
    /// A page of another origin had a browser send it.
    Origin,
    /// Too many passwords wait to be looked at.
    Busy,
    /// Too many connections of one client.
    Connections,
    /// No connection is left, and none is idle.
    Full,
}

impl Refusal {
    const COUNT: usize = 8;

    const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "the TLS handshake failed",
            Self::Password => "no user, or a wrong password",
            Self::Token => "no token, or a wrong one",
            Self::Nobody => "neither api_token_file nor authentication in web_config is configured",
            Self::Origin => "sent by a browser for a page of another origin",
            Self::Busy => "too many passwords to look at",
            Self::Connections => "too many connections of one client",
            Self::Full => "something is being answered on all connections that there can be",
        }
    }
}

/// How often there was each reason since it was told last.
#[derive(Debug, Default)]
pub(in crate::http) struct Refusals(Mutex<[(Option<Instant>, u64); Refusal::COUNT]>);

impl Refusals {
    /// Notes that `client` was refused, `cause` being the error that says more, if there is one.
    pub(in crate::http) fn note(&self, refusal: Refusal, client: IpAddr, cause: &str) {
        if let Some(count) = self.count(refusal) {
            let reason = refusal.as_str();
            warn!(reason, %client, cause, count, "refused requests; the latest is told, at most one a minute");
        }
    }

    /// How many there were, if it is time to say so.
    fn count(&self, refusal: Refusal) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, count) = told.get_mut(refusal as usize)?;
        *count += 1;
        if last.is_some_and(|last| last.elapsed() < QUIET) {
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::{Refusal, Refusals};

    #[test]
    fn many_are_told_once() {
        let refusals = Refusals::default();
        assert_eq!(refusals.count(Refusal::Token), Some(1));
        assert!((0..1000).all(|_| refusals.count(Refusal::Token).is_none()));
        assert_eq!(refusals.count(Refusal::Connections), Some(1), "each kind by itself");
        let mut told = refusals.0.lock().expect("no panic");
        told[Refusal::Token as usize].0 = None;
        drop(told);
        assert_eq!(refusals.count(Refusal::Token), Some(1001), "none is forgotten");
    }
}
