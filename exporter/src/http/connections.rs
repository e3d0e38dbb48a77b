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

use super::access::Refusal;

/// The most connections at a time.
pub(super) const MAX_CONNECTIONS: usize = 128;
/// The most of one client.
pub(super) const MAX_OF_CLIENT: usize = 32;
/// For how long a connection of HTTP/2 may have nothing to do. Those of HTTP/1 wait for the next request as for the first.
const MAX_IDLE: Duration = Duration::from_mins(1);

/// Of all places, those that are for programs of this host alone: they find out what is wrong when strangers take the others.
const FOR_LOOPBACK: usize = 8;

/// All connections.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    /// Places for everybody.
    places: Arc<Semaphore>,
    /// Places for this host.
    for_loopback: Arc<Semaphore>,
    all: Arc<Mutex<All>>,
}

#[derive(Debug, Default)]
struct All {
    of_client: HashMap<IpAddr, usize>,
    /// Those that can make room for others, in the order in which they came.
    open: BTreeMap<u64, Arc<State>>,
    next: u64,
}

/// What is known of a connection.
#[derive(Debug)]
struct State {
    end: Notify,
    activity: Mutex<Activity>,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS - FOR_LOOPBACK)),
            for_loopback: Arc::new(Semaphore::new(FOR_LOOPBACK)),
            all: Arc::default(),
        }
    }

    /// Makes room for a connection of `client`, unless that has enough of them, or something is being answered on all that there
    /// are. Where there is no room, the one goes that has waited longest without anything being served on it; if there is
    /// none, the one that has been idle for longest. Whoever is served well opens another when he wants more.
    pub(super) async fn admit(&self, client: IpAddr) -> Result<Arc<Connection>, Refusal> {
        let client = network(client);
        if self.lock().of_client.get(&client).is_some_and(|count| *count >= MAX_OF_CLIENT) {
            return Err(Refusal::Connections);
        }
        let (permit, is_reserved) = if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            (permit, false)
        } else if client.is_loopback()
            && let Ok(permit) = Arc::clone(&self.for_loopback).try_acquire_owned()
        {
            (permit, true)
        } else {
            self.lock().take_unwanted().ok_or(Refusal::Full)?.end.notify_one();
            // It ends at once, and the semaphore is never closed.
            (Arc::clone(&self.places).acquire_owned().await.map_err(|_| Refusal::Full)?, false)
        };
        let activity = Activity { running: 0, since: Instant::now(), was_served: false };
        let state = Arc::new(State { end: Notify::new(), activity: activity.into() });
        let mut all = self.lock();
        *all.of_client.entry(client).or_default() += 1;
        let number = all.next;
        all.next += 1;
        if !is_reserved {
            // The end of one that has a place for this host alone would make no room for others.
            all.open.insert(number, Arc::clone(&state));
        }
        drop(all);
        Ok(Arc::new(Connection { connections: self.clone(), client, number, state, _permit: permit }))
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    /// The one that is to make room; it is asked no second time.
    fn take_unwanted(&mut self) -> Option<Arc<State>> {
        let idle = self.open.iter().map(|(number, state)| (*number, *state.activity()));
        let idle = idle.filter(|(_, activity)| activity.running == 0 || !activity.was_served);
        let (number, _) = idle.min_by_key(|(number, activity)| {
            (activity.was_served, if activity.was_served { Some(activity.since) } else { None }, *number)
        })?;
        self.open.remove(&number)
    }
}

impl State {
    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one client: of IPv6, the network that one of them is given as a whole (RFC 6177).
pub(super) fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        address @ (IpAddr::V4(_) | IpAddr::V6(Ipv6Addr::LOCALHOST)) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// One connection, until this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    connections: Connections,
    client: IpAddr,
    number: u64,
    state: Arc<State>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, Debug)]
struct Activity {
    /// How many requests are being answered.
    running: usize,
    /// Since when that is so.
    since: Instant,
    /// Whether anything was ever served.
    was_served: bool,
}

impl Connection {
    /// Waits until it has to make room for another.
    pub(super) async fn is_unwanted(&self) {
        self.state.end.notified().await;
    }

