//! Which end of an API this host is.

/// Which end of an API this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Role {
    /// The API's port is the local one: this host serves it.
    Server = 0,
    /// The API's port is the remote one: this host calls it.
    Client = 1,
}

impl Role {
    /// Number of roles: the length of every array that is indexed by one.
    pub const COUNT: usize = 2;
    /// All roles, in the order of their indexes.
    pub const ALL: [Self; Self::COUNT] = [Self::Server, Self::Client];

    /// The place of this role in arrays that are indexed by role.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The label value: `server` or `client`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}
