//! The server's configuration: one list makes the struct, its flags, its environment variables, the keys of its file
//! and their help.
//!
//! A key `mysql_listen` is the flag `--mysql-listen`, the variable `SHEAF_MYSQL_LISTEN` and `mysql_listen = "…"` in the
//! TOML file. Flags outrank the environment, which outranks the file, which outranks the default. An empty text is
//! the same as no value where a key may have none.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod values;

pub use values::{Advertise, ByteSize, ConfigValue, HostPort, LogFormat, MemorySize, Role, Secret};

/// Why a configuration was refused: always the operator's to mend, and always before a port is opened.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration file {path:?}")]
    FileUnreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("configuration file {path:?} is not valid TOML")]
    NotToml {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("unknown key {key:?} in configuration file {path:?}{}", did_you_mean(nearest))]
    UnknownKey { path: PathBuf, key: String, nearest: Option<String> },
    #[error("unknown environment variable {name}{}", did_you_mean(&Some(nearest.clone())))]
    UnknownVariable { name: String, nearest: String },
    #[error("{source} cannot be {value:?}: expected {expected}", source = from.of(key))]
    Value { key: &'static str, from: Source, value: String, expected: &'static str },
    #[error("cannot read secret file {path:?}")]
    SecretFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("secret file {path:?} is empty")]
    SecretFileEmpty { path: PathBuf },
    /// Two values that do not go together, or a value out of its range.
    #[error("{0}")]
    Refused(String),
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!(", did you mean {name}?"))
}

/// The candidate that a mistyped name most likely meant, if one is close enough.
pub fn nearest_name<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Where a value came from; the greater outranks the lesser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Default,
    File,
    Environment,
    Flag,
}

impl Source {
    /// The key as it was written there.
    fn of(self, key: &str) -> String {
        match self {
            Source::Default | Source::File => key.to_owned(),
            Source::Environment => variable_name(key),
            Source::Flag => flag_name(key),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Default => "default",
            Source::File => "file",
            Source::Environment => "environment",
            Source::Flag => "flag",
        })
    }
}

/// By key, where a value came from that is not the default.
pub type Sources = BTreeMap<String, Source>;

/// `--mysql-listen` for `mysql_listen`.
pub fn flag_name(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// `SHEAF_MYSQL_LISTEN` for `mysql_listen`.
pub fn variable_name(key: &str) -> String {
    format!("SHEAF_{}", key.to_ascii_uppercase())
}

/// How many values a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// A yes or no: the bare flag means yes.
    Switch,
    One,
    /// Any number: the flag repeats, the variable separates by `:`, the file has a list.
    Many,
    /// Any number: the flag repeats, and each text may hold several, separated by commas; the file may have a list.
    List,
}

/// A key as help and reference pages show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    pub placeholder: &'static str,
    pub description: &'static str,
    /// Empty where there is none.
    pub default: String,
    pub arity: Arity,
}

/// A field of the configuration: what its texts, none or several, mean.
trait ConfigField: Sized {
    const ARITY: Arity;
    const EXPECTED: &'static str;
    fn read(texts: &[String]) -> Option<Self>;
    fn texts(&self) -> Vec<String>;
}

macro_rules! one_value {
    ($($kind:ty: $arity:ident),* $(,)?) => {$(
        impl ConfigField for $kind {
            const ARITY: Arity = Arity::$arity;
            const EXPECTED: &'static str = <$kind as ConfigValue>::EXPECTED;

            fn read(texts: &[String]) -> Option<Self> {
                match texts {
                    [text] => <$kind as ConfigValue>::parse(text),
                    _ => None,
                }
            }

            fn texts(&self) -> Vec<String> {
                vec![self.show()]
            }
        }
    )*};
}

one_value!(
    Role: One, PathBuf: One, HostPort: One, Duration: One, usize: One, u16: One, String: One,
    ByteSize: One, MemorySize: One, LogFormat: One, bool: Switch,
);

impl<T: ConfigValue> ConfigField for Option<T> {
    const ARITY: Arity = Arity::One;
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(texts: &[String]) -> Option<Self> {
        match texts {
            [] => Some(None),
            [text] if text.is_empty() => Some(None),
            [text] => T::parse(text).map(Some),
            _ => None,
        }
    }

