//! The guard's maps, and what attaches it.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, ProgramArray},
    programs::{
        ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::{XdpLink, XdpLinkId},
    },
};
use tidewaiter_common::{
    ASK_FRAME, ASK_FRAME_INDEX, BASELINE_FRAME, GUARD_FRAME,
    guard::{
        BLOCKED_LENGTHS, BlockKey, BlockedLength, GUARD_PORT_ENTRIES, GuardAddressKey, GuardCounters, HALVES,
        HIT_ENTRIES, Hit, InterfaceGuardCounters, MATCH_ENTRIES, MAX_BLOCKS, MAX_CLASSES, MAX_LISTS, MAX_RULES, word,
    },
    interface::InterfaceSlot,
    prefix::PREFIX_FILTER_WORDS,
    record::PairRecord,
};
use tracing::debug;

use super::{
    Kernel, KernelError, TestRun,
    attach::has_kind,
    pins::PinError,
    system::{update_array, wait_for_programs},
    tables::{name, read, write},
};
use crate::{chain::chain, guard::compile::Tables};

/// How large the guard's maps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardCapacity {
    /// Entries of prefixes, of each half.
    pub prefixes: u32,
    /// Clients that limits are kept for.
    pub clients: u32,
}

impl Default for GuardCapacity {
    fn default() -> Self {
        Self { prefixes: 4096, clients: 1024 }
    }
}

impl GuardCapacity {
    /// The maps and their sizes.
    pub(super) fn sizes(self) -> [(&'static str, u32); 2] {
        [(name::GUARD_PREFIXES, self.prefixes.saturating_mul(HALVES)), (name::CLIENT_LIMITS, self.clients)]
    }
}

impl Kernel {
    /// Puts `tables` in force, all at once; answers with how often that was done.
    ///
    /// # Errors
    /// If a map could not be written: what was in force still is.
    pub fn set_guard_tables(&mut self, tables: &Tables) -> Result<u64, KernelError> {
        let generation = self.guard_word(word::GENERATION)? + 1;
        let half = (generation & 1) as u32;
        let first_prefix = half * self.guard.prefixes;
        let header = tidewaiter_common::guard::GuardHeader { first_prefix, ..*tables.header };
        self.write_part(name::GUARD_HEADERS, half, 1, &[header])?;
        self.write_part(name::GUARD_RULES, half, MAX_RULES.into(), &tables.rules)?;
        self.write_part(name::GUARD_LISTS, half, MAX_LISTS.into(), &tables.lists)?;
        self.write_part(name::GUARD_CLASSES, half, MAX_CLASSES.into(), &tables.classes)?;
        self.write_part(name::GUARD_PORTS, half, GUARD_PORT_ENTRIES, &tables.ports)?;
        self.write_part(name::GUARD_MATCHES, half, MATCH_ENTRIES, &tables.matches)?;
        self.write_part(name::GUARD_PREFIXES, half, self.guard.prefixes, &tables.prefixes)?;
        self.write_part(name::GUARD_PREFIX_FILTERS, half, PREFIX_FILTER_WORDS, &tables.filter)?;
        self.write_guard_addresses(half, tables)?;
        self.set_guard_word(word::GENERATION, generation)?;
        // The other half is written next time: nobody may read it by then.
        wait_for_programs();
        Ok(generation)
    }

    fn write_part<T: Pod>(&self, map: &'static str, half: u32, entries: u32, values: &[T]) -> Result<(), KernelError> {
        if values.len() > entries as usize {
            return Err(KernelError::Full {
                what: format!("what is to be in the BPF map {map}"),
                limit: entries as usize,
            });
        }
        update_array(self.map_descriptor(map)?, half * entries, values)
            .map_err(|source| KernelError::Batch { map, source })
    }

    fn write_guard_addresses(&mut self, half: u32, tables: &Tables) -> Result<(), KernelError> {
        let map = name::GUARD_ADDRESSES;
        let mut addresses: HashMap<_, GuardAddressKey, u16> = self.map_mut(map)?;
        let wanted: std::collections::HashMap<_, _> = tables.addresses.iter().copied().collect();
        let old: Vec<_> = addresses.keys().filter_map(Result::ok).filter(|key| key.half == half).collect();
        for key in old.iter().filter(|key| !wanted.contains_key(&key.key)) {
            match addresses.remove(key) {
                Err(error) if !has_kind(&error, io::ErrorKind::NotFound) => return Err(write(map)(error)),
                _ => {}
            }
        }
        for (key, class) in wanted {
            addresses.insert(GuardAddressKey { half, key }, class, 0).map_err(write(map))?;
        }
        Ok(())
    }

    /// A number of the guard: see [`word`].
    pub fn guard_word(&self, word: u32) -> Result<u64, KernelError> {
        self.get(name::GUARD_WORDS, word as u16)
    }

