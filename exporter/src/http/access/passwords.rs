//! Passwords: whether they are right, without a stranger being able to have the CPU busy with that.
//!
//! bcrypt is slow by design. So one password is looked at at a time, on a thread of its own; few wait, and of each client fewer;
//! and what was looked at lately is known. An unknown user takes the time of a known one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ring::{
    hmac::{self, Key},
    rand::SystemRandom,
};
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{config::web::PasswordHash, http::connections::network};

/// How many passwords wait to be looked at.
const MAX_WAITING: usize = 32;
/// How many of one client: of IPv6, of one network, as connections are counted.
const MAX_WAITING_OF_CLIENT: usize = 4;
/// How many that were looked at are known, of the right and of the wrong ones each.
const MAX_KNOWN: usize = 128;

/// What became of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    Wrong,
    /// It was not looked at: too many others wait.
    Busy,
}

/// Looks at passwords.
#[derive(Debug)]
pub(super) struct Passwords {
    /// What is known of passwords is kept by a hash that nobody else can make.
    key: Key,
    state: Arc<Mutex<State>>,
    /// One at a time.
    turn: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    right: Recent,
    wrong: Recent,
    waiting: HashMap<IpAddr, usize>,
    #[cfg(test)]
    looked_at: usize,
}

/// The latest of something.
#[derive(Debug, Default)]
struct Recent(VecDeque<[u8; 32]>);

impl Recent {
    fn add(&mut self, tag: [u8; 32]) {
        if self.0.len() == MAX_KNOWN {
            self.0.pop_front();
        }
        self.0.push_back(tag);
    }
}

impl Passwords {
    /// Nothing is known yet.
    pub(super) fn new() -> Result<Self, ring::error::Unspecified> {
        let key = Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?;
        Ok(Self { key, state: Arc::default(), turn: Arc::new(Semaphore::new(1)) })
    }

    /// Whether `password` is that of `user`, who is one of `users`. It came from `client`.
    pub(super) async fn verify(
        &self,
        users: &BTreeMap<String, PasswordHash>,
        user: &str,
        password: Vec<u8>,
        client: IpAddr,
    ) -> Verdict {
        let is_known = users.contains_key(user);
        let Some(hash) = users.get(user).or_else(|| self.any_of(users, user)).cloned() else { return Verdict::Wrong };
        let tag = self.tag(&[user.as_bytes(), hash.as_str().as_bytes(), &password]);
        if let Some(verdict) = self.known(&tag) {
            return verdict;
        }
        let Some(place) = Place::take(&self.state, client) else { return Verdict::Busy };
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else { return Verdict::Busy };
        // Another may have asked for the same.
        if let Some(verdict) = self.known(&tag) {
            return verdict;
        }
        let state = Arc::clone(&self.state);
        let looked = spawn_blocking(move || {
            // They stay taken until it is done, also when the client has gone.
            let _taken = (turn, place);
            let is_right = bcrypt::verify(password, hash.as_str()).unwrap_or(false) && is_known;
            let mut state = lock(&state);
            #[cfg(test)]
            {
                state.looked_at += 1;
            }
            if is_right {
                state.right.add(tag);
            } else {
                state.wrong.add(tag);
            }
            is_right
        });
        match looked.await {
            Ok(true) => Verdict::Right,
            Ok(false) => Verdict::Wrong,
            Err(_) => Verdict::Busy,
        }
    }

    fn known(&self, tag: &[u8; 32]) -> Option<Verdict> {
        let state = lock(&self.state);
        if state.right.0.contains(tag) {
            Some(Verdict::Right)
        } else {
            state.wrong.0.contains(tag).then_some(Verdict::Wrong)
        }
    }

    /// The hash that an unknown `user` is held against: always the same one, of a cost that users have.
    fn any_of<'a>(&self, users: &'a BTreeMap<String, PasswordHash>, user: &str) -> Option<&'a PasswordHash> {
        let [byte, ..] = self.tag(&[user.as_bytes()]);
        users.values().nth(usize::from(byte).checked_rem(users.len())?)
    }

    fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place among those who wait, until it is dropped.
struct Place {
    state: Arc<Mutex<State>>,
    client: IpAddr,
}

