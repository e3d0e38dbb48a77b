//! What the kernel tells through its rings, and having it finish flows.

use std::fmt;

use aya::{
    Ebpf, Pod,
    maps::{MapData, PerCpuArray, RingBuf},
    programs::TestRunOptions,
};
use tidewaiter_common::{
    FINISH,
    event::{FINISH_BATCH, FINISH_KEYS_OFFSET, FINISH_TICKS_OFFSET, FinishedFlow, Lost, Sample},
    flow::FlowKey,
};

use super::{
    FlowCapacity, Kernel, KernelError,
    programs::{context, test_run},
    tables::{name, read},
};

/// The least bytes of a ring: a page.
const PAGE: u32 = 4096;

// Each of these is mapped into the exporter's memory, twice, one behind the other, as rings are.

/// Bytes of the ring of ended flows: for 37,000 between two looks, and what finds no room is found by the next walk.
const ENDED_BYTES: u32 = 1 << 21;
/// Bytes of the ring of finished flows: for some thousands, and it is emptied after each batch.
const FINISHED_BYTES: u32 = 1 << 20;
/// Bytes of the ring of samples: for the hellos of some hundred connections between two looks.
const SAMPLE_RING_BYTES: u32 = 1 << 20;

/// The rings, and how many bytes each has if there are so many flows.
pub(super) fn rings(flows: FlowCapacity) -> [(&'static str, u32); 3] {
    if flows == FlowCapacity::NONE {
        return name::RINGS.map(|name| (name, PAGE));
    }
    [(name::ENDED_FLOWS, ENDED_BYTES), (name::FINISHED_FLOWS, FINISHED_BYTES), (name::SAMPLES, SAMPLE_RING_BYTES)]
}

/// Since which tick flows must have been quiet to be finished, or untold of to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuietSince {
    /// Those that have ended.
    pub ended: u64,
    /// Those that have not.
    pub others: u64,
    /// Those that go on are told of again if they were not since.
    pub told: u64,
}

/// The rings, ready to be read.
pub(super) struct Rings {
    ended: RingBuf<MapData>,
    finished: RingBuf<MapData>,
    samples: RingBuf<MapData>,
    pub(super) anomalies: RingBuf<MapData>,
}

impl fmt::Debug for Rings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rings").finish_non_exhaustive()
    }
}

impl Rings {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let mut ring = |name| {
            let map = ebpf.take_map(name).ok_or(KernelError::Missing { kind: "map", name })?;
            RingBuf::try_from(map).map_err(read(name))
        };
        Ok(Self {
            ended: ring(name::ENDED_FLOWS)?,
            finished: ring(name::FINISHED_FLOWS)?,
            samples: ring(name::SAMPLES)?,
            anomalies: ring(name::ANOMALIES)?,
        })
    }
}

impl Kernel {
    /// The most flows that [`Kernel::finish_flows`] takes at once.
    pub const FINISH_BATCH: usize = FINISH_BATCH;

    /// Reads keys of flows that have ended, at most `limit`, into `keys`.
    pub fn read_ended(&mut self, limit: usize, keys: &mut Vec<FlowKey>) {
        for _ in 0..limit {
            let Some(item) = self.rings.ended.next() else { return };
            keys.extend(from_bytes::<FlowKey>(&item));
        }
    }

    /// Reads what flows were that are in no table any more, as many as the ring has room for: more may come meanwhile, without
    /// an end.
    pub fn read_finished(&mut self, mut each: impl FnMut(&FinishedFlow)) {
        for _ in 0..FINISHED_BYTES as usize / size_of::<FinishedFlow>() {
            let Some(item) = self.rings.finished.next() else { return };
            if let Some(finished) = from_bytes(&item) {
                each(&finished);
            }
        }
    }

    /// Reads samples of payloads, at most `limit`. Says whether there may be more.
    pub fn read_samples(&mut self, limit: usize, mut each: impl FnMut(&Sample, &[u8])) -> bool {
        for _ in 0..limit {
            let Some(item) = self.rings.samples.next() else { return false };
            if let Some(sample) = from_bytes::<Sample>(&item) {
                let bytes = item.get(size_of::<Sample>()..).unwrap_or_default();
                each(&sample, bytes.get(..sample.length as usize).unwrap_or(bytes));
            }
        }
        true
    }

    /// Has those of at most [`Kernel::FINISH_BATCH`] flows finished that were quiet long enough: each is taken out of its table,
    /// its end is counted, and what it was can be read ([`Kernel::read_finished`]). Those that go on are told of there too, if
    /// they were not of late. Answers with how many were dealt with: fewer than there are if the ring is full, then it is to be
    /// read first.
    pub fn finish_flows(&mut self, keys: &[FlowKey], quiet: QuietSince) -> Result<usize, KernelError> {
        let keys = keys.get(..FINISH_BATCH).unwrap_or(keys);
        let packet = &mut self.finish_packet;
        packet.clear();
        packet.resize(FINISH_TICKS_OFFSET, 0);
        let QuietSince { ended, others, told } = quiet;
        packet.extend([ended, others, told].into_iter().flat_map(u64::to_ne_bytes));
        debug_assert_eq!(packet.len(), FINISH_KEYS_OFFSET);
        packet.extend(keys.iter().flat_map(key_bytes));
        let mut answer = [0; context::BYTES];
        let options =
            TestRunOptions { data_in: Some(packet), repeat: 1, ctx_out: Some(&mut answer), ..TestRunOptions::new() };
        test_run(&mut self.ebpf, FINISH, options)?;
        Ok((context::number(&answer) as usize).min(keys.len()))
    }

    /// How often the kernel found no room in a ring, by [`Lost`].
    pub fn lost(&self) -> Result<[u64; Lost::COUNT], KernelError> {
        let lost: PerCpuArray<_, u64> = self.map(name::LOST)?;
        let mut counts = [0; Lost::COUNT];
        for (index, count) in (0..).zip(&mut counts) {
            *count = lost.get(&index, 0).map_err(read(name::LOST))?.iter().sum();
        }
        Ok(counts)
    }
}

/// The value that `bytes` begin with; `None` if they are too few.
pub(super) fn from_bytes<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: there are as many bytes as it has, and any bytes make a `Pod`.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn key_bytes(key: &FlowKey) -> [u8; size_of::<FlowKey>()] {
    // SAFETY: integers without padding between them.
    unsafe { std::mem::transmute(*key) }
}