    /// Writes a number of the guard.
    pub fn set_guard_word(&mut self, word: u32, number: u64) -> Result<(), KernelError> {
        self.set(name::GUARD_WORDS, word as u16, &number)
    }

    /// How large the guard's maps are.
    #[must_use]
    pub const fn guard_capacity(&self) -> GuardCapacity {
        self.guard
    }

    /// What was ever decided at a place of the pairs, all CPUs together.
    pub fn guard_counters(&self, pair: u16) -> Result<GuardCounters, KernelError> {
        self.add_up(name::GUARD_COUNTERS, pair)
    }

    /// What was ever decided in `slot`, all CPUs together.
    pub fn interface_guard_counters(&self, slot: InterfaceSlot) -> Result<InterfaceGuardCounters, KernelError> {
        self.add_up(name::INTERFACE_GUARD, slot.0)
    }

    /// Who has a place of the pairs.
    pub fn pair_record(&self, pair: u16) -> Result<PairRecord, KernelError> {
        self.get(name::PAIR_RECORDS, pair)
    }

    /// Says who has a place of the pairs. What its limit was left at is forgotten, if somebody else had it.
    pub fn set_pair_record(&mut self, pair: u16, record: &PairRecord) -> Result<(), KernelError> {
        self.set(name::API_LIMITS, pair, &0_u64)?;
        self.set(name::PAIR_RECORDS, pair, record)
    }

    /// Whose packets were decided about in an interval.
    pub fn hits(&self, interval: u32) -> Result<Vec<Hit>, KernelError> {
        let map: PerCpuArray<_, Hit> = self.map(name::HITS)?;
        let mut hits = Vec::new();
        for place in 0..HIT_ENTRIES {
            let of_cpus = map.get(&place, 0).map_err(read(name::HITS))?;
            hits.extend(of_cpus.iter().filter(|hit| hit.pair != 0 && hit.interval == interval));
        }
        Ok(hits)
    }

    /// Blocks `key` until a tick, or not at all.
    ///
    /// # Errors
    /// [`KernelError::Full`] if there are too many.
    pub fn set_block(&mut self, key: &BlockKey, until: Option<u64>) -> Result<(), KernelError> {
        let mut blocks: HashMap<_, BlockKey, u64> = self.map_mut(name::BLOCKS)?;
        let result = match until {
            Some(until) => blocks.insert(key, until, 0),
            None => match blocks.remove(key) {
                Err(error) if has_kind(&error, io::ErrorKind::NotFound) => Ok(()),
                removed => removed,
            },
        };
        result.map_err(|error| {
            if has_kind(&error, io::ErrorKind::ArgumentListTooLong) {
                KernelError::Full { what: "one more block".to_owned(), limit: MAX_BLOCKS as usize }
            } else {
                write(name::BLOCKS)(error)
            }
        })
    }

    /// Says which lengths of prefixes are blocked, of one version of IP. Where lengths go that others come after, these are not
    /// looked at for a moment: what they block passes rather than that anybody else is blocked.
    ///
    /// # Errors
    /// [`KernelError::Full`] if there are too many: then it is as it was.
    pub fn set_blocked_lengths(&mut self, is_v4: bool, lengths: &[u8]) -> Result<(), KernelError> {
        if lengths.len() > BLOCKED_LENGTHS {
            let what = format!("the {} different lengths of blocked prefixes", lengths.len());
            return Err(KernelError::Full { what, limit: BLOCKED_LENGTHS });
        }
        let (first, count) = if is_v4 { (0, word::BLOCKED_IPV4) } else { (BLOCKED_LENGTHS, word::BLOCKED_IPV6) };
        let wanted: Vec<_> = lengths.iter().map(|length| BlockedLength::new(*length, is_v4)).collect();
        let before = self.guard_word(count)?;
        let mut same = 0;
        for (place, length) in wanted.iter().enumerate().take(before as usize) {
            if self.get::<BlockedLength>(name::BLOCKED, (first + place) as u16)? != *length {
                break;
            }
            same = place + 1;
        }
        if same as u64 != before {
            self.set_guard_word(count, same as u64)?;
            // An entry is not written in one step: nobody may read it by then.
            wait_for_programs();
        }
        for (place, length) in wanted.iter().enumerate().skip(same) {
            self.set(name::BLOCKED, (first + place) as u16, length)?;
        }
        self.set_guard_word(count, wanted.len() as u64)
    }

    /// All that is blocked, and until which tick.
    pub fn blocks(&self) -> Result<Vec<(BlockKey, u64)>, KernelError> {
        let blocks: HashMap<_, BlockKey, u64> = self.map(name::BLOCKS)?;
        blocks.iter().collect::<Result<_, _>>().map_err(read(name::BLOCKS))
    }

