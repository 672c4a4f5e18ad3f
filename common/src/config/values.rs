//! The kinds of values that configuration keys take, each with its text form.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How a configuration value reads and shows itself. `parse(show(x))` is `x` for every value but a secret.
pub trait ConfigValue: Sized {
    /// What was wanted, for the message when `parse` gives nothing.
    const EXPECTED: &'static str;

    fn parse(text: &str) -> Option<Self>;
    fn show(&self) -> String;
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes statements and runs tasks, in one process.
    All,
    /// Takes statements, runs no tasks of its own while workers are there.
    Coordinator,
    /// Runs tasks for the coordinator that it joined.
    Worker,
}

impl Role {
    /// Whether clients send statements to this node.
    pub fn takes_statements(self) -> bool {
        match self {
            Role::All | Role::Coordinator => true,
            Role::Worker => false,
        }
    }

    /// Whether this node is one of those that tasks are placed on.
    pub fn runs_tasks(self) -> bool {
        match self {
            Role::All | Role::Worker => true,
            Role::Coordinator => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::All => "all",
            Role::Coordinator => "coordinator",
            Role::Worker => "worker",
        })
    }
}

impl ConfigValue for Role {
    const EXPECTED: &'static str = "all, coordinator or worker";

    fn parse(text: &str) -> Option<Self> {
        [Role::All, Role::Coordinator, Role::Worker].into_iter().find(|role| role.to_string() == text)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line a record, for people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl ConfigValue for LogFormat {
    const EXPECTED: &'static str = "text or json";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        }
    }

    fn show(&self) -> String {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
        .to_owned()
    }
}

/// A host name or IP address with a port; an IPv6 address stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    /// When listening, 0 takes a free port.
    pub port: u16,
}

impl HostPort {
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Whether only this machine reaches the host. A name other than `localhost` counts as beyond: what it resolves
    /// to can change.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether the host means every interface, and thus cannot be told to others.
    pub fn is_unspecified(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A host without the brackets of IPv6; `None` where no client could use it.
fn parse_host(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']')?;
        return inner.parse::<std::net::Ipv6Addr>().ok().map(|ip| ip.to_string());
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!text.is_empty() && text.chars().all(fits)).then(|| text.to_owned())
}

impl ConfigValue for HostPort {
    const EXPECTED: &'static str = "HOST:PORT";

    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self { host: parse_host(host)?, port: port.parse().ok()? })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// The address under which others reach a node: a host, with a port where it differs from the one listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise {
    pub host: String,
    pub port: Option<u16>,
}

impl ConfigValue for Advertise {
    const EXPECTED: &'static str = "HOST or HOST:PORT";

    fn parse(text: &str) -> Option<Self> {
        if let Some(HostPort { host, port }) = HostPort::parse(text) {
            return (port != 0).then_some(Self { host, port: Some(port) });
        }
        Some(Self { host: parse_host(text)?, port: None })
    }

    fn show(&self) -> String {
        match self.port {
            Some(port) => HostPort::new(&self.host, port).to_string(),
            None if self.host.contains(':') => format!("[{}]", self.host),
            None => self.host.clone(),
        }
    }
}

const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    /// Exact: the largest binary unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = BYTE_UNITS[..4].iter().find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit));
        match exact {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl ConfigValue for ByteSize {
    const EXPECTED: &'static str = "a number of bytes with a unit, such as 512MiB or 4GiB";

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().ok()?;
        let unit = text[digits..].trim_start();
        let factor = match unit {
            "" => 1,
            // The short forms that people type mean the binary units.
            "K" | "k" => 1 << 10,
            "M" | "m" => 1 << 20,
            "G" | "g" => 1 << 30,
            "T" | "t" => 1 << 40,
            _ => BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
        };
        number.checked_mul(factor).map(Self)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// How much memory a node may use: so many bytes, or a share of what the machine or container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySize {
    Bytes(ByteSize),
    /// 1 to 100.
    Percent(u8),
}

impl MemorySize {
    /// The bytes, on a machine of `total` bytes.
    pub fn resolve(self, total: u64) -> u64 {
        match self {
            MemorySize::Bytes(ByteSize(bytes)) => bytes,
            MemorySize::Percent(percent) => total / 100 * u64::from(percent),
        }
    }
}

impl ConfigValue for MemorySize {
    const EXPECTED: &'static str = "a size such as 4GiB, or a share of the machine's memory such as 75%";

    fn parse(text: &str) -> Option<Self> {
        match text.trim().strip_suffix('%') {
            Some(percent) => {
                percent.parse().ok().filter(|percent| (1..=100).contains(percent)).map(MemorySize::Percent)
            }
            None => ByteSize::parse(text).map(MemorySize::Bytes),
        }
    }

    fn show(&self) -> String {
        match self {
            MemorySize::Bytes(bytes) => bytes.show(),
            MemorySize::Percent(percent) => format!("{percent}%"),
        }
    }
}

/// A text that is never shown: neither in logs nor in error messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret, without the white space around it; `None` when nothing else is there.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The secret itself, for the one place that sends or compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl ConfigValue for Secret {
    const EXPECTED: &'static str = "a text that is not empty";

    fn parse(text: &str) -> Option<Self> {
        Secret::new(text)
    }

    fn show(&self) -> String {
        "***".to_owned()
    }
}

