//! How much one user and one address may ask for: requests and open sockets; and how
//! many sockets there may be at all.
//!
//! Off unless configured, but for the last. Memory is bounded whatever comes: a key that has been
//! quiet for as long as its burst takes to fill is forgotten, and when too many are
//! busy all begin anew. Knows nothing of HTTP.

use crate::settings::{Rate, RateSettings};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use ipnet::{IpNet, Ipv6Net};
use oversync_shared::UserId;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Users or addresses that a limit remembers at most, about 150 bytes each.
const MAX_KEYS: usize = 65_536;

/// After so many requests quiet keys are looked for.
const SWEEP_EVERY: u32 = 4_096;

/// Which limit was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Requests of a user.
    UserRequests,
    /// Requests from an address.
    AddressRequests,
    /// Open sockets of a user.
    UserSockets,
    /// Open sockets from an address.
    AddressSockets,
    /// Open sockets of the process.
    Sockets,
}

impl Limit {
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::UserRequests => "user_requests",
            Self::AddressRequests => "address_requests",
            Self::UserSockets => "user_sockets",
            Self::AddressSockets => "address_sockets",
            Self::Sockets => "sockets",
        }
    }
}

/// One more than a limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {} allows", .limit.name())]
pub struct Exceeded {
    /// Which one.
    pub limit: Limit,
    /// When there is room again; unknown of sockets.
    pub wait: Option<Duration>,
}

/// Who is meant by an address: itself, or of IPv6 its network of 64 bits, which is
/// what one customer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address(IpAddr);

impl Address {
    /// Of a connection's other end.
    pub fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(v6) => Ipv6Net::new(v6, 64).map_or(v6, |net| net.network()).into(),
            v4 => v4,
        })
    }
}

/// The limits of a process.
pub struct Rates {
    user_requests: Option<Arc<Buckets<UserId>>>,
    address_requests: Option<Arc<Buckets<Address>>>,
    user_sockets: Option<Count<UserId>>,
    address_sockets: Option<Count<Address>>,
    sockets: Arc<Semaphore>,
    trusted: Vec<IpNet>,
}

/// A socket's places; free again with its end.
#[derive(Debug, Default)]
pub struct Places {
    _user: Option<Held<UserId>>,
    _address: Option<Held<Address>>,
    _process: Option<OwnedSemaphorePermit>,
}

impl Rates {
    /// As they are set; `sockets` is how many the process may have open.
    pub fn new(settings: &RateSettings, sockets: usize) -> Self {
        Self {
            user_requests: settings.user_requests.map(Buckets::new).map(Arc::new),
            address_requests: settings.address_requests.map(Buckets::new).map(Arc::new),
            user_sockets: settings.user_sockets.map(|most| Count::new(most.get())),
            address_sockets: settings.address_sockets.map(|most| Count::new(most.get())),
            sockets: Arc::new(Semaphore::new(sockets.min(Semaphore::MAX_PERMITS))),
            trusted: settings.trusted_proxies.clone(),
        }
    }

    /// As they are set now; what is unchanged goes on counting. Sockets that were open
    /// before there was a limit for them do not count.
    pub fn renewed(&self, settings: &RateSettings) -> Self {
        Self {
            user_requests: renewed(&self.user_requests, settings.user_requests),
            address_requests: renewed(&self.address_requests, settings.address_requests),
            user_sockets: recounted(&self.user_sockets, settings.user_sockets),
            address_sockets: recounted(&self.address_sockets, settings.address_sockets),
            sockets: Arc::clone(&self.sockets),
            trusted: settings.trusted_proxies.clone(),
        }
    }

    /// The caller's address: the connection's other end or, when that is a trusted
    /// proxy, whom the proxies name. `forwarded` are the values of
    /// `X-Forwarded-For` in their order.
    pub fn address<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'a str>,
    ) -> Address {
        let is_trusted = |ip: IpAddr| self.trusted.iter().any(|net| net.contains(&ip));
        let mut nearest = peer.to_canonical();
        // The last was written by the nearest proxy; what stands before the first
        // stranger is that stranger's word.
        let named = forwarded.rev().flat_map(|value| value.rsplit(','));
        for name in named {
            if !is_trusted(nearest) {
                break;
            }
            let Some(ip) = read_address(name.trim()) else {
                break;
            };
            nearest = ip.to_canonical();
        }
        Address::of(nearest)
    }

    /// One more request from an address.
    pub fn address_request(&self, address: Address) -> Result<(), Exceeded> {
        let Some(buckets) = &self.address_requests else {
            return Ok(());
        };
        buckets
            .take(&address)
            .map_err(|wait| exceeded(Limit::AddressRequests, Some(wait)))
    }

    /// One more request of a user.
    pub fn user_request(&self, user: &UserId) -> Result<(), Exceeded> {
        let Some(buckets) = &self.user_requests else {
            return Ok(());
        };
        buckets
            .take(user)
            .map_err(|wait| exceeded(Limit::UserRequests, Some(wait)))
    }

    /// One more socket.
    pub fn socket(&self, user: &UserId, address: Option<Address>) -> Result<Places, Exceeded> {
        let address = match (&self.address_sockets, address) {
            (Some(count), Some(address)) => Some(
                count
                    .take(address)
                    .ok_or_else(|| exceeded(Limit::AddressSockets, None))?,
            ),
            _ => None,
        };
        let user = match &self.user_sockets {
            Some(count) => Some(
                count
                    .take(user.clone())
                    .ok_or_else(|| exceeded(Limit::UserSockets, None))?,
            ),
            None => None,
        };
        // Last: who has too many is told so also when all have.
        let process = self.sockets.clone().try_acquire_owned();
        let process = process.map_err(|_| exceeded(Limit::Sockets, None))?;
        Ok(Places {
            _user: user,
            _address: address,
            _process: Some(process),
        })
    }
}