    /// Has frames of the interface called `name` judged, in the place of a guard of an exporter before us if there is one; and
    /// `guarded` is what there is to be done for its buffers from then on, see
    /// [`guarded`](tidewaiter_common::interface::guarded). No packet is judged as both: for a moment, as neither.
    ///
    /// # Errors
    /// If the driver cannot do that, or somebody else's program is there. What there is to be done for buffers is then to be said
    /// again.
    pub fn attach_guard(&mut self, index: u32, name: &str, guarded: u8) -> Result<(), KernelError> {
        if self.guards.contains_key(&index) {
            return self.set_guarded(index, guarded);
        }
        let failed = |source: ProgramError| KernelError::Attach {
            program: GUARD_FRAME,
            interface: name.to_owned(),
            source: source.into(),
        };
        // One that the kernel did not take cannot come after what does nothing.
        xdp(&mut self.ebpf, GUARD_FRAME)?.fd().map_err(failed)?;
        let pin = self.pins.as_ref().map(|pins| pins.guard(index));
        if let Some(pin) = pin.as_ref().filter(|pin| pin.exists()) {
            self.set_guarded(index, guarded)?;
            match take_over(xdp(&mut self.ebpf, GUARD_FRAME)?, pin) {
                Ok(link) => {
                    self.guards.insert(index, link);
                    return Ok(());
                }
                Err(error) => {
                    debug!(interface = name, error = chain(&error), "cannot take over a guard: attaching anew");
                }
            }
            if let Some(pins) = &self.pins {
                pins.detach_guard(index);
            }
        }
        let link = self.attach_idle(index).map_err(failed)?;
        self.set_guarded(index, guarded)?;
        let link = replace(xdp(&mut self.ebpf, GUARD_FRAME)?, link).map_err(failed)?;
        let link = match pin {
            Some(pin) => link.pin(&pin).map_err(|source| KernelError::Pin { path: pin, source })?.into(),
            None => link,
        };
        self.guards.insert(index, link);
        Ok(())
    }

    /// Attaches what lets every frame pass, for the guard to take its place: by then it is known that the driver can do that.
    fn attach_idle(&mut self, index: u32) -> Result<FdLink, ProgramError> {
        let program: &mut Xdp = self.ebpf.program_mut(BASELINE_FRAME).ok_or(ProgramError::NotLoaded)?.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        let id = program.attach_to_if_index(index, XdpMode::Driver)?;
        take(program, id)
    }

    /// Has frames of the interface with `index` judged no more; it may be gone already.
    pub fn detach_guard(&mut self, index: u32) {
        let link = self.guards.remove(&index);
        if let Some(pins) = &self.pins {
            pins.detach_guard(index);
        }
        drop(link);
    }

    /// The same, and says what there is to be done for its buffers instead: after the last one that was judged as a frame has been
    /// handed on.
    pub fn replace_guard(&mut self, index: u32, guarded: u8) -> Result<(), KernelError> {
        if self.guarded().contains(&index) {
            self.detach_guard(index);
            wait_for_programs();
        }
        self.set_guarded(index, guarded)
    }

    /// Indexes of the interfaces whose frames are judged, by us or by an exporter before us.
    #[must_use]
    pub fn guarded(&self) -> Vec<u32> {
        let pinned = self.pins.as_ref().map(super::pins::Pins::guards).unwrap_or_default();
        let mut all: Vec<_> = self.guards.keys().copied().chain(pinned).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Says what of the guard there is to be done for buffers that the interface with `index` receives: see
    /// [`guarded`](tidewaiter_common::interface::guarded).
    pub fn set_guarded_buffers(&mut self, index: u32, guarded: u8) -> Result<(), KernelError> {
        self.set_guarded(index, guarded)
    }
}

/// Switches the guard that is pinned in `folder`, without its lock: whoever has that may hang. Answers with whether there is one.
///
/// # Errors
/// [`KernelError::Pins`] if others could have put something else there, or that of the map.
pub fn switch_pinned_guard(folder: &Path, on: bool) -> Result<bool, KernelError> {
    let Some(mut words) = pinned_words(folder)? else { return Ok(false) };
    words.set(word::SWITCHED_OFF, u64::from(!on), 0).map_err(write(name::GUARD_WORDS))?;
    Ok(true)
}

/// Whether the guard that is pinned in `folder` is on; `None` if there is none.
pub fn is_pinned_guard_on(folder: &Path) -> Result<Option<bool>, KernelError> {
    let Some(words) = pinned_words(folder)? else { return Ok(None) };
    Ok(Some(words.get(&word::SWITCHED_OFF, 0).map_err(read(name::GUARD_WORDS))? == 0))
}

/// Has everything pass the guard that is pinned in `folder`, until an exporter lets the kernel know again that it is there.
pub(super) fn let_all_pass(folder: &Path) -> Result<(), KernelError> {
    let Some(mut words) = pinned_words(folder)? else { return Ok(()) };
    words.set(word::DEADLINE, 0, 0).map_err(write(name::GUARD_WORDS))
}

fn pinned_words(folder: &Path) -> Result<Option<Array<MapData, u64>>, KernelError> {
    let path = folder.join(name::GUARD_WORDS);
    let of_folder = match std::fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        of_folder => of_folder.map_err(|source| PinError::Io { action: "look at", path: folder.to_owned(), source })?,
    };
    if !path.exists() {
        return Ok(None);
    }
    if of_folder.uid() != rustix::process::geteuid().as_raw() || of_folder.mode() & 0o022 != 0 {
        return Err(PinError::Unsafe { path: folder.to_owned() }.into());
    }
    let data = MapData::from_pin(&path).map_err(read(name::GUARD_WORDS))?;
    Array::try_from(Map::Array(data)).map(Some).map_err(read(name::GUARD_WORDS))
}

impl Kernel {
    /// Runs the program that judges frames on `frame`, `repeat` times, as if `lo` had received it.
    ///
    /// # Errors
    /// [`KernelError::TestRun`] if the kernel refuses the frame.
    pub fn test_run_guard(&mut self, frame: &[u8], repeat: u32) -> Result<TestRun, KernelError> {
        test_run_frame(&mut self.ebpf, GUARD_FRAME, frame, repeat)
    }

