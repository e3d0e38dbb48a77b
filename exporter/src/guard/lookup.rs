//! Looks packets up in the tables, as the kernel side does (`exporter-ebpf/src/guard/mod.rs`).

use std::net::IpAddr;

use tidewaiter_common::{
    api::{AddressKey, port_index},
    guard::{List, PROTECTED, class, class_place, match_place},
    prefix::{NOBODY, PrefixEntry, PrefixTable, lookup},
};

use super::compile::Tables;
use crate::api::{Role, Transport};

/// What is to be done to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Nothing, whatever is said of others: its sender is protected.
    Protected,
    /// What these rules say, see [`judge`](tidewaiter_common::guard::judge).
    Rules(&'a List),
}

impl Tables {
    /// What is to be done to a packet from `source` to `destination`, by its transport and port if it has such; `None` if the tables
    /// do not say, which no packet should find.
    #[must_use]
    pub fn find(&self, source: IpAddr, destination: IpAddr, port: Option<(Transport, u16)>) -> Option<Found<'_>> {
        let class = match port {
            Some((transport, port)) => self.class_of(transport, port, destination)?,
            None => class::PORTLESS,
        };
        let source = source.to_canonical().into();
        let who = if self.header.whos > 1 { lookup(&self.header.prefixes, self, source) } else { NOBODY };
        let (place, shift) = match_place(0, class, self.header.whos, who.into())?;
        let list = (self.matches.get(place as usize)? >> shift) as u16;
        if list == PROTECTED {
            return Some(Found::Protected);
        }
        self.lists.get(usize::from(list)).map(Found::Rules)
    }

    fn class_of(&self, transport: Transport, port: u16, local: IpAddr) -> Option<u16> {
        let (place, shift) = class_place(0, port_index(transport, port));
        let class = (self.ports.get(place as usize)? >> shift) as u16;
        if class & class::BY_ADDRESS == 0 {
            return Some(class);
        }
        let address = local.to_canonical().into();
        let key = AddressKey { address, port, transport: transport as u8, role: Role::Server as u8 };
        let of_address = self.addresses.iter().find(|(one, _)| *one == key).map(|(_, class)| *class);
        Some(of_address.unwrap_or(class & !class::BY_ADDRESS))
    }
}

impl PrefixTable for Tables {
    fn entry(&self, index: u32) -> Option<&PrefixEntry> {
        self.prefixes.get(index as usize)
    }

    fn filter(&self, index: u32) -> Option<u64> {
        self.filter.get(index as usize).copied()
    }
}