impl ConfigValue for Duration {
    const EXPECTED: &'static str = "a time with a unit, such as 500ms, 10s or 2m";

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = text[..digits].parse().ok()?;
        match text[digits..].trim_start() {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3600).map(Duration::from_secs),
            _ => None,
        }
    }

    fn show(&self) -> String {
        if self.subsec_millis() == 0 { format!("{}s", self.as_secs()) } else { format!("{}ms", self.as_millis()) }
    }
}

impl ConfigValue for bool {
    const EXPECTED: &'static str = "true or false";

    fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "on" | "yes" | "1" => Some(true),
            "false" | "off" | "no" | "0" => Some(false),
            _ => None,
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl ConfigValue for usize {
    const EXPECTED: &'static str = "a whole number";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl ConfigValue for u16 {
    const EXPECTED: &'static str = "a whole number from 0 to 65535";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl ConfigValue for String {
    const EXPECTED: &'static str = "a text that is not empty";

    fn parse(text: &str) -> Option<Self> {
        (!text.trim().is_empty()).then(|| text.trim().to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl ConfigValue for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads<T: ConfigValue + PartialEq + fmt::Debug>(text: &str, value: T) {
        assert_eq!(T::parse(text).as_ref(), Some(&value), "{text}");
        assert_eq!(T::parse(&value.show()).as_ref(), Some(&value), "{text} shown as {}", value.show());
    }

    fn refuses<T: ConfigValue + fmt::Debug>(texts: &[&str]) {
        for text in texts {
            assert!(T::parse(text).is_none(), "{text:?} was read as {:?}", T::parse(text));
        }
    }

    #[test]
    fn addresses() {
        reads("127.0.0.1:3307", HostPort::new("127.0.0.1", 3307));
        reads("[::1]:9090", HostPort::new("::1", 9090));
        reads("db-1.example:0", HostPort::new("db-1.example", 0));
        refuses::<HostPort>(&["", "3307", ":3307", "host:", "host:70000", "::1:9090", "http://host:80", "a b:1"]);
        reads("db-1", Advertise { host: "db-1".into(), port: None });
        reads("db-1:91", Advertise { host: "db-1".into(), port: Some(91) });
        reads("[::1]", Advertise { host: "::1".into(), port: None });
        refuses::<Advertise>(&["", "db-1:0", "db 1"]);
    }

    #[test]
    fn loopback_is_what_others_cannot_reach() {
        for host in ["127.0.0.1", "127.8.0.1", "::1", "localhost"] {
            assert!(HostPort::new(host, 1).is_loopback(), "{host}");
        }
        for host in ["0.0.0.0", "::", "10.0.0.1", "db-1"] {
            assert!(!HostPort::new(host, 1).is_loopback(), "{host}");
        }
    }

    #[test]
    fn sizes() {
        reads("512MiB", ByteSize(512 << 20));
        reads("2G", ByteSize(2 << 30));
        reads("2 gb", ByteSize(2_000_000_000));
        reads("17", ByteSize(17));
        reads("0", ByteSize(0));
        refuses::<ByteSize>(&["", "MiB", "-1", "1.5GiB", "3 apples", "99999999999TiB"]);
        reads("75%", MemorySize::Percent(75));
        reads("1GiB", MemorySize::Bytes(ByteSize(1 << 30)));
        refuses::<MemorySize>(&["0%", "101%", "%", "much"]);
        assert_eq!(MemorySize::Percent(50).resolve(1000), 500);
    }

    #[test]
    fn times() {
        reads("500ms", Duration::from_millis(500));
        reads("60s", Duration::from_secs(60));
        reads("2m", Duration::from_secs(120));
        refuses::<Duration>(&["", "10", "s", "1.5s", "5 days"]);
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new(" hush\n").unwrap();
        assert_eq!(secret.expose(), "hush");
        assert!(!format!("{secret:?} {}", secret.show()).contains("hush"));
        assert!(Secret::new(" \n").is_none());
    }
}
