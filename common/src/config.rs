//! The server's configuration: one list makes the struct, its flags, its environment variables, the keys of its file
//! and their help.
//!
//! A key `mysql_listen` is the flag `--mysql-listen`, the variable `SHEAF_MYSQL_LISTEN` and `mysql_listen = "…"` in the
//! TOML file. Flags outrank the environment, which outranks the file, which outranks the default. An empty text is
//! the same as no value where a key may have none.

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
    /// Where MySQL clients connect; port 0 takes a free one. A worker does not open it.
    mysql_listen("HOST:PORT"): HostPort = HostPort::new("127.0.0.1", 3307);
    /// Where the other nodes connect (Arrow Flight); port 0 takes a free one. Beyond loopback it needs a secret.
    flight_listen("HOST:PORT"): HostPort = HostPort::new("127.0.0.1", 9090);
    /// Where health and metrics are served over HTTP; port 0 takes a free one.
    http_listen("HOST:PORT"): HostPort = HostPort::new("127.0.0.1", 8080);
    /// The Flight address that the other nodes are told, where it differs from the one listened on.
    advertise_address("HOST[:PORT]"): Option<Advertise> = None;
    /// The Flight address of the coordinator that a worker joins.
    join("HOST:PORT"): Option<HostPort> = None;
    /// How long a worker tries to join before it gives up.
    join_timeout("TIME"): Duration = Duration::from_secs(60);
    /// The secret that every node of the cluster shares; needed as soon as one listens beyond loopback.
    secret("TEXT"): Option<Secret> = None;
    /// A file that holds the secret, instead of the secret itself.
    secret_file("FILE"): Option<PathBuf> = None;
    /// Let MySQL clients from other machines in, although no password is asked for yet.
    insecure("true|false"): bool = false;
    /// The threads that run queries; 0 takes every core of the machine or container.
    cores("N"): usize = 0;
    /// The memory of queries, in bytes or as a share of the machine's or container's.
    memory("SIZE"): MemorySize = MemorySize::Percent(75);
    /// The disk space that spill files of operators and exchanges may take under the data folder.
    spill_limit("SIZE"): ByteSize = ByteSize(100 << 30);
    /// A folder whose files statements may read, beside the data folder; by default the folder where the server is started.
    allow_root("DIR"): Vec<PathBuf> = Vec::new();
    /// The coordinator's number, different for each coordinator of a cluster: part of its query and connection ids.
    coordinator_no("N"): u16 = 1;
    /// How often a worker tells its coordinator that it is alive.
    heartbeat_interval("TIME"): Duration = Duration::from_millis(500);
    /// How long a coordinator waits without a heartbeat until it counts a worker as lost.
    worker_lost_after("TIME"): Duration = Duration::from_secs(5);
    /// How long a stopping node waits for its queries and connections to end.
    stop_timeout("TIME"): Duration = Duration::from_secs(5);
    /// Which log records are written: a level, or levels by module such as info,sheaf_query=debug.
    log("FILTER"): String = "info".to_owned();
    /// How log records are written to standard error.
    log_format("text|json"): LogFormat = LogFormat::Text;
}

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
        let mut config = Self::default();
        let keys = Self::keys();
        let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
        let mut secret_from = Source::Default;
        let mut secret_file_from = Source::Default;
        let mut read = |key: &str, from: Source, texts: &[String]| {
            match key {
                "secret" => secret_from = from,
                "secret_file" => secret_file_from = from,
                _ => {}
            }
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

        if let (Some(path), true) = (&config.secret_file, config.secret.is_none() || secret_file_from > secret_from) {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::SecretFile { path: path.clone(), source })?;
            let secret = Secret::new(&text).ok_or_else(|| ConfigError::SecretFileEmpty { path: path.clone() })?;
            config.secret = Some(secret);
        } else if config.secret_file.is_some() && secret_file_from == secret_from {
            return Err(ConfigError::Refused("secret and secret_file cannot both be given".to_owned()));
        }
        config.validate()?;
        Ok(config)
    }

    /// Refuses what cannot run, before anything was opened or written.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refused = |message: String| Err(ConfigError::Refused(message));
        match (self.role, &self.join) {
            (Role::Worker, None) => {
                return refused("role worker needs --join HOST:PORT, the Flight address of its coordinator".to_owned());
            }
            (Role::All | Role::Coordinator, Some(join)) => {
                return refused(format!("role {} cannot join {join}: only a worker does (--role worker)", self.role));
            }
            (Role::Worker, Some(join)) if join.port == 0 => {
                return refused(format!("join address {join} has no port"));
            }
            _ => {}
        }
        if !self.flight_listen.is_loopback() && self.secret.is_none() {
            return refused(format!(
                "flight_listen {} is beyond loopback and no cluster secret is set: give --secret-file, or SHEAF_SECRET",
                self.flight_listen
            ));
        }
        if self.role.takes_statements() && !self.mysql_listen.is_loopback() && !self.insecure {
            return refused(format!(
                "mysql_listen {} is beyond loopback and no password is asked for yet: give --insecure to let everyone \
                 in who reaches the port",
                self.mysql_listen
            ));
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
            (&[("role", "worker")][..], "needs --join"),
            (&[("join", "127.0.0.1:9090")], "only a worker"),
            (&[("flight_listen", "0.0.0.0:9090")], "no cluster secret"),
            (&[("mysql_listen", "0.0.0.0:3307")], "--insecure"),
            (&[("memory", "1MiB")], "at least 64MiB"),
            (&[("worker_lost_after", "500ms")], "at least twice"),
            (&[("node_name", "a name")], "node name \"a name\""),
            (&[("secret", "s"), ("secret_file", "f")], "cannot both be given"),
        ] {
            let error = refusal(flags);
            assert!(error.contains(words), "{error}");
        }
        ServerConfig::load(&flags(&[("flight_listen", "0.0.0.0:9090"), ("secret", "hush")]), [], None).unwrap();
        ServerConfig::load(&flags(&[("mysql_listen", "0.0.0.0:3307"), ("insecure", "true")]), [], None).unwrap();
    }

    #[test]
    fn a_secret_file_is_read_and_outranks_what_stands_below() {
        let secret = file("secret", "from file\n");
        let given = flags(&[("secret_file", secret.to_str().unwrap())]);
        let config = ServerConfig::load(&given, environment(&[("SHEAF_SECRET", "from env")]), None).unwrap();
        assert_eq!(config.secret.unwrap().expose(), "from file");
        let missing = flags(&[("secret_file", "/no/such/file")]);
        let error = ServerConfig::load(&missing, [], None).unwrap_err().to_string();
        assert_eq!(error, "cannot read secret file \"/no/such/file\"");
    }

    #[test]
    fn empty_means_unset() {
        let config =
            ServerConfig::load(&[], environment(&[("SHEAF_JOIN", ""), ("SHEAF_ALLOW_ROOT", "")]), None).unwrap();
        assert_eq!(config, ServerConfig::default());
    }
}
