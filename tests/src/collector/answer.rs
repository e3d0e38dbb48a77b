//! How the receiver answers: with what real ones answer with, when they are well and when they are not.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What is said of every error, and of items that are rejected.
pub const REASON: &str = "as the test wants it";

/// What a request is answered with, in either protocol.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Answer {
    /// Success.
    #[default]
    Accept,
    /// Success in part: so many of its items are rejected. Which ones, the protocol does not say, and so all are kept.
    Reject(i64),
    /// Success, but so late. What is late is kept when it arrives, also if nobody waits for the answer any more: what is
    /// then sent again is there twice.
    Late(Duration),
    /// An error.
    Refuse(Refusal),
    /// None: when all of the request is there, its connection is closed.
    HangUp,
}

impl Answer {
    /// Whether what was sent is not to be sent again.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self, Self::Accept | Self::Reject(_) | Self::Late(_))
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// An error, in the words of both protocols.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refusal {
    /// The status of HTTP.
    pub status: u16,
    /// The code of gRPC.
    pub code: Code,
    /// When to try again: `Retry-After` of HTTP, in whole seconds, and `google.rpc.RetryInfo` of gRPC.
    pub retry: Option<Duration>,
}

impl Refusal {
    /// Too much for now. Over gRPC, this is to be tried again only if it says when.
    pub const OVERLOADED: Self = Self::new(429, Code::ResourceExhausted);
    /// Not for now.
    pub const UNAVAILABLE: Self = Self::new(503, Code::Unavailable);
    /// Never: it makes no sense.
    pub const INVALID: Self = Self::new(400, Code::InvalidArgument);
    /// Never: nobody takes this here.
    pub const UNIMPLEMENTED: Self = Self::new(404, Code::Unimplemented);

    /// One with `status` over HTTP and with `code` over gRPC.
    #[must_use]
    pub const fn new(status: u16, code: Code) -> Self {
        Self { status, code, retry: None }
    }

    /// The same, to be tried again in `delay`.
    #[must_use]
    pub const fn retry_in(self, delay: Duration) -> Self {
        Self { retry: Some(delay), ..self }
    }

    /// As gRPC has it.
    pub(super) fn status(self) -> Status {
        match self.retry {
            None => Status::new(self.code, REASON),
            Some(delay) => Status::with_error_details(self.code, REASON, ErrorDetails::with_retry_info(Some(delay))),
        }
    }
}