impl Place {
    fn take(state: &Arc<Mutex<State>>, client: IpAddr) -> Option<Self> {
        let client = network(client);
        let mut locked = lock(state);
        let all: usize = locked.waiting.values().sum();
        let own = locked.waiting.get(&client).copied().unwrap_or_default();
        if all >= MAX_WAITING || own >= MAX_WAITING_OF_CLIENT {
            return None;
        }
        locked.waiting.insert(client, own + 1);
        Some(Self { state: Arc::clone(state), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if let Some(count) = state.waiting.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                state.waiting.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::IpAddr};

    use super::{MAX_KNOWN, MAX_WAITING_OF_CLIENT, Passwords, Place, Verdict, lock};
    use crate::config::web::PasswordHash;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn users() -> BTreeMap<String, PasswordHash> {
        let hash = |password| bcrypt::hash_with_salt(password, 4, [7; 16]).expect("is allowed").to_string();
        [("alice", "one"), ("bob", "two")]
            .map(|(name, word)| (name.to_owned(), PasswordHash::for_test(hash(word))))
            .into()
    }

    fn looked_at(passwords: &Passwords) -> usize {
        lock(&passwords.state).looked_at
    }

    #[tokio::test]
    async fn a_password_is_looked_at_once_and_an_unknown_user_costs_as_much() {
        let (passwords, users) = (Passwords::new().expect("random numbers"), users());
        let mut expected = 0;
        for (user, password, verdict) in [
            ("alice", "one", Verdict::Right),
            ("alice", "two", Verdict::Wrong),
            ("bob", "two", Verdict::Right),
            ("alice", "", Verdict::Wrong),
            ("carol", "one", Verdict::Wrong),
            ("carol", "two", Verdict::Wrong),
            ("", "", Verdict::Wrong),
        ] {
            expected += 1;
            for _ in 0..3 {
                let found = passwords.verify(&users, user, password.into(), CLIENT).await;
                assert_eq!((found, looked_at(&passwords)), (verdict, expected), "{user}:{password}");
            }
        }
        assert!(lock(&passwords.state).waiting.is_empty());
        assert_eq!(passwords.verify(&BTreeMap::new(), "alice", "one".into(), CLIENT).await, Verdict::Wrong);
    }

    #[tokio::test]
    async fn another_hash_makes_what_was_known_worthless() {
        let (passwords, mut users) = (Passwords::new().expect("random numbers"), users());
        assert_eq!(passwords.verify(&users, "alice", "one".into(), CLIENT).await, Verdict::Right);
        let other = users["bob"].clone();
        users.insert("alice".to_owned(), other);
        assert_eq!(passwords.verify(&users, "alice", "one".into(), CLIENT).await, Verdict::Wrong);
        users.remove("alice");
        assert_eq!(passwords.verify(&users, "alice", "two".into(), CLIENT).await, Verdict::Wrong);
    }

    #[tokio::test]
    async fn one_client_does_not_take_all_places() {
        let (passwords, users) = (Passwords::new().expect("random numbers"), users());
        let places: Vec<_> = (0..).map_while(|_| Place::take(&passwords.state, CLIENT)).take(100).collect();
        assert_eq!(places.len(), MAX_WAITING_OF_CLIENT);
        assert_eq!(passwords.verify(&users, "alice", "one".into(), CLIENT).await, Verdict::Busy);
        let of_network = |last: u16| IpAddr::from([0xfd00, 0, 0, 1, 0, 0, 0, last]);
        let of_one: Vec<_> = (0..100).map_while(|last| Place::take(&passwords.state, of_network(last))).collect();
        assert_eq!(of_one.len(), MAX_WAITING_OF_CLIENT, "who has one address has the network");
        drop(of_one);
        let other = "10.0.0.1".parse().expect("an address");
        assert_eq!(passwords.verify(&users, "alice", "one".into(), other).await, Verdict::Right);
        assert_eq!(
            passwords.verify(&users, "alice", "one".into(), CLIENT).await,
            Verdict::Right,
            "what is known needs none"
        );
        drop(places);
        assert_eq!(passwords.verify(&users, "alice", "no".into(), CLIENT).await, Verdict::Wrong);
        let many: Vec<_> =
            (0..100_u8).map_while(|last| Place::take(&passwords.state, [10, 0, 1, last].into())).collect();
        assert_eq!(many.len(), super::MAX_WAITING);
    }

    #[tokio::test]
    async fn what_is_known_is_bounded_and_wrong_ones_drive_out_no_right_one() {
        let (passwords, users) = (Passwords::new().expect("random numbers"), users());
        assert_eq!(passwords.verify(&users, "alice", "one".into(), CLIENT).await, Verdict::Right);
        for number in 0..2 * MAX_KNOWN {
            let tag = passwords.tag(&[&number.to_be_bytes()]);
            lock(&passwords.state).wrong.add(tag);
        }
        assert_eq!(lock(&passwords.state).wrong.0.len(), MAX_KNOWN);
        let before = looked_at(&passwords);
        assert_eq!(passwords.verify(&users, "alice", "one".into(), CLIENT).await, Verdict::Right);
        assert_eq!(looked_at(&passwords), before);
    }
}