fn renewed<K: Hash + Eq + Clone>(
    before: &Option<Arc<Buckets<K>>>,
    rate: Option<Rate>,
) -> Option<Arc<Buckets<K>>> {
    let rate = rate?;
    let same = before.as_ref().filter(|buckets| buckets.rate == rate);
    Some(same.map_or_else(|| Arc::new(Buckets::new(rate)), Arc::clone))
}

fn recounted<K>(before: &Option<Count<K>>, most: Option<NonZeroU32>) -> Option<Count<K>> {
    let most = most?.get();
    let held = before.as_ref().map(|count| Arc::clone(&count.held));
    Some(Count {
        most,
        held: held.unwrap_or_default(),
    })
}

fn exceeded(limit: Limit, wait: Option<Duration>) -> Exceeded {
    crate::meters::limited(limit);
    Exceeded { limit, wait }
}

/// An address as proxies write it, perhaps with a port.
fn read_address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let plain = bare.unwrap_or(text).parse();
    plain
        .ok()
        .or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

/// A bucket per key that fills with time.
struct Buckets<K: Hash + Eq + Clone> {
    rate: Rate,
    quota: Quota,
    limiter: RwLock<DefaultKeyedRateLimiter<K>>,
    clock: DefaultClock,
    requests: AtomicU32,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(rate: Rate) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        Self {
            rate,
            quota,
            limiter: RwLock::new(RateLimiter::dashmap(quota)),
            clock: DefaultClock::default(),
            requests: AtomicU32::new(0),
        }
    }

    /// Takes one; else when there is one again.
    fn take(&self, key: &K) -> Result<(), Duration> {
        if self.requests.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.sweep();
        }
        let limiter = self.limiter.read().expect("BUG: no panic under this lock");
        limiter
            .check_key(key)
            .map_err(|refused| refused.wait_time_from(self.clock.now()))
    }

    /// Forgets full buckets, which are as good as none.
    fn sweep(&self) {
        {
            let limiter = self.limiter.read().expect("BUG: no panic under this lock");
            limiter.retain_recent();
            limiter.shrink_to_fit();
            if limiter.len() <= MAX_KEYS - SWEEP_EVERY as usize {
                return;
            }
        }
        // So many at once are an attack, which must not cost memory too.
        tracing::warn!("too many users or addresses at once for a limit: all begin anew");
        *self.limiter.write().expect("BUG: no panic under this lock") =
            RateLimiter::dashmap(self.quota);
    }
}

/// How many there are of each key; those with none are not remembered.
#[derive(Debug)]
struct Count<K> {
    most: u32,
    held: Arc<Mutex<HashMap<K, u32>>>,
}

/// One of a [`Count`].
#[derive(Debug)]
struct Held<K: Hash + Eq> {
    key: K,
    held: Arc<Mutex<HashMap<K, u32>>>,
}

impl<K: Hash + Eq + Clone> Count<K> {
    fn new(most: u32) -> Self {
        Self {
            most,
            held: Arc::default(),
        }
    }

    fn take(&self, key: K) -> Option<Held<K>> {
        let mut held = self.held.lock().expect("BUG: no panic under this lock");
        let number = held.entry(key.clone()).or_insert(0);
        if *number >= self.most {
            return None;
        }
        *number += 1;
        drop(held);
        Some(Held {
            key,
            held: self.held.clone(),
        })
    }
}

