//! The registry of session settings: one list makes the struct, `SET`, `SHOW SETTINGS` and the reference page.
//!
//! These are SheafDB's own settings. MySQL's system variables live with the sessions, which know the protocol.

/// Why a `SET` was refused. Always the client's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    #[error("setting {name:?} does not exist")]
    Unknown { name: String },
    #[error("setting {name:?} cannot be set to {value:?}: expected {expected}")]
    Value { name: &'static str, value: String, expected: &'static str },
}

/// How a setting's type reads and shows its values.
trait SettingValue: Sized {
    const EXPECTED: &'static str;
    fn parse(text: &str) -> Option<Self>;
    fn show(&self) -> String;
}

impl SettingValue for u64 {
    const EXPECTED: &'static str = "a whole number";
    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for bool {
    const EXPECTED: &'static str = "on or off";
    fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "1" | "on" | "true" => Some(true),
            "0" | "off" | "false" => Some(false),
            _ => None,
        }
    }
    fn show(&self) -> String {
        if *self { "on" } else { "off" }.to_owned()
    }
}

impl SettingValue for String {
    const EXPECTED: &'static str = "text";
    fn parse(text: &str) -> Option<Self> {
        Some(text.trim().to_owned())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

/// A setting whose values are words: the enum, and how its words are read and shown.
macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident: $expected:literal { $($(#[doc = $word_doc:literal])+ $variant:ident = $word:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $word_doc])+ $variant,)+
        }

        impl SettingValue for $name {
            const EXPECTED: &'static str = $expected;
            fn parse(text: &str) -> Option<Self> {
                $(if text.trim().eq_ignore_ascii_case($word) {
                    return Some(Self::$variant);
                })+
                None
            }
            fn show(&self) -> String {
                match self {
                    $(Self::$variant => $word,)+
                }
                .to_owned()
            }
        }
    };
}

words! {
    /// How rows pass from task to task.
    ExchangeLink: "auto, local, uds or tcp" {
        /// The fastest that there is: the first of the others that is possible.
        Auto = "auto",
        /// By reference, within a process.
        Local = "local",
        /// Over a Unix socket, within a host.
        Uds = "uds",
        /// Over the network.
        Tcp = "tcp",
    }
}

words! {
    /// What packs rows on their way over the network.
    ExchangeCompression: "off, lz4 or zstd" {
        /// They go as they are in memory.
        Off = "off",
        /// Fast.
        Lz4 = "lz4",
        /// Small.
        Zstd = "zstd",
    }
}

words! {
    /// How a join runs that DataFusion would do by hash.
    JoinStrategy: "auto, hash, split or sort" {
        /// By hash; where memory is refused, split; where that does not suffice, by sorting.
        Auto = "auto",
        /// By hash, all partitions at once, whatever it takes.
        Hash = "hash",
        /// By hash, in many small partitions, of which only as many run at a time as there are cores.
        Split = "split",
        /// By sorting both sides, which can spill.
        Sort = "sort",
    }
}

words! {
    /// What a statement knows of databases, tables and the like.
    MetadataReads: "latest or local" {
        /// All that any coordinator acknowledged before the statement began.
        Latest = "latest",
        /// What this coordinator has, which may be behind.
        Local = "local",
    }
}

/// One row of `SHOW SETTINGS` and of `system.settings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingRow {
    pub name: &'static str,
    pub value: String,
    pub default: String,
    pub description: &'static str,
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:expr;)*) => {
        /// The settings of one session. A query works on the copy that it took at its start.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $name: $kind,)*
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Settings {
            /// Whether a setting of this name exists; names are not case-sensitive.
            pub fn contains(name: &str) -> bool {
                [$(stringify!($name)),*].iter().any(|it| it.eq_ignore_ascii_case(name))
            }

            /// Sets one setting from its text.
            ///
            /// Errs when no setting has this name or the text is not a value of its type; nothing is changed then.
            pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingError> {
                $(if name.eq_ignore_ascii_case(stringify!($name)) {
                    self.$name = <$kind as SettingValue>::parse(value).ok_or_else(|| SettingError::Value {
                        name: stringify!($name),
                        value: value.to_owned(),
                        expected: <$kind as SettingValue>::EXPECTED,
                    })?;
                    return Ok(());
                })*
                Err(SettingError::Unknown { name: name.to_owned() })
            }

            /// The text of one setting's value, if it exists.
            pub fn get(&self, name: &str) -> Option<String> {
                $(if name.eq_ignore_ascii_case(stringify!($name)) {
                    return Some(self.$name.show());
                })*
                None
            }

            /// All settings, in the order of this file.
            pub fn rows(&self) -> Vec<SettingRow> {
                let defaults = Self::default();
                vec![$(SettingRow {
                    name: stringify!($name),
                    value: self.$name.show(),
                    default: defaults.$name.show(),
                    description: concat!($($doc,)+).trim_ascii(),
                },)*]
            }
        }
    };
}

