//! Anomalies: what the kernel is to take for one, what it has found, and what it tells of them.

use tidewaiter_common::{
    anomaly::{ApiAnomalies, openings::Openings, settings::Settings, told::ToldAnomaly},
    api::ApiSlot,
};

use super::{Kernel, KernelError, events::from_bytes, tables::name};

/// Bytes of the ring of anomalies: for more than are told between two looks by a hundred CPUs.
pub(super) const RING_BYTES: u32 = 1 << 18;

impl Kernel {
    /// Says what is an anomaly, from now on.
    pub fn set_anomaly_settings(&mut self, settings: &Settings) -> Result<(), KernelError> {
        self.set(name::ANOMALY_SETTINGS, 0, settings)
    }

    /// Anomalies of who has `slot` that the kernel side has found, all CPUs together.
    pub fn api_anomalies(&self, slot: ApiSlot) -> Result<ApiAnomalies, KernelError> {
        self.add_up(name::API_ANOMALIES, slot.0)
    }

    /// Questions to who has `slot` that were amplified, as [`Kernel::count_amplification`] has counted them.
    pub fn amplifications(&self, slot: ApiSlot) -> Result<u64, KernelError> {
        self.get(name::AMPLIFICATIONS, slot.0)
    }

    /// Counts one more of them. The kernel only keeps it, for the next exporter.
    pub fn count_amplification(&mut self, slot: ApiSlot) -> Result<(), KernelError> {
        let count = self.amplifications(slot)?.saturating_add(1);
        self.set(name::AMPLIFICATIONS, slot.0, &count)
    }

    /// Makes the anomalies of `slot` zeros. Nobody may have it.
    pub fn clear_api_anomalies(&mut self, slot: ApiSlot) -> Result<(), KernelError> {
        self.clear::<ApiAnomalies>(name::API_ANOMALIES, slot)?;
        self.set(name::API_OPENINGS, slot.0, &Openings::default())?;
        self.set(name::AMPLIFICATIONS, slot.0, &0_u64)
    }

    /// Reads anomalies, at most `limit`, each with the first bytes of its packet. Says whether there may be more.
    pub fn read_anomalies(&mut self, limit: usize, mut each: impl FnMut(&ToldAnomaly, &[u8])) -> bool {
        for _ in 0..limit {
            let Some(item) = self.rings.anomalies.next() else { return false };
            if let Some(told) = from_bytes::<ToldAnomaly>(&item) {
                let bytes = item.get(size_of::<ToldAnomaly>()..).unwrap_or_default();
                each(&told, bytes.get(..told.length as usize).unwrap_or(bytes));
            }
        }
        true
    }
}