    /// Runs a program of XDP that does nothing, for comparison; otherwise as [`Kernel::test_run_guard`].
    pub fn test_run_guard_baseline(&mut self, frame: &[u8], repeat: u32) -> Result<TestRun, KernelError> {
        let program = xdp(&mut self.ebpf, BASELINE_FRAME)?;
        if program.fd().is_err() {
            load_frame_program(&mut self.ebpf, BASELINE_FRAME)?;
        }
        test_run_frame(&mut self.ebpf, BASELINE_FRAME, frame, repeat)
    }
}

fn test_run_frame(ebpf: &mut aya::Ebpf, name: &'static str, frame: &[u8], repeat: u32) -> Result<TestRun, KernelError> {
    let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
    let result = xdp(ebpf, name)?
        .test_run(options)
        .map_err(|source| KernelError::TestRun { program: name, source: source.into() })?;
    Ok(TestRun { verdict: result.return_value.cast_signed(), duration: result.duration })
}

/// Loads the programs that judge frames. A kernel that does not take them judges buffers alone.
pub(super) fn load(ebpf: &mut aya::Ebpf) -> Result<(), KernelError> {
    load_frame_program(ebpf, ASK_FRAME)?;
    load_frame_program(ebpf, GUARD_FRAME)
}

/// Has the programs that judge frames end in those that were loaded.
pub(super) fn set_programs(ebpf: &mut aya::Ebpf) -> Result<(), KernelError> {
    set_frame_program(ebpf, ASK_FRAME_INDEX, ASK_FRAME)
}

/// Puts a loaded program among those of XDP that others end in.
fn set_frame_program(ebpf: &mut aya::Ebpf, index: u32, name: &'static str) -> Result<(), KernelError> {
    let refused = |source: ProgramError| KernelError::Refused { program: name, source: source.into() };
    let program = xdp(ebpf, name)?.fd().map_err(refused)?;
    let program = program.try_clone().map_err(|source| refused(source.into()))?;
    let map =
        ebpf.map_mut(name::FRAME_PROGRAMS).ok_or(KernelError::Missing { kind: "map", name: name::FRAME_PROGRAMS })?;
    ProgramArray::try_from(map)
        .and_then(|mut programs| programs.set(index, &program, 0))
        .map_err(write(name::FRAME_PROGRAMS))
}

fn load_frame_program(ebpf: &mut aya::Ebpf, name: &'static str) -> Result<(), KernelError> {
    xdp(ebpf, name)?.load().map_err(|source| KernelError::Refused { program: name, source: source.into() })
}

fn xdp<'a>(ebpf: &'a mut aya::Ebpf, name: &'static str) -> Result<&'a mut Xdp, KernelError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(KernelError::Missing { kind: "program", name })
}

fn take_over(program: &mut Xdp, pin: &Path) -> Result<FdLink, ProgramError> {
    replace(program, FdLink::from(PinnedLink::from_pin(pin).map_err(super::attach::link_error)?))
}

/// Has `program` in the place of the one that is attached by `link`.
fn replace(program: &mut Xdp, link: FdLink) -> Result<FdLink, ProgramError> {
    let id = program.attach_to_link(XdpLink::try_from(link).map_err(super::attach::link_error)?)?;
    take(program, id)
}

fn take(program: &mut Xdp, id: XdpLinkId) -> Result<FdLink, ProgramError> {
    FdLink::try_from(program.take_link(id)?).map_err(super::attach::link_error)
}
