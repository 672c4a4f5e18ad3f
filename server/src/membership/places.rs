//! Where a node looks for others that it was told of: addresses, and names of which one may have many addresses, as in
//! Docker and Kubernetes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::join_all;
use parking_lot::Mutex;
use sheaf_common::config::HostPort;
use tracing::{debug, info, warn};

/// A name that is not answered for by then has no addresses for now.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// Names are looked up again after so long.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);
/// The same, where some could not be looked up.
const RETRY: Duration = Duration::from_secs(1);
/// A name that cannot be looked up keeps its addresses for so long: name services fail more often than clusters move.
const KEPT: Duration = Duration::from_secs(30);

/// Who knows the addresses of a name.
#[async_trait]
pub trait NameService: Send + Sync + fmt::Debug {
    /// All addresses of a host, in any order. Errs when it has none.
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's own, as it is configured: files, DNS.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemNames;

#[async_trait]
impl NameService for SystemNames {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // The port is of no matter.
        Ok(tokio::net::lookup_host((host, 1)).await?.map(|it| it.ip()).collect())
    }
}

/// Places that were given, each an address or a name.
#[derive(Debug)]
pub struct Places {
    given: Vec<HostPort>,
    names: Arc<dyn NameService>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Until when the answer before is good enough.
    good_until: Option<Instant>,
    by_name: BTreeMap<String, Named>,
}

#[derive(Debug)]
struct Named {
    /// Sorted.
    addresses: Vec<IpAddr>,
    answered: Instant,
}

impl Places {
    pub fn new(given: Vec<HostPort>) -> Self {
        Self::with_names(given, Arc::new(SystemNames))
    }

    pub fn with_names(given: Vec<HostPort>, names: Arc<dyn NameService>) -> Self {
        Self { given, names, known: Mutex::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Whether there is one, which always is the same.
    pub fn is_fixed(&self) -> bool {
        self.given.len() == 1 && self.given.iter().all(|it| is_address(&it.host))
    }

    /// All places as of now, without doubles. A name that has one address stays a name: who connects looks it up.
    ///
    /// Takes no longer than [`LOOKUP_TIMEOUT`]. What a name has no more is left out.
    pub async fn look_up(&self) -> Vec<HostPort> {
        let is_good = self.known.lock().good_until.is_some_and(|until| Instant::now() < until);
        if !is_good {
            self.refresh().await;
        }
        let known = self.known.lock();
        let mut places: Vec<HostPort> = Vec::new();
        for given in &self.given {
            let addresses = known.by_name.get(&given.host).map_or(&[][..], |it| it.addresses.as_slice());
            let found = match addresses {
                // Also one that could not be looked up: an attempt to connect says why.
                [] | [_] => vec![given.clone()],
                many => many.iter().map(|ip| HostPort::new(ip.to_string(), given.port)).collect(),
            };
            for place in found {
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
        places
    }

    async fn refresh(&self) {
        let mut names: Vec<&str> = self.given.iter().map(|it| it.host.as_str()).filter(|it| !is_address(it)).collect();
        names.sort_unstable();
        names.dedup();
        let look_up = async |name: &str| {
            let answer = tokio::time::timeout(LOOKUP_TIMEOUT, self.names.addresses(name)).await;
            answer.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the name service does not answer")))
        };
        let answers = join_all(names.iter().map(|name| look_up(name))).await;
        let (mut known, now) = (self.known.lock(), Instant::now());
        let all_answered = answers.iter().all(Result::is_ok);
        for (name, answer) in names.into_iter().zip(answers) {
            known.note(name, answer, now);
        }
        known.good_until = Some(now + if all_answered { LOOK_UP_EVERY } else { RETRY });
    }
}

impl Known {
    fn note(&mut self, name: &str, answer: io::Result<Vec<IpAddr>>, now: Instant) {
        match answer {
            Ok(mut addresses) => {
                addresses.sort_unstable();
                addresses.dedup();
                let before = self.by_name.insert(name.to_owned(), Named { addresses, answered: now });
                let after = &self.by_name[name].addresses;
                if before.is_none_or(|it| it.addresses != *after) && after.len() > 1 {
                    info!(name, addresses = ?after, "a name has these addresses now");
                }
            }
            Err(error) => {
                let is_kept = self.by_name.get(name).is_some_and(|it| now.duration_since(it.answered) < KEPT);
                if is_kept {
                    debug!(name, %error, "a name cannot be looked up, its addresses of before are kept for now");
                } else if self.by_name.remove(name).is_some() {
                    warn!(name, %error, "a name cannot be looked up any more");
                }
            }
        }
    }
}

fn is_address(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.given.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Names with the addresses that a test gives them. One without an entry is never answered.
    #[derive(Debug, Default)]
    pub struct Fake(pub Mutex<BTreeMap<&'static str, Vec<IpAddr>>>);

    #[async_trait]
    impl NameService for Fake {
        async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            let found = self.0.lock().get(host).cloned();
            match found {
                Some(found) if found.is_empty() => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
                Some(found) => Ok(found),
                None => std::future::pending().await,
            }
        }
    }

    fn ips(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|it| IpAddr::from([10, 0, 0, *it])).collect()
    }

    async fn texts(places: &Places) -> Vec<String> {
        places.known.lock().good_until = None;
        places.look_up().await.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn names_have_the_addresses_of_now() {
        let names = Arc::new(Fake::default());
        let given = ["10.0.0.9:1", "one:2", "many:3", "10.0.0.9:1"];
        let given = given.map(|it| sheaf_common::config::ConfigValue::parse(it).unwrap());
        let places = Places::with_names(given.to_vec(), names.clone());
        assert!(!places.is_fixed() && Places::new(given[..1].to_vec()).is_fixed());
        names.0.lock().extend([("one", ips(&[1])), ("many", ips(&[3, 2, 3]))]);
        assert_eq!(texts(&places).await, ["10.0.0.9:1", "one:2", "10.0.0.2:3", "10.0.0.3:3"]);
        // One came and one went.
        names.0.lock().insert("many", ips(&[3, 4]));
        assert_eq!(texts(&places).await, ["10.0.0.9:1", "one:2", "10.0.0.3:3", "10.0.0.4:3"]);
        // The name service is silent: the deadline ends it, and the others have theirs.
        names.0.lock().remove("many");
        names.0.lock().insert("one", ips(&[5, 6]));
        assert_eq!(texts(&places).await, ["10.0.0.9:1", "10.0.0.5:2", "10.0.0.6:2", "10.0.0.3:3", "10.0.0.4:3"]);
        // It has none any more, for longer than that may be a mistake.
        names.0.lock().insert("many", vec![]);
        places.known.lock().by_name.get_mut("many").unwrap().answered -= KEPT;
        assert_eq!(texts(&places).await, ["10.0.0.9:1", "10.0.0.5:2", "10.0.0.6:2", "many:3"]);
        assert_eq!(places.to_string(), "10.0.0.9:1, one:2, many:3, 10.0.0.9:1");
    }

    #[tokio::test]
    async fn the_system_knows_this_machine() {
        let found = SystemNames.addresses("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
    }
}
