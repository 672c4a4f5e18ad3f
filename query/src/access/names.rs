//! The names of accounts: a user and a pattern of the hosts that it connects from.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;

/// `'user'@'host'`. A role is named like a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountName {
    /// Empty is everybody.
    pub user: String,
    /// In small letters: an address, a pattern with `%` and `_`, `address/mask`, `localhost`.
    pub host: String,
}

impl AccountName {
    pub fn new(user: impl Into<String>, host: impl Into<String>) -> Self {
        Self { user: user.into(), host: host.into().to_lowercase() }
    }

    /// As `SHOW GRANTS` writes it.
    pub fn in_backticks(&self) -> String {
        format!("`{}`@`{}`", self.user.replace('`', "``"), self.host.replace('`', "``"))
    }

    /// As `CURRENT_USER()` gives it, and the key that an account is kept under.
    pub fn plain(&self) -> String {
        format!("{}@{}", self.user, self.host)
    }

    /// The other way round. No host has an `@`, a user may.
    pub fn parse_plain(text: &str) -> Option<Self> {
        text.rsplit_once('@').map(|(user, host)| Self::new(user, host))
    }

    /// Whether somebody of that name who connects from that address may be meant.
    pub fn fits(&self, user: &str, peer: IpAddr) -> bool {
        (self.user.is_empty() || self.user == user) && host_fits(&self.host, peer)
    }

    /// Which of two that fit is meant: the one whose host says more, and of one host the one that names its user. Lesser is
    /// asked first.
    pub fn precedence(&self, other: &Self) -> Ordering {
        let key = |it: &Self| (specificity(&it.host), !it.user.is_empty());
        key(other).cmp(&key(self)).then_with(|| self.cmp(other))
    }
}

/// `'user'@'host'`, as errors write it.
impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'@'{}'", self.user, self.host)
    }
}

/// How much a host says: an address more than a network, that more than a pattern, one that begins later with a wildcard
/// more than another, and the empty host nothing.
fn specificity(host: &str) -> (u8, usize) {
    match host {
        "" => (0, 0),
        _ if host.contains('/') => (2, network(host).map_or(0, |(_, bits)| bits as usize)),
        _ => match host.find(['%', '_']) {
            Some(at) => (1, at),
            None => (3, 0),
        },
    }
}

/// Names of hosts are not looked up: only `localhost` is known, by the addresses that it always has.
fn host_fits(host: &str, peer: IpAddr) -> bool {
    // An IPv4 client of an IPv6 listener has a mapped address.
    let peer = peer.to_canonical();
    match host {
        "" | "%" => true,
        "localhost" => peer.is_loopback(),
        _ if host.contains('/') => network(host).is_some_and(|(address, bits)| is_within(peer, address, bits)),
        _ => match host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical() == peer,
            Err(_) => is_like(host, &peer.to_string()),
        },
    }
}

/// `192.0.2.0/255.255.255.0`, `192.0.2.0/24`, `2001:db8::/32`: the address and how many bits of it count.
fn network(host: &str) -> Option<(IpAddr, u32)> {
    let (address, mask) = host.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    let bits = match mask.parse::<u32>() {
        Ok(bits) => bits,
        Err(_) => {
            let mask = u32::from(mask.parse::<std::net::Ipv4Addr>().ok()?);
            let bits = mask.leading_ones();
            // Ones after a zero are no mask.
            (mask.count_ones() == bits && address.is_ipv4()).then_some(bits)?
        }
    };
    (bits <= bits_max).then_some((address, bits))
}

fn is_within(peer: IpAddr, address: IpAddr, bits: u32) -> bool {
    match (peer, address) {
        (IpAddr::V4(peer), IpAddr::V4(address)) => {
            let differ = u32::from(peer) ^ u32::from(address);
            differ.leading_zeros() >= bits
        }
        (IpAddr::V6(peer), IpAddr::V6(address)) => {
            let differ = u128::from(peer) ^ u128::from(address);
            differ.leading_zeros() >= bits
        }
        _ => false,
    }
}

/// MySQL's patterns of hosts and databases: `%` any text, `_` one character, a backslash takes the next as it is.
pub(super) fn is_like(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut idx) = (0, 0);
    // Where the last `%` stood and how far it took: what is tried longer when the rest does not fit.
    let mut retry: Option<(usize, usize)> = None;
    while idx < text.len() {
        let fits = match pattern.get(at) {
            Some('%') => {
                retry = Some((at, idx));
                at += 1;
                continue;
            }
            Some('_') => Some(1),
            Some('\\') if at + 1 < pattern.len() => (pattern[at + 1] == text[idx]).then_some(2),
            Some(other) => (*other == text[idx]).then_some(1),
            None => None,
        };
        match (fits, retry) {
            (Some(width), _) => {
                at += width;
                idx += 1;
            }
            (None, Some((percent, taken))) => {
                at = percent + 1;
                idx = taken + 1;
                retry = Some((percent, idx));
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|it| *it == '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (host, peer, expected) in [
            ("%", "10.0.0.1", true),
            ("", "10.0.0.1", true),
            ("localhost", "127.0.0.1", true),
            ("localhost", "::1", true),
            ("localhost", "::ffff:127.0.0.1", true),
            ("localhost", "10.0.0.1", false),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("10.0.0.1", "10.0.0.10", false),
            ("10.0.0.%", "10.0.0.10", true),
            ("10.0.0.%", "10.0.1.10", false),
            ("10.0.0.1_", "10.0.0.10", true),
            ("10.0.0.1_", "10.0.0.1", false),
            ("192.168.1.0/255.255.255.0", "192.168.1.77", true),
            ("192.168.1.0/255.255.255.0", "192.168.2.77", false),
            ("192.168.1.0/24", "192.168.1.77", true),
            ("192.168.1.0/0", "1.2.3.4", true),
            ("192.168.1.0/33", "192.168.1.0", false),
            ("192.168.1.0/255.0.255.0", "192.168.1.0", false),
            ("2001:db8::/32", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("2001:db8::1", "2001:db8:0::1", true),
            ("db.example.com", "10.0.0.1", false),
        ] {
            let fits = AccountName::new("u", host).fits("u", peer.parse().unwrap());
            assert_eq!(fits, expected, "{host} {peer}");
        }
    }

    #[test]
    fn the_most_specific_comes_first() {
        let mut names = ["@", "u@%", "@%", "u@10.%", "@10.0.0.1", "u@10.0.0.1", "u@10.0.0.0/8", "u@10.0.%"]
            .map(|it| AccountName::parse_plain(it).unwrap());
        names.sort_by(AccountName::precedence);
        let sorted = names.map(|it| it.plain());
        assert_eq!(sorted, ["u@10.0.0.1", "@10.0.0.1", "u@10.0.0.0/8", "u@10.0.%", "u@10.%", "u@%", "@%", "@"]);
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("a%", "abc", true),
            ("a\\_b", "a_b", true),
            ("a\\_b", "axb", false),
            ("a_b", "axb", true),
            ("%a%b", "xxaxxbxxb", true),
            ("A", "a", false),
            ("", "", true),
            ("%", "", true),
        ] {
            assert_eq!(is_like(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn texts_of_names() {
        let name = AccountName::new("a`b", "LocalHost");
        assert_eq!(
            (name.in_backticks(), name.plain(), name.to_string()),
            ("`a``b`@`localhost`".into(), "a`b@localhost".into(), "'a`b'@'localhost'".into())
        );
        assert_eq!(AccountName::parse_plain("a@b@%"), Some(AccountName::new("a@b", "%")));
        assert_eq!(AccountName::parse_plain("a"), None);
    }
}
