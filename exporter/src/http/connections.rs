//! Connections: bounded in number, of all clients and of each, so that one client leaves room for others.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

/// The most connections at a time.
pub(super) const MAX_CONNECTIONS: usize = 128;
/// The most of one client.
pub(super) const MAX_OF_CLIENT: usize = 32;
/// For how long a connection of HTTP/2 may have nothing to do. Those of HTTP/1 wait for the next request as for the first.
const MAX_IDLE: Duration = Duration::from_mins(1);

/// All connections.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    permits: Arc<Semaphore>,
    all: Arc<Mutex<All>>,
}

#[derive(Debug, Default)]
struct All {
    of_client: HashMap<IpAddr, usize>,
    /// Those that nothing was served on yet, in the order in which they came, and how to end them.
    unserved: BTreeMap<u64, Arc<Notify>>,
    next: u64,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)), all: Arc::default() }
    }

    /// Makes room for a connection of `client`; `None` if that has enough of them. Where there is no room, the one goes that has
    /// waited longest without anything being served on it; if there is none, this waits for the end of any.
    pub(super) async fn admit(&self, client: IpAddr) -> Option<Arc<Connection>> {
        let client = network(client);
        if self.lock().of_client.get(&client).is_some_and(|count| *count >= MAX_OF_CLIENT) {
            return None;
        }
        let permit = if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            permit
        } else {
            let oldest = self.lock().unserved.pop_first();
            if let Some((_, oldest)) = oldest {
                oldest.notify_one();
            }
            // The semaphore is never closed, so there is always a permit in the end.
            Arc::clone(&self.permits).acquire_owned().await.ok()?
        };
        let mut all = self.lock();
        *all.of_client.entry(client).or_default() += 1;
        let (number, end) = (all.next, Arc::new(Notify::new()));
        all.next += 1;
        all.unserved.insert(number, Arc::clone(&end));
        drop(all);
        let activity = Activity { running: 0, since: Instant::now() };
        Some(Arc::new(Connection {
            connections: self.clone(),
            client,
            number,
            end,
            activity: activity.into(),
            _permit: permit,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one client: of IPv6, the network that one of them is given as a whole (RFC 6177).
pub(super) fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// One connection, until this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    connections: Connections,
    client: IpAddr,
    number: u64,
    end: Arc<Notify>,
    activity: Mutex<Activity>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, Debug)]
struct Activity {
    /// How many requests are being answered.
    running: usize,
    /// Since when that is so.
    since: Instant,
}

impl Connection {
    /// Waits until it has to make room for another.
    pub(super) async fn is_unwanted(&self) {
        self.end.notified().await;
    }

    /// Waits until nothing was asked for a while.
    pub(super) async fn is_idle(&self) {
        loop {
            let Activity { running, since } = *self.activity();
            match MAX_IDLE.checked_sub(since.elapsed()) {
                None if running == 0 => return,
                Some(rest) if running == 0 => sleep(rest).await,
                _ => sleep(MAX_IDLE).await,
            }
        }
    }

    /// A request is being answered, until what this returns is dropped.
    pub(super) fn answering(self: &Arc<Self>) -> Answering {
        self.change(|running| running + 1);
        Answering(Arc::clone(self))
    }

    /// Something was served on it: it need not make room for others.
    pub(super) fn was_served(&self) {
        self.connections.lock().unserved.remove(&self.number);
    }

    fn change(&self, running: impl FnOnce(usize) -> usize) {
        let mut activity = self.activity();
        *activity = Activity { running: running(activity.running), since: Instant::now() };
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut all = self.connections.lock();
        all.unserved.remove(&self.number);
        if let Some(count) = all.of_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                all.of_client.remove(&self.client);
            }
        }
    }
}

/// That a request is being answered.
#[derive(Debug)]
pub(super) struct Answering(Arc<Connection>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.change(|running| running.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Connections, MAX_CONNECTIONS, MAX_OF_CLIENT};

    #[tokio::test]
    async fn no_client_has_all_connections() {
        let connections = Connections::new();
        for clients in [["10.0.0.1", "::ffff:10.0.0.1"], ["fd00::1", "fd00::2:0:0:1"]] {
            let clients = clients.map(|client| client.parse::<IpAddr>().expect("an address"));
            let mut admitted = Vec::new();
            for number in 0..MAX_OF_CLIENT {
                admitted.push(connections.admit(clients[number % 2]).await.expect("there is room"));
            }
            assert!(connections.admit(clients[0]).await.is_none());
            assert!(connections.admit("10.0.0.2".parse().expect("an address")).await.is_some());
            admitted.pop();
            assert!(connections.admit(clients[1]).await.is_some());
        }
        let all = connections.lock();
        assert!(all.of_client.is_empty() && all.unserved.is_empty());
    }

    #[tokio::test]
    async fn who_asks_for_nothing_makes_room() {
        let connections = Connections::new();
        let mut admitted = Vec::new();
        for number in 0..MAX_CONNECTIONS {
            let client = IpAddr::from([10, 0, 0, (number / MAX_OF_CLIENT) as u8]);
            admitted.push(connections.admit(client).await.expect("there is room"));
        }
        let first = admitted.remove(0);
        first.was_served();
        let second = admitted.remove(0);
        let ends = tokio::spawn(async move { second.is_unwanted().await });
        let stranger = connections.admit([10, 0, 1, 1].into()).await;
        assert!(stranger.is_some());
        ends.await.expect("the second one is asked to end, because the first was served");
        assert_eq!(connections.permits.available_permits(), 0);
        drop((first, admitted, stranger));
        assert_eq!(connections.permits.available_permits(), MAX_CONNECTIONS);
    }
}