impl<K: Hash + Eq> Drop for Held<K> {
    fn drop(&mut self) {
        let mut held = self.held.lock().expect("BUG: no panic under this lock");
        if let Some(number) = held.get_mut(&self.key) {
            *number -= 1;
            if *number == 0 {
                held.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).expect("not 0")
    }

    fn settings() -> RateSettings {
        RateSettings {
            address_requests: Some(Rate {
                per_second: number(1),
                burst: number(3),
            }),
            user_sockets: Some(number(2)),
            address_sockets: Some(number(3)),
            trusted_proxies: vec![
                "10.0.0.0/8".parse().expect("a network"),
                "fd00::/16".parse().expect("a network"),
            ],
            ..RateSettings::default()
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let rates = Rates::new(&settings(), 100);
        for (peer, forwarded, expected) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.1.2.3", &[], "10.1.2.3"),
            ("10.1.2.3", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.1.2.3", &["203.0.113.9:55"], "203.0.113.9"),
            // What the client itself wrote stands before what the proxy wrote.
            ("10.1.2.3", &["198.51.100.7, 203.0.113.9"], "203.0.113.9"),
            ("10.1.2.3", &["198.51.100.7", "203.0.113.9"], "203.0.113.9"),
            ("10.1.2.3", &["203.0.113.9, 10.9.9.9"], "203.0.113.9"),
            (
                "10.1.2.3",
                &["203.0.113.9, fd00::5", "10.9.9.9"],
                "203.0.113.9",
            ),
            ("10.1.2.3", &["nonsense"], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.7, nonsense"], "10.1.2.3"),
            ("10.1.2.3", &[""], "10.1.2.3"),
            ("10.1.2.3", &["[2001:db8::1]:443"], "2001:db8::"),
            ("10.1.2.3", &["[2001:db8::1]"], "2001:db8::"),
            ("2001:db8:0:1:ffff::1", &[], "2001:db8:0:1::"),
        ] {
            let peer: IpAddr = peer.parse().expect("an address");
            let found = rates.address(peer, forwarded.iter().copied());
            let expected = Address(expected.parse().expect("an address"));
            assert_eq!(found, expected, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn memory_is_bounded_whoever_asks() {
        let rates = Rates::new(&settings(), 100);
        let buckets = rates.address_requests.as_ref().expect("set");
        for n in 0..5 * MAX_KEYS as u32 {
            let address = Address::of(IpAddr::from(n.to_be_bytes()));
            rates.address_request(address).expect("the first of each");
            let keys = buckets.limiter.read().expect("no panic").len();
            assert!(n % 1_000 != 0 || keys <= MAX_KEYS, "{keys} keys");
        }
    }

    #[test]
    fn beyond_the_burst_there_is_a_wait() {
        let rates = Rates::new(&settings(), 100);
        let address = Address::of(IpAddr::from([192, 0, 2, 1]));
        let answers: Vec<_> = (0..4).map(|_| rates.address_request(address)).collect();
        assert!(answers[..3].iter().all(Result::is_ok), "{answers:?}");
        let refused = answers[3].expect_err("the burst is used up");
        assert_eq!(refused.limit, Limit::AddressRequests);
        assert!(
            refused
                .wait
                .is_some_and(|wait| wait <= Duration::from_secs(1))
        );
        // Nobody else suffers.
        let other = Address::of(IpAddr::from([192, 0, 2, 2]));
        assert_eq!(rates.address_request(other), Ok(()));
    }

    #[test]
    fn sockets_are_counted_and_given_back() {
        let rates = Rates::new(&settings(), 100);
        let address = Some(Address::of(IpAddr::from([192, 0, 2, 1])));
        let user = |name: &str| UserId::new(name).expect("valid");
        let first = rates.socket(&user("ann"), address).expect("one");
        let _second = rates.socket(&user("ann"), address).expect("two");
        let refused = rates.socket(&user("ann"), address).expect_err("three");
        assert_eq!(refused.limit, Limit::UserSockets);
        let _third = rates.socket(&user("bob"), address).expect("three there");
        let refused = rates.socket(&user("bob"), address).expect_err("four");
        assert_eq!(refused.limit, Limit::AddressSockets);
        drop(first);
        let again = rates.socket(&user("ann"), address).expect("two again");
        drop((again, _second, _third));
        let users = rates.user_sockets.as_ref().expect("set");
        assert!(users.held.lock().expect("no panic").is_empty());
    }

    #[test]
    fn the_process_has_so_many_sockets_and_no_more() {
        let rates = Rates::new(&RateSettings::default(), 2);
        let user = |name: &str| UserId::new(name).expect("valid");
        let first = rates.socket(&user("ann"), None).expect("one");
        let second = rates.socket(&user("bob"), None).expect("two");
        let refused = rates.socket(&user("cid"), None).expect_err("three");
        assert_eq!((refused.limit, refused.wait), (Limit::Sockets, None));
        drop(first);
        let third = rates.socket(&user("cid"), None).expect("two again");
        assert!(rates.socket(&user("dan"), None).is_err());
        drop((second, third));
    }
}
