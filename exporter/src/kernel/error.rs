//! What can go wrong with the kernel.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use thiserror::Error;

use super::{attach::has_kind, pins::PinError};
use crate::chain::chain;

/// What can go wrong with the kernel.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The object's maps could not be made.
    #[error("cannot create the BPF maps: {}", chain(.0))]
    Load(#[source] EbpfError),
    /// The object lacks a map or a program, or has it in another type: it is not of this version.
    #[error("the BPF object has no {kind} {name}, or has it in another layout: run exporter-ebpf/build")]
    Missing {
        /// "map" or "program".
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The kernel refused a program.
    #[error("the kernel refused the program {program}: {}", chain(.source))]
    Refused {
        /// Its name.
        program: &'static str,
        /// Why; with the verifier's log if there is one.
        source: Box<ProgramError>,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to {interface}: {}", chain(.source))]
    Attach {
        /// The program's name.
        program: &'static str,
        /// The interface's name.
        interface: String,
        /// Why.
        source: Box<ProgramError>,
    },
    /// There is no hook for what an interface transmits.
    #[error(
        "cannot attach to {interface}: its ingress qdisc has no hook for what is transmitted; expected clsact: \
         tc qdisc delete dev {interface} ingress"
    )]
    IngressQdisc {
        /// The interface's name.
        interface: String,
    },
    /// A hook could not be pinned.
    #[error("cannot pin {}: {}", path.display(), chain(.source))]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: aya::pin::PinError,
    },
    /// The folder of pins cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// A map could not be read or written.
    #[error("cannot {action} the BPF map {map}: {}", chain(.source))]
    Map {
        /// "read" or "write".
        action: &'static str,
        /// The map's name.
        map: &'static str,
        /// Why.
        source: Box<MapError>,
    },
    /// A map could not be read in batches.
    #[error("cannot read the BPF map {map} in batches: {source}")]
    Batch {
        /// The map's name.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The number of CPUs could not be found out, which per-CPU maps need.
    #[error("cannot find out the number of CPUs ({file}): {source}")]
    Cpus {
        /// The file that was read.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// There is no room for one more.
    #[error("no room for {what}: at most {limit} at a time")]
    Full {
        /// What there is no room for.
        what: String,
        /// How many there can be.
        limit: usize,
    },
    /// The network namespace would not say its cookie.
    #[error("cannot find out the cookie of the network namespace: {0}")]
    Namespace(io::Error),
    /// A program could not be run by itself.
    #[error("cannot run the program {program}: {}", chain(.source))]
    TestRun {
        /// Its name.
        program: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
}

impl KernelError {
    /// Whether the kernel said that this user may not do this. (Of a program that it does not like it says the same.)
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, Self::Load(_) | Self::Attach { .. }) && has_kind(self, io::ErrorKind::PermissionDenied)
    }
}