settings! {
    /// A query runs where it arrived when its scans are estimated to read fewer bytes than this; 0 distributes whatever can be.
    min_distribute_bytes: u64 = 32 << 20;
    /// A leaf stage gets one task for each so many bytes that it reads, up to one a worker; 0 always takes every worker.
    bytes_per_task: u64 = 16 << 20;
    /// A join's build side is sent whole to every worker when it is estimated to be smaller than this many bytes.
    broadcast_bytes_max: u64 = 10 << 20;
    /// Threads, and so partitions, of one query on one node; 0 takes the cores that the node was given.
    max_threads: u64 = 0;
    /// Rows of one batch.
    batch_size: u64 = 8192;
    /// Bytes of one task's unread output at which its producer starts to wait for its consumers; with fault_tolerance on it never does.
    exchange_buffer_bytes: u64 = 16 << 20;
    /// How rows pass from task to task: auto takes the fastest way that there is; local (one process), uds (one host) and tcp force one, and are an error where it cannot be had.
    exchange_link: ExchangeLink = ExchangeLink::Auto;
    /// What packs rows that go over tcp: off, lz4 or zstd. Rows of the same host are never packed.
    exchange_compression: ExchangeCompression = ExchangeCompression::Off;
    /// Milliseconds for which files that were seen in an object store are taken to be those that are there; 0 looks each time.
    listing_ttl_ms: u64 = 10_000;
    /// Whether a query goes on when a worker is lost or a task fails for a passing reason: workers keep the output of tasks until the first row is with the client, on disk what memory cannot keep, and what is lost is run again.
    fault_tolerance: bool = true;
    /// Bytes of a result that the coordinator holds back, so that a loss can be made good until then; 0 sends rows at once.
    result_hold_back_bytes: u64 = 16 << 20;
    /// Milliseconds that a query waits for a worker when none is left to run it, before it ends with an error.
    worker_wait_ms: u64 = 30_000;
    /// Attempts at one task, the first included, after which its query ends with an error.
    task_attempts_max: u64 = 4;
    /// Times that a stage is run again because of what others lost, after which its query ends with an error.
    stage_restarts_max: u64 = 3;
    /// Times that anything of a query is run again, after which it ends with an error.
    query_restarts_max: u64 = 10;
    /// Whether a task that runs far beyond its siblings gets a second attempt on another worker; the one that is complete first is read. Only where no row of it has been read, every attempt gives the same rows and nothing is written.
    speculation: bool = true;
    /// A task runs far beyond its siblings when half of them are through and it has run this many times as long as the median of those.
    speculation_factor: u64 = 3;
    /// Milliseconds for which a task runs at least before it counts as far beyond its siblings.
    speculation_min_ms: u64 = 5000;
    /// Milliseconds after which a statement is ended with an error; 0 is no limit.
    max_execution_time: u64 = 0;
    /// Queries of one coordinator that may wait for room on the workers; one more ends with the error that the cluster is busy.
    admission_queue_length: u64 = 1000;
    /// Milliseconds that a query may wait for room on the workers before it ends with the error that the cluster is busy.
    admission_timeout_ms: u64 = 300_000;
    /// How joins by hash run: auto tries hash, then split, then sort when memory is refused; hash holds whole build sides; split makes many small partitions that run one after another; sort sorts both sides, which can spill.
    join_strategy: JoinStrategy = JoinStrategy::Auto;
    /// Milliseconds that a coordinator waits for a worker to accept a task, and a task for its input to be announced.
    task_start_timeout_ms: u64 = 30_000;
    /// Whether statements see every definition that any coordinator has acknowledged (latest), or make do with what this one knows (local), which works without a majority of coordinators.
    metadata_reads: MetadataReads = MetadataReads::Latest;
    /// Whether small files of managed tables are written together in the background, by the coordinator that leads the others; only what SET GLOBAL says counts.
    auto_compaction: bool = true;
    /// For tests of the server: faults that workers bring about in their tasks, see Operations; nodes refuse it unless allow_fault_injection lets them.
    fault_injection: String = String::new();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_reads_back() {
        let mut settings = Settings::default();
        settings.set("MIN_distribute_bytes", "0").unwrap();
        assert_eq!(settings.get("min_distribute_bytes").as_deref(), Some("0"));
        let row = &settings.rows()[0];
        assert_eq!((row.name, row.value.as_str(), row.default.as_str()), ("min_distribute_bytes", "0", "33554432"));
        assert!(row.description.starts_with("A query runs where"), "{}", row.description);
    }

    #[test]
    fn words_are_read_in_any_case() {
        let mut settings = Settings::default();
        assert_eq!(settings.get("exchange_link").as_deref(), Some("auto"));
        settings.set("exchange_link", "UDS").unwrap();
        settings.set("exchange_compression", "zstd").unwrap();
        assert_eq!(
            (settings.exchange_link, settings.exchange_compression),
            (ExchangeLink::Uds, ExchangeCompression::Zstd)
        );
        let error = settings.set("exchange_link", "carrier pigeon").unwrap_err();
        assert!(error.to_string().ends_with("expected auto, local, uds or tcp"), "{error}");
    }

    #[test]
    fn a_wrong_set_changes_nothing() {
        let mut settings = Settings::default();
        assert!(matches!(settings.set("no_such", "1"), Err(SettingError::Unknown { .. })));
        assert!(matches!(settings.set("batch_size", "many"), Err(SettingError::Value { .. })));
        assert_eq!(settings, Settings::default());
    }
}
