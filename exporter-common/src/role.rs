//! Which end of an API this host is.

use crate::numbered::numbered;

numbered! {
    /// Which end of an API this host is.
    Role {
        /// The API's port is the local one: this host serves it.
        Server = "server",
        /// The API's port is the remote one: this host calls it.
        Client = "client",
    }
}