    fn texts(&self) -> Vec<String> {
        self.iter().map(ConfigValue::show).collect()
    }
}

impl ConfigField for Vec<PathBuf> {
    const ARITY: Arity = Arity::Many;
    const EXPECTED: &'static str = "paths";

    fn read(texts: &[String]) -> Option<Self> {
        texts.iter().filter(|text| !text.is_empty()).map(|text| PathBuf::parse(text)).collect()
    }

    fn texts(&self) -> Vec<String> {
        self.iter().map(ConfigValue::show).collect()
    }
}

impl ConfigField for Vec<HostPort> {
    const ARITY: Arity = Arity::List;
    const EXPECTED: &'static str = "HOST:PORT, or several separated by commas";

    fn read(texts: &[String]) -> Option<Self> {
        let each = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
        each.filter(|text| !text.is_empty()).map(HostPort::parse).collect()
    }

    fn texts(&self) -> Vec<String> {
        self.iter().map(ConfigValue::show).collect()
    }
}

macro_rules! server_config {
    ($($(#[doc = $doc:literal])+ $name:ident($placeholder:literal): $kind:ty = $default:expr;)*) => {
        /// Everything that `sheaf server` can be told.
        #[derive(Debug, Clone, PartialEq)]
        pub struct ServerConfig {
            $($(#[doc = $doc])+ pub $name: $kind,)*
        }

        impl Default for ServerConfig {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl ServerConfig {
            /// All keys, in the order of the reference.
            pub fn keys() -> Vec<Key> {
                let defaults = Self::default();
                vec![$(Key {
                    name: stringify!($name),
                    placeholder: $placeholder,
                    description: concat!($($doc,)+).trim_ascii(),
                    default: defaults.$name.texts().join(":"),
                    arity: <$kind as ConfigField>::ARITY,
                },)*]
            }

            /// What each key holds, as texts that read as the same again; a secret is not among them.
            fn texts(&self) -> Vec<(&'static str, Vec<String>)> {
                vec![$((stringify!($name), ConfigField::texts(&self.$name)),)*]
            }

            /// Reads one key. The key must be one of [`Self::keys`].
            fn read(&mut self, key: &str, from: Source, texts: &[String]) -> Result<(), ConfigError> {
                $(if key == stringify!($name) {
                    self.$name = <$kind as ConfigField>::read(texts).ok_or_else(|| ConfigError::Value {
                        key: stringify!($name),
                        from,
                        value: texts.join(":"),
                        expected: <$kind as ConfigField>::EXPECTED,
                    })?;
                    return Ok(());
                })*
                unreachable!("{key:?} is not a configuration key")
            }
        }
    };
}

server_config! {
    /// What the node does: take statements and run tasks in one process, only take statements, or only run tasks.
    role("all|coordinator|worker"): Role = Role::All;
    /// The node's name in EXPLAIN, system.nodes and errors; by default the host's name and the Flight port.
    node_name("NAME"): Option<String> = None;
    /// The folder of everything that the node keeps: its catalog, its spill files, its lock.
    data_dir("DIR"): PathBuf = PathBuf::from("sheaf-data");
    /// Where managed tables are kept: a folder that every node sees under this path, or the URL of a bucket or a folder in it; by default the folder tables in the data folder.
    table_root("DIR|URL"): Option<String> = None;
    /// Where MySQL clients connect; port 0 takes a free one. A worker does not open it.
    mysql_listen("HOST:PORT"): HostPort = HostPort::new("127.0.0.1", 3307);
    /// Where the other nodes connect (Arrow Flight); port 0 takes a free one. Beyond loopback it needs a secret.
    flight_listen("HOST:PORT"): HostPort = HostPort::new("127.0.0.1", 9090);
    /// Where health and metrics are served over HTTP; port 0 takes a free one.
    http_listen("HOST:PORT"): HostPort = HostPort::new("127.0.0.1", 8080);
    /// The Flight address that the other nodes are told, where it differs from the one listened on.
    advertise_address("HOST[:PORT]"): Option<Advertise> = None;
    /// Flight addresses of coordinators of the cluster to join, tried in turn, separated by commas; a name may have many addresses. As a worker, or as one more coordinator that keeps the metadata too.
    join("HOST:PORT"): Vec<HostPort> = Vec::new();
    /// How long a node tries to join before it gives up.
    join_timeout("TIME"): Duration = Duration::from_secs(60);
    /// Flight addresses of workers that a coordinator looks for by itself, separated by commas; a name may have many addresses and is looked up again every few seconds. Such workers need no --join.
    workers("HOST:PORT"): Vec<HostPort> = Vec::new();
    /// The secret that every node of the cluster shares; needed as soon as one listens beyond loopback, unless nodes have certificates.
    secret("TEXT"): Option<Secret> = None;
    /// A file that holds the secret, instead of the secret itself.
    secret_file("FILE"): Option<PathBuf> = None;
    /// This node's certificate for the other nodes, as PEM, with those between it and the authority's; with it, nodes speak TLS 1.3 and let in only those who show such a certificate.
    cluster_tls_cert("FILE"): Option<PathBuf> = None;
    /// The private key of that certificate, as PEM.
    cluster_tls_key("FILE"): Option<PathBuf> = None;
    /// The certificates of the authority that signed every node's, as PEM.
    cluster_tls_ca("FILE"): Option<PathBuf> = None;
    /// The password that root gets at the first start, or when it has none; then root may log in from everywhere.
    root_password("TEXT"): Option<Secret> = None;
    /// A file that holds root's first password, instead of the password itself.
    root_password_file("FILE"): Option<PathBuf> = None;
    /// Let MySQL clients from other machines in as root while root has no password.
    insecure("true|false"): bool = false;
    /// The certificate that MySQL clients are shown, as PEM; by default one is made at the first start.
    tls_cert("FILE"): Option<PathBuf> = None;
    /// The private key of the certificate, as PEM.
    tls_key("FILE"): Option<PathBuf> = None;
    /// Refuse MySQL clients that do not speak TLS.
    require_secure_transport("true|false"): bool = false;
    /// How many MySQL clients may be connected at once.
    max_connections("N"): usize = 1_000;
    /// The threads that run queries; 0 takes every core of the machine or container.
    cores("N"): usize = 0;
    /// The memory of queries, in bytes or as a share of the machine's or container's.
    memory("SIZE"): MemorySize = MemorySize::Percent(75);
    /// The tasks that may run on the node at a time; queries that would need more wait. 0 takes 32 for each core.
    task_slots("N"): usize = 0;
    /// The disk space that spill files of operators and exchanges may take under the data folder.
    spill_limit("SIZE"): ByteSize = ByteSize(100 << 30);
    /// What the node keeps on its own disk of the files that it read from object stores; 0 keeps nothing.
    cache_size("SIZE"): ByteSize = ByteSize(10 << 30);
    /// The folder of that cache, one for each node; by default the folder cache in the data folder.
    cache_dir("DIR"): Option<PathBuf> = None;
    /// A folder whose files statements may read, beside the data folder; by default the folder where the server is started.
    allow_root("DIR"): Vec<PathBuf> = Vec::new();
    /// The number of the coordinator that begins a cluster, part of its query and connection ids; those that join it are given theirs.
    coordinator_no("N"): u16 = 1;
    /// How often a worker tells each coordinator that it is alive.
    heartbeat_interval("TIME"): Duration = Duration::from_millis(500);
    /// How long a coordinator waits without a heartbeat until it counts a worker as lost.
    worker_lost_after("TIME"): Duration = Duration::from_secs(5);
    /// How long a node that was told to leave (SIGTERM, or ALTER CLUSTER DRAIN NODE for a worker) lets its queries run before it ends them.
    drain_timeout("TIME"): Duration = Duration::from_secs(60);
    /// Let SET fault_injection make tasks of this node fail, and the node itself: for tests of the server only.
    allow_fault_injection("true|false"): bool = false;
    /// Take part as another build of the server than this one: for tests of upgrades only, together with allow_fault_injection.
    test_build_id("TEXT"): Option<String> = None;
    /// How long a stopping node waits for its queries and connections to end.
    stop_timeout("TIME"): Duration = Duration::from_secs(5);
    /// Make functions known that fail on purpose, on every node alike. For tests of the server only.
    test_functions("true|false"): bool = false;
    /// Which log records are written: a level, or levels by module such as info,sheaf_query=debug.
    log("FILTER"): String = "info".to_owned();
    /// How log records are written to standard error.
    log_format("text|json"): LogFormat = LogFormat::Text;
}

/// Connection ids have twenty bits for the connection.
const CONNECTIONS_MAX: usize = (1 << 20) - 1;
/// Keys whose value may stand in a file of its own, and the keys that name that file.
const SECRETS: [(&str, &str); 2] = [("secret", "secret_file"), ("root_password", "root_password_file")];
/// The least memory with which a query does anything useful.
const MEMORY_MIN: u64 = 64 << 20;
/// Connection ids have twelve bits for it.
const COORDINATOR_MAX: u16 = (1 << 12) - 1;
/// More threads than any machine has cores is a mistyped number.
const CORES_MAX: usize = 4096;

impl ServerConfig {
    /// The configuration from flags (key and texts), environment (name and text) and file, validated.
    ///
    /// Variables that do not begin with `SHEAF_` are not looked at. One that does and is no key is refused when it
    /// looks like a mistyped one, and else left alone: orchestrators set variables named after services.
    pub fn load(
        flags: &[(String, Vec<String>)],
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        Self::load_with_sources(flags, environment, file).map(|(config, _)| config)
    }

    /// As [`Self::load`]; and where the value of each key came from that is not at its default.
    pub fn load_with_sources(
        flags: &[(String, Vec<String>)],
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<(Self, Sources), ConfigError> {
        let mut config = Self::default();
        let mut origins = Sources::new();
        let keys = Self::keys();
        let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
        // Where each of these came from: a secret and the file that may hold it.
        let mut sources = [Source::Default; SECRETS.len() * 2];
        let mut read = |key: &str, from: Source, texts: &[String]| {
            for (n, (secret, file)) in SECRETS.iter().enumerate() {
                if key == *secret {
                    sources[2 * n] = from;
                } else if key == *file {
                    sources[2 * n + 1] = from;
                }
            }
            origins.insert(key.to_owned(), from);
            config.read(key, from, texts)
        };

        if let Some(path) = file {
            for (key, texts) in read_file(path)? {
                if !names.contains(&key.as_str()) {
                    let nearest = nearest_name(&key, names.iter().copied()).map(str::to_owned);
                    return Err(ConfigError::UnknownKey { path: path.to_owned(), key, nearest });
                }
                read(&key, Source::File, &texts)?;
            }
        }
        for (name, text) in environment {
            let Some(key) = name.strip_prefix("SHEAF_").map(str::to_ascii_lowercase) else { continue };
            match keys.iter().find(|it| it.name == key) {
                Some(Key { arity: Arity::Many, name, .. }) => {
                    let texts: Vec<String> = text.split(':').map(str::to_owned).collect();
                    read(name, Source::Environment, &texts)?;
                }
                Some(known) => read(known.name, Source::Environment, &[text])?,
                None => {
                    let typo = names.iter().find(|it| strsim::damerau_levenshtein(it, &key) == 1);
                    if let Some(nearest) = typo {
                        return Err(ConfigError::UnknownVariable { name, nearest: variable_name(nearest) });
                    }
                }
            }
        }
        for (key, texts) in flags {
            read(key, Source::Flag, texts)?;
        }

        let pairs =
            [(&mut config.secret, &config.secret_file), (&mut config.root_password, &config.root_password_file)];
        for (n, (secret, file)) in pairs.into_iter().enumerate() {
            let (secret_from, file_from) = (sources[2 * n], sources[2 * n + 1]);
            let Some(path) = file else { continue };
            if secret.is_none() || file_from > secret_from {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::SecretFile { path: path.clone(), source })?;
                let read = Secret::new(&text).ok_or_else(|| ConfigError::SecretFileEmpty { path: path.clone() })?;
                *secret = Some(read);
            } else if file_from == secret_from {
                let (key, file_key) = SECRETS[n];
                return Err(ConfigError::Refused(format!("{key} and {file_key} cannot both be given")));
            }
        }
        config.validate()?;
        Ok((config, origins))
    }

    /// The configuration as a TOML file that reads as the same again, but for the secret, which is left out. Each line
    /// says where its value came from.
    pub fn to_toml(&self, sources: &Sources, file: Option<&Path>) -> String {
        let keys = Self::keys();
        let lines = self.texts().into_iter().zip(keys).map(|((name, texts), key)| {
            let from = sources.get(name).copied().unwrap_or(Source::Default);
            let origin = match from {
                Source::Default => from.to_string(),
                Source::File => format!("{from} {}", file.unwrap_or(Path::new("?")).display()),
                Source::Environment | Source::Flag => format!("{from} {}", from.of(name)),
            };
            // What a secret shows of itself.
            if texts == ["***"] {
                // One that nobody gave was read from the file that another key names.
                let origin = if from == Source::Default { format!("{name}_file") } else { origin };
                return (format!("# {name} is set and not shown"), origin);
            }
            let quoted = |text: &String| toml::Value::String(text.clone()).to_string();
            let value = match (key.arity, texts.as_slice()) {
                (Arity::Many | Arity::List, texts) => {
                    format!("[{}]", texts.iter().map(quoted).collect::<Vec<_>>().join(", "))
                }
                (_, [text]) if text.parse::<i64>().is_ok() || text.parse::<bool>().is_ok() => text.clone(),
                (_, [text]) => quoted(text),
                _ => quoted(&String::new()),
            };
            (format!("{name} = {value}"), origin)
        });
        let lines: Vec<(String, String)> = lines.collect();
        let width = lines.iter().map(|(value, _)| value.len()).max().unwrap_or(0);
        lines.into_iter().map(|(value, origin)| format!("{value:<width$}  # {origin}\n")).collect()
    }

    /// Refuses what cannot run, before anything was opened or written.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refused = |message: String| Err(ConfigError::Refused(message));
        for (key, places) in [("join", &self.join), ("workers", &self.workers)] {
            if let Some(place) = places.iter().find(|it| it.port == 0) {
                return refused(format!("{key} address {place} has no port"));
            }
        }
        if !self.workers.is_empty() && !self.role.takes_statements() {
            return refused("workers are looked for by coordinators: role worker takes no --workers".to_owned());
        }
        let tls = [&self.cluster_tls_cert, &self.cluster_tls_key, &self.cluster_tls_ca];
        let n_given = tls.iter().filter(|it| it.is_some()).count();
        if n_given != 0 && n_given != tls.len() {
            return refused(
                "cluster_tls_cert, cluster_tls_key and cluster_tls_ca are given together or not at all".to_owned(),
            );
        }
        if !self.flight_listen.is_loopback() && self.secret.is_none() && n_given == 0 {
            return refused(format!(
                "flight_listen {} is beyond loopback and no cluster secret is set: give --secret-file, or SHEAF_SECRET, \
                 or certificates by --cluster-tls-cert",
                self.flight_listen
            ));
        }
        if self.test_build_id.is_some() && !self.allow_fault_injection {
            return refused(
                "test_build_id is for tests of the server, together with allow_fault_injection only".to_owned(),
            );
        }
        if self.max_connections == 0 || self.max_connections > CONNECTIONS_MAX {
            let found = self.max_connections;
            return refused(format!("max_connections cannot be {found}: from 1 to {CONNECTIONS_MAX}"));
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return refused("tls_cert and tls_key are given together or not at all".to_owned());
        }
        if let Some(name) = &self.node_name {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
            if name.len() > 128 || !name.chars().all(fits) {
                return refused(format!("node name {name:?} must be at most 128 letters, digits and . - _ :"));
            }
        }
        if self.cores > CORES_MAX {
            return refused(format!("cores cannot be {}: at most {CORES_MAX}", self.cores));
        }
        if self.coordinator_no > COORDINATOR_MAX {
            return refused(format!("coordinator_no cannot be {}: at most {COORDINATOR_MAX}", self.coordinator_no));
        }
        if let MemorySize::Bytes(bytes) = self.memory
            && bytes.0 < MEMORY_MIN
        {
            return refused(format!("memory cannot be {bytes}: at least {}", ByteSize(MEMORY_MIN)));
        }
        if self.heartbeat_interval.is_zero() || self.worker_lost_after < 2 * self.heartbeat_interval {
            return refused(format!(
                "worker_lost_after {} must be at least twice heartbeat_interval {}",
                self.worker_lost_after.show(),
                self.heartbeat_interval.show()
            ));
        }
        Ok(())
    }
}

/// The keys of a TOML file with their texts.
fn read_file(path: &Path) -> Result<Vec<(String, Vec<String>)>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::FileUnreadable { path: path.to_owned(), source })?;
    let table: toml::Table = toml::from_str(&text)
        .map_err(|source| ConfigError::NotToml { path: path.to_owned(), source: Box::new(source) })?;
    let text_of = |value: &toml::Value| match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let texts_of = |value: &toml::Value| match value {
        toml::Value::Array(items) => items.iter().map(text_of).collect(),
        other => vec![text_of(other)],
    };
    Ok(table.iter().map(|(key, value)| (key.clone(), texts_of(value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(pairs: &[(&str, &str)]) -> Vec<(String, Vec<String>)> {
        pairs.iter().map(|(key, text)| ((*key).to_owned(), vec![(*text).to_owned()])).collect()
    }

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    /// A file in the folder of the test's temporary files, named after the test.
    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("sheaf-config-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn refusal(flag: &[(&str, &str)]) -> String {
        ServerConfig::load(&flags(flag), [], None).unwrap_err().to_string()
    }

    #[test]
    fn the_example_file_is_the_defaults() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker/sheaf.example.toml");
        assert_eq!(ServerConfig::load(&[], [], Some(&path)).unwrap(), ServerConfig::default());
        let named: Vec<String> = read_file(&path).unwrap().into_iter().map(|(key, _)| key).collect();
        for key in ServerConfig::keys() {
            assert!(named.iter().any(|it| it == key.name), "the example file lacks {}", key.name);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let prose: String = text.lines().filter_map(|line| line.strip_prefix('#')).collect();
        for key in ServerConfig::keys() {
            assert!(prose.contains(key.description), "the example file does not explain {}", key.name);
        }
    }

    #[test]
    fn flags_outrank_environment_outranks_file() {
        let path =
            file("rank.toml", "cores = 1\nmemory = \"1GiB\"\njoin_timeout = \"5s\"\nallow_root = [\"/a\", \"/b\"]");
        let variables = environment(&[("SHEAF_CORES", "2"), ("SHEAF_MEMORY", "2GiB"), ("HOME", "/root")]);
        let config = ServerConfig::load(&flags(&[("cores", "3")]), variables, Some(&path)).unwrap();
        assert_eq!(config.cores, 3);
        assert_eq!(config.memory, MemorySize::Bytes(ByteSize(2 << 30)));
        assert_eq!(config.join_timeout, Duration::from_secs(5));
        assert_eq!(config.allow_root, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(config.http_listen, ServerConfig::default().http_listen);
    }

    #[test]
    fn a_wrong_key_is_named_with_its_nearest() {
        let path = file("key.toml", "mysql-listn = \"127.0.0.1:1\"");
        let error = ServerConfig::load(&[], [], Some(&path)).unwrap_err().to_string();
        assert!(error.contains("unknown key \"mysql-listn\""), "{error}");
        assert!(error.ends_with("did you mean mysql_listen?"), "{error}");
        let error = ServerConfig::load(&[], environment(&[("SHEAF_CORSE", "1")]), None).unwrap_err().to_string();
        assert_eq!(error, "unknown environment variable SHEAF_CORSE, did you mean SHEAF_CORES?");
        // Set by orchestrators for a service named sheaf: not ours to refuse.
        ServerConfig::load(&[], environment(&[("SHEAF_SERVICE_HOST", "10.0.0.1")]), None).unwrap();
    }

    #[test]
    fn a_wrong_value_is_named_as_it_was_written() {
        assert_eq!(refusal(&[("cores", "many")]), "--cores cannot be \"many\": expected a whole number");
        let error = ServerConfig::load(&[], environment(&[("SHEAF_ROLE", "boss")]), None).unwrap_err().to_string();
        assert_eq!(error, "SHEAF_ROLE cannot be \"boss\": expected all, coordinator or worker");
        let path = file("value.toml", "memory = true");
        let error = ServerConfig::load(&[], [], Some(&path)).unwrap_err().to_string();
        assert!(error.starts_with("memory cannot be \"true\": expected a size"), "{error}");
    }

    #[test]
    fn what_cannot_run_is_refused() {
        for (flags, words) in [
            (&[("join", "127.0.0.1:0")][..], "has no port"),
            (&[("join", "a:1,b")], "several separated by commas"),
            (&[("role", "worker"), ("workers", "a:1")], "role worker takes no --workers"),
            (&[("cluster_tls_cert", "a.pem")], "given together"),
            (&[("test_build_id", "other")], "allow_fault_injection"),
            (&[("flight_listen", "0.0.0.0:9090")], "no cluster secret"),
            (&[("tls_key", "k.pem")], "together"),
            (&[("max_connections", "0")], "from 1 to"),
            (&[("memory", "1MiB")], "at least 64MiB"),
            (&[("worker_lost_after", "500ms")], "at least twice"),
            (&[("node_name", "a name")], "node name \"a name\""),
            (&[("secret", "s"), ("secret_file", "f")], "secret and secret_file cannot both be given"),
            (&[("root_password", "p"), ("root_password_file", "f")], "root_password_file cannot both be given"),
        ] {
            let error = refusal(flags);
            assert!(error.contains(words), "{error}");
        }
        ServerConfig::load(&flags(&[("flight_listen", "0.0.0.0:9090"), ("secret", "hush")]), [], None).unwrap();
    }

    #[test]
    fn a_secret_file_is_read_and_outranks_what_stands_below() {
        let secret = file("secret", "from file\n");
        let given = flags(&[("secret_file", secret.to_str().unwrap())]);
        let config = ServerConfig::load(&given, environment(&[("SHEAF_SECRET", "from env")]), None).unwrap();
        assert_eq!(config.secret.unwrap().expose(), "from file");
        let given = flags(&[("root_password_file", secret.to_str().unwrap())]);
        let config = ServerConfig::load(&given, [], None).unwrap();
        assert_eq!((config.root_password.unwrap().expose(), config.secret), ("from file", None));
        let missing = flags(&[("secret_file", "/no/such/file")]);
        let error = ServerConfig::load(&missing, [], None).unwrap_err().to_string();
        assert_eq!(error, "cannot read secret file \"/no/such/file\"");
    }

    #[test]
    fn what_is_printed_reads_as_the_same_and_says_where_it_came_from() {
        let path = file("print.toml", "cores = 1\nallow_root = [\"/a b\", \"/c\"]");
        let variables = environment(&[("SHEAF_MEMORY", "2GiB"), ("SHEAF_SECRET", "hush")]);
        let given = flags(&[("node_name", "n-1"), ("insecure", "true")]);
        let (config, sources) = ServerConfig::load_with_sources(&given, variables, Some(&path)).unwrap();
        let printed = config.to_toml(&sources, Some(&path));
        assert!(!printed.contains("hush"), "{printed}");
        let line = |key: &str| printed.lines().find(|line| line.starts_with(key)).unwrap();
        assert!(line("cores = 1").ends_with(&format!("# file {}", path.display())), "{printed}");
        assert!(line("memory = \"2GiB\"").ends_with("# environment SHEAF_MEMORY"), "{printed}");
        assert!(line("node_name = \"n-1\"").ends_with("# flag --node-name"), "{printed}");
        assert!(line("log = \"info\"").ends_with("# default"), "{printed}");
        assert!(line("# secret is set").ends_with("# environment SHEAF_SECRET"), "{printed}");
        let again = ServerConfig::load(&flags(&[("secret", "hush")]), [], Some(&file("again.toml", &printed))).unwrap();
        assert_eq!(again, config);
        assert_eq!(ServerConfig::keys().len(), printed.lines().count());
    }

    #[test]
    fn empty_means_unset() {
        let config =
            ServerConfig::load(&[], environment(&[("SHEAF_JOIN", ""), ("SHEAF_ALLOW_ROOT", "")]), None).unwrap();
        assert_eq!(config, ServerConfig::default());
    }
}