    /// Waits until nothing was asked for a while.
    pub(super) async fn is_idle(&self) {
        loop {
            let Activity { running, since, was_served: _ } = *self.state.activity();
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

    /// Something was served on it: others make room before it does.
    pub(super) fn was_served(&self) {
        self.state.activity().was_served = true;
    }

    fn change(&self, running: impl FnOnce(usize) -> usize) {
        let mut activity = self.state.activity();
        *activity = Activity { running: running(activity.running), since: Instant::now(), ..*activity };
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut all = self.connections.lock();
        all.open.remove(&self.number);
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
    use std::{net::IpAddr, sync::Arc};

    use tokio::task::JoinHandle;

    use super::{Connection, Connections, FOR_LOOPBACK, MAX_CONNECTIONS, MAX_OF_CLIENT};

    #[tokio::test]
    async fn no_client_has_all_connections() {
        let connections = Connections::new();
        for clients in [["10.0.0.1", "::ffff:10.0.0.1"], ["fd00::1", "fd00::2:0:0:1"]] {
            let clients = clients.map(|client| client.parse::<IpAddr>().expect("an address"));
            let mut admitted = Vec::new();
            for number in 0..MAX_OF_CLIENT {
                admitted.push(connections.admit(clients[number % 2]).await.expect("there is room"));
            }
            assert!(connections.admit(clients[0]).await.is_err());
            assert!(connections.admit("10.0.0.2".parse().expect("an address")).await.is_ok());
            admitted.pop();
            assert!(connections.admit(clients[1]).await.is_ok());
        }
        let all = connections.lock();
        assert!(all.of_client.is_empty() && all.open.is_empty());
    }

    fn stranger(number: usize) -> IpAddr {
        IpAddr::from([10, 0, 0, (number / MAX_OF_CLIENT) as u8])
    }

    async fn full(connections: &Connections) -> Vec<Arc<Connection>> {
        let mut admitted = Vec::new();
        for number in 0..MAX_CONNECTIONS - FOR_LOOPBACK {
            admitted.push(connections.admit(stranger(number)).await.expect("there is room"));
        }
        assert_eq!(connections.places.available_permits(), 0);
        admitted
    }

    /// Ends `connection` once it is unwanted, as the server does.
    fn ends(connection: Arc<Connection>) -> JoinHandle<()> {
        tokio::spawn(async move { connection.is_unwanted().await })
    }

    #[tokio::test]
    async fn who_asks_for_nothing_makes_room() {
        let connections = Connections::new();
        let mut admitted = full(&connections).await;
        let first = admitted.remove(0);
        first.was_served();
        let second = ends(admitted.remove(0));
        let stranger = connections.admit([10, 0, 1, 1].into()).await;
        assert!(stranger.is_ok());
        second.await.expect("the second one is asked to end, because the first was served");
        drop((first, admitted, stranger));
        assert_eq!(connections.places.available_permits(), MAX_CONNECTIONS - FOR_LOOPBACK);
    }

    #[tokio::test]
    async fn of_those_that_were_served_the_one_goes_that_is_idle_longest() {
        let connections = Connections::new();
        let mut admitted = full(&connections).await;
        for connection in &admitted {
            drop(connection.answering());
            connection.was_served();
        }
        // The first one was asked something after all others were, and the second one is being asked.
        drop(admitted[0].answering());
        let answering = admitted[1].answering();
        let third = ends(admitted.remove(2));
        let newcomer = connections.admit([10, 0, 1, 1].into()).await;
        assert!(newcomer.is_ok());
        third.await.expect("it is idle longest");
        drop(answering);
    }

    #[tokio::test]
    async fn this_host_has_places_of_its_own_while_all_are_being_answered() {
        let connections = Connections::new();
        let admitted = full(&connections).await;
        let answering: Vec<_> = admitted.iter().map(Connection::answering).collect();
        for connection in &admitted {
            connection.was_served();
        }
        assert!(connections.admit([10, 0, 1, 1].into()).await.is_err());
        let mut own = Vec::new();
        for number in 0..FOR_LOOPBACK {
            let address = if number % 2 == 0 { "127.0.0.1" } else { "::1" };
            own.push(connections.admit(address.parse().expect("an address")).await.expect("there is room"));
        }
        assert!(connections.admit([127, 0, 0, 1].into()).await.is_err());
        own.pop();
        assert!(connections.admit([10, 0, 1, 1].into()).await.is_err(), "it is not for strangers");
        assert!(connections.admit([127, 0, 0, 1].into()).await.is_ok());
        drop((answering, own));
    }
}
