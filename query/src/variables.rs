//! MySQL's system variables: those that clients read or set, with values that are true of this server.
//!
//! SheafDB's own settings are not here; a session looks among those first.

use std::collections::BTreeMap;

use arrow::array::timezone::Tz;
use datafusion::common::ScalarValue;

use crate::error::QueryError;

/// What we announce: the version decides how drivers behave.
pub const MYSQL_VERSION: &str = concat!("8.4.0-sheafdb-", env!("CARGO_PKG_VERSION"));
pub const VERSION_COMMENT: &str = concat!("SheafDB ", env!("CARGO_PKG_VERSION"));

/// How a variable's text is read and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    /// 1 or 0 when selected, ON or OFF when shown.
    Switch,
    Text,
    /// A text that may be NULL.
    NullableText,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Tells of the server; setting it is an error.
    ReadOnly,
    /// May be set by a session.
    Settable,
}

#[derive(Debug)]
struct Definition {
    name: &'static str,
    kind: Kind,
    access: Access,
    default: &'static str,
}

macro_rules! variables {
    ($($name:ident $kind:ident $access:ident $default:expr;)*) => {
        /// Invariant: sorted by name.
        const DEFINITIONS: &[Definition] = &[$(Definition {
            name: stringify!($name),
            kind: Kind::$kind,
            access: Access::$access,
            default: $default,
        },)*];
    };
}

// `||` joins texts unless a session takes that out of its sql_mode; dates are never zero.
const SQL_MODE: &str = "PIPES_AS_CONCAT,ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,\
                        ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION";

variables! {
    activate_all_roles_on_login Switch Settable "0";
    auto_increment_increment Int Settable "1";
    auto_increment_offset Int Settable "1";
    autocommit Switch Settable "1";
    back_log Int ReadOnly "151";
    basedir Text ReadOnly "";
    big_tables Switch Settable "0";
    binlog_format Text Settable "ROW";
    bulk_insert_buffer_size Int Settable "8388608";
    character_set_client Text Settable "utf8mb4";
    character_set_connection Text Settable "utf8mb4";
    character_set_database Text Settable "utf8mb4";
    character_set_filesystem Text Settable "binary";
    character_set_results NullableText Settable "utf8mb4";
    character_set_server Text Settable "utf8mb4";
    character_set_system Text ReadOnly "utf8mb3";
    collation_connection Text Settable "utf8mb4_0900_ai_ci";
    collation_database Text Settable "utf8mb4_0900_ai_ci";
    collation_server Text Settable "utf8mb4_0900_ai_ci";
    connect_timeout Int ReadOnly "10";
    datadir Text ReadOnly "";
    default_authentication_plugin Text ReadOnly "caching_sha2_password";
    default_collation_for_utf8mb4 Text Settable "utf8mb4_0900_ai_ci";
    default_storage_engine Text Settable "SHEAF";
    default_week_format Int Settable "0";
    div_precision_increment Int Settable "4";
    explicit_defaults_for_timestamp Switch Settable "1";
    foreign_key_checks Switch Settable "1";
    group_concat_max_len Int Settable "1048576";
    have_openssl Text ReadOnly "DISABLED";
    have_profiling Text ReadOnly "NO";
    have_query_cache Text ReadOnly "NO";
    have_ssl Text ReadOnly "DISABLED";
    hostname Text ReadOnly "";
    information_schema_stats_expiry Int Settable "0";
    init_connect Text ReadOnly "";
    innodb_lock_wait_timeout Int Settable "50";
    innodb_read_only Switch ReadOnly "1";
    innodb_strict_mode Switch Settable "1";
    insert_id Int Settable "0";
    interactive_timeout Int Settable "28800";
    last_insert_id Int Settable "0";
    lc_messages Text Settable "en_US";
    lc_time_names Text Settable "en_US";
    license Text ReadOnly "Apache-2.0";
    local_infile Switch Settable "0";
    lock_wait_timeout Int Settable "31536000";
    log_bin Switch ReadOnly "0";
    long_query_time Text Settable "10.000000";
    lower_case_file_system Switch ReadOnly "0";
    lower_case_table_names Int ReadOnly "0";
    max_allowed_packet Int Settable "67108864";
    max_connections Int ReadOnly "10000";
    max_error_count Int Settable "1024";
    max_join_size Int Settable "18446744073709551615";
    max_prepared_stmt_count Int ReadOnly "16382";
    max_sort_length Int Settable "1024";
    max_user_connections Int Settable "0";
    net_buffer_length Int Settable "16384";
    net_read_timeout Int Settable "30";
    net_retry_count Int Settable "10";
    net_write_timeout Int Settable "60";
    old_passwords Int Settable "0";
    optimizer_switch Text Settable "";
    performance_schema Switch ReadOnly "0";
    port Int ReadOnly "3307";
    profiling Switch Settable "0";
    protocol_version Int ReadOnly "10";
    query_cache_limit Int ReadOnly "0";
    query_cache_size Int ReadOnly "0";
    query_cache_type Text Settable "OFF";
    read_only Switch ReadOnly "0";
    require_secure_transport Switch Settable "0";
    resultset_metadata Text Settable "FULL";
    secure_file_priv NullableText ReadOnly "NULL";
    server_id Int ReadOnly "1";
    server_uuid Text ReadOnly "00000000-0000-0000-0000-000000000000";
    session_track_gtids Text Settable "OFF";
    session_track_schema Switch Settable "1";
    session_track_state_change Switch Settable "0";
    session_track_system_variables Text Settable "time_zone,autocommit,character_set_client,character_set_results,character_set_connection";
    session_track_transaction_info Text Settable "OFF";
    show_create_table_verbosity Switch Settable "0";
    skip_name_resolve Switch ReadOnly "1";
    skip_networking Switch ReadOnly "0";
    socket Text ReadOnly "";
    sql_auto_is_null Switch Settable "0";
    sql_big_selects Switch Settable "1";
    sql_buffer_result Switch Settable "0";
    sql_log_bin Switch Settable "1";
    sql_log_off Switch Settable "0";
    sql_mode Text Settable SQL_MODE;
    sql_notes Switch Settable "1";
    sql_quote_show_create Switch Settable "1";
    sql_require_primary_key Switch Settable "0";
    sql_safe_updates Switch Settable "0";
    sql_select_limit Int Settable "18446744073709551615";
    sql_warnings Switch Settable "0";
    storage_engine Text Settable "SHEAF";
    super_read_only Switch ReadOnly "0";
    system_time_zone Text ReadOnly "UTC";
    thread_handling Text ReadOnly "one-thread-per-connection";
    time_zone Text Settable "SYSTEM";
    tls_version Text ReadOnly "TLSv1.2,TLSv1.3";
    tmp_table_size Int Settable "16777216";
    transaction_alloc_block_size Int Settable "8192";
    transaction_isolation Text Settable "REPEATABLE-READ";
    transaction_prealloc_size Int Settable "4096";
    transaction_read_only Switch Settable "0";
    unique_checks Switch Settable "1";
    version Text ReadOnly MYSQL_VERSION;
    version_comment Text ReadOnly VERSION_COMMENT;
    version_compile_machine Text ReadOnly std::env::consts::ARCH;
    version_compile_os Text ReadOnly "Linux";
    wait_timeout Int Settable "28800";
    warning_count Int ReadOnly "0";
    windowing_use_high_precision Switch Settable "1";
}

/// Those that only the server has, not a session.
const GLOBAL_ONLY: &[&str] = &["local_infile"];

/// Whether a variable can be set with `SET GLOBAL` only.
pub fn is_global_only(name: &str) -> bool {
    GLOBAL_ONLY.contains(&canonical(name).as_str())
}

/// Old names, and the ones that they mean.
const ALIASES: &[(&str, &str)] = &[
    ("tx_isolation", "transaction_isolation"),
    ("tx_read_only", "transaction_read_only"),
    ("identity", "last_insert_id"),
];

/// Beginnings of names that clients and dumps set for engines that are not here: accepted, without effect.
const HARMLESS: &[&str] = &[
    "binlog_",
    "gtid_",
    "histogram_",
    "innodb_",
    "insert_",
    "join_buffer",
    "keep_files",
    "key_buffer",
    "low_priority_updates",
    "max_heap_table_size",
    "max_length_for_sort_data",
    "max_statement_time",
    "max_tmp_tables",
    "min_examined_row_limit",
    "myisam_",
    "net_",
    "ndb_",
    "old_alter_table",
    "optimizer_",
    "performance_schema_",
    "preload_buffer_size",
    "profiling_",
    "pseudo_",
    "query_alloc_block_size",
    "query_cache_",
    "query_prealloc_size",
    "rand_seed",
    "range_",
    "read_buffer_size",
    "read_rnd_buffer_size",
    "secondary_engine",
    "select_into_",
    "session_track_",
    "slow_query_log",
    "sort_buffer_size",
    "system_versioning_",
    "terminology_",
    "thread_pool_",
    "time_format",
    "wsrep_",
    "xa_",
];

/// Character sets a session may name; whatever it names, texts are sent as UTF-8.
const CHARACTER_SETS: &[(&str, &str)] = &[
    ("ascii", "ascii_general_ci"),
    ("binary", "binary"),
    ("latin1", "latin1_swedish_ci"),
    ("utf8", "utf8mb3_general_ci"),
    ("utf8mb3", "utf8mb3_general_ci"),
    ("utf8mb4", "utf8mb4_0900_ai_ci"),
];

/// The collations of UTF-8 that clients name by number when they log in.
const LOGIN_COLLATIONS: &[(u16, &str, &str)] = &[
    (33, "utf8mb3", "utf8mb3_general_ci"),
    (45, "utf8mb4", "utf8mb4_general_ci"),
    (46, "utf8mb4", "utf8mb4_bin"),
    (224, "utf8mb4", "utf8mb4_unicode_ci"),
    (255, "utf8mb4", "utf8mb4_0900_ai_ci"),
];

/// Values of the variables of one session, or of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    /// Those that differ from their default, by canonical name. NULL is none.
    changed: BTreeMap<&'static str, Option<String>>,
}

/// What a `SET` came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Set,
    /// Accepted for the client's sake, without effect: worth a warning.
    Ignored,
}

fn canonical(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    match ALIASES.iter().find(|(alias, _)| *alias == lower) {
        Some((_, name)) => (*name).to_owned(),
        None => lower,
    }
}

fn definition(name: &str) -> Option<&'static Definition> {
    let name = canonical(name);
    let found = DEFINITIONS.binary_search_by(|it| it.name.cmp(name.as_str())).ok()?;
    Some(&DEFINITIONS[found])
}

impl Variables {
    fn text(&self, definition: &'static Definition) -> Option<String> {
        match self.changed.get(definition.name) {
            Some(value) => value.clone(),
            None if definition.kind == Kind::NullableText && definition.default == "NULL" => None,
            None => Some(definition.default.to_owned()),
        }
    }

    /// The value as `SELECT @@name` gives it; none if there is no such variable.
    pub fn get(&self, name: &str) -> Option<ScalarValue> {
        let definition = definition(name)?;
        let text = self.text(definition);
        Some(match definition.kind {
            Kind::Int | Kind::Switch => {
                let text = text.unwrap_or_default();
                match text.parse::<i64>() {
                    Ok(value) => ScalarValue::Int64(Some(value)),
                    Err(_) => ScalarValue::UInt64(text.parse().ok()),
                }
            }
            Kind::Text | Kind::NullableText => ScalarValue::Utf8(text),
        })
    }

    /// The text of a variable that is there by the rules of this file; NULL is empty.
    pub fn text_of(&self, name: &str) -> String {
        definition(name).and_then(|it| self.text(it)).unwrap_or_default()
    }

    pub fn is_on(&self, name: &str) -> bool {
        self.text_of(name) == "1"
    }

    /// All of them as `SHOW VARIABLES` gives them, in the order of their names.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let row = |it: &'static Definition| {
            let text = self.text(it).unwrap_or_default();
            let text = match (it.kind, text.as_str()) {
                (Kind::Switch, "1") => "ON".to_owned(),
                (Kind::Switch, _) => "OFF".to_owned(),
                _ => text,
            };
            (it.name, text)
        };
        let mut rows: Vec<_> = DEFINITIONS.iter().map(row).collect();
        for (alias, name) in ALIASES {
            if let Some((_, value)) = rows.iter().find(|(it, _)| it == name) {
                rows.push((alias, value.clone()));
            }
        }
        rows.sort_unstable_by_key(|(name, _)| *name);
        rows
    }

    /// Sets a variable to a value; `None` is `DEFAULT`, taken from `defaults` or else built in.
    ///
    /// Errs on unknown and read-only variables and on values that are none; nothing is changed then.
    pub fn set(
        &mut self,
        name: &str,
        value: Option<&ScalarValue>,
        defaults: Option<&Variables>,
    ) -> Result<Effect, QueryError> {
        let Some(definition) = definition(name) else {
            let lower = canonical(name);
            return match HARMLESS.iter().any(|it| lower.starts_with(it)) {
                true => Ok(Effect::Ignored),
                false => Err(QueryError::UnknownVariable { name: name.to_owned() }),
            };
        };
        if definition.access == Access::ReadOnly {
            return Err(QueryError::ReadOnlyVariable { name: definition.name.to_owned() });
        }
        let Some(value) = value else {
            match defaults.and_then(|it| it.changed.get(definition.name)) {
                Some(value) => self.changed.insert(definition.name, value.clone()),
                None => self.changed.remove(definition.name),
            };
            return Ok(Effect::Set);
        };
        let text = checked(definition, value)?;
        self.changed.insert(definition.name, text);
        Ok(Effect::Set)
    }

    /// Gives a variable the value that the server knows, read-only or not.
    pub fn announce(&mut self, name: &'static str, value: String) {
        if let Some(definition) = definition(name) {
            self.changed.insert(definition.name, Some(value));
        }
    }

    /// `SET NAMES`: the character set of what the client sends and gets; none is the default.
    pub fn set_names(&mut self, charset: Option<&str>, collation: Option<&str>) -> Result<(), QueryError> {
        let charset = charset.unwrap_or("utf8mb4").to_ascii_lowercase();
        let Some((_, default_collation)) = CHARACTER_SETS.iter().find(|(it, _)| *it == charset) else {
            return Err(QueryError::InvalidArgument(format!("unknown character set: '{charset}'")));
        };
        let collation = collation.map_or((*default_collation).to_owned(), str::to_ascii_lowercase);
        for name in ["character_set_client", "character_set_connection", "character_set_results"] {
            self.changed.insert(name, Some(charset.clone()));
        }
        self.changed.insert("collation_connection", Some(collation));
        Ok(())
    }

    /// As `SET NAMES` for a collation's number; others than those of UTF-8 change nothing.
    pub fn set_collation(&mut self, number: u16) {
        if let Some((_, charset, collation)) = LOGIN_COLLATIONS.iter().find(|it| it.0 == number) {
            for name in ["character_set_client", "character_set_connection", "character_set_results"] {
                self.changed.insert(name, Some((*charset).to_owned()));
            }
            self.changed.insert("collation_connection", Some((*collation).to_owned()));
        }
    }

    /// Whether `sql_mode` has a mode, its combinations taken apart.
    pub fn has_sql_mode(&self, mode: &str) -> bool {
        let modes = self.text_of("sql_mode");
        let mut modes = modes.split(',').map(str::trim);
        modes.any(|it| it == mode || (it == "ANSI" && matches!(mode, "ANSI_QUOTES" | "PIPES_AS_CONCAT")))
    }

    /// The session's time zone as the engine takes it. The server's own is UTC on every node.
    pub fn time_zone(&self) -> String {
        match self.text_of("time_zone") {
            zone if zone.eq_ignore_ascii_case("system") || zone.eq_ignore_ascii_case("utc") => "+00:00".to_owned(),
            zone => zone,
        }
    }
}

/// The text to keep for a value, or why it cannot be.
fn checked(definition: &'static Definition, value: &ScalarValue) -> Result<Option<String>, QueryError> {
    let wrong = |hint: &str| QueryError::WrongValue {
        name: definition.name.to_owned(),
        value: if value.is_null() { "NULL".to_owned() } else { value.to_string() },
        hint: hint.to_owned(),
    };
    if value.is_null() {
        return if definition.kind == Kind::NullableText { Ok(None) } else { Err(wrong("")) };
    }
    let text = match value {
        ScalarValue::Boolean(Some(value)) => i64::from(*value).to_string(),
        other => other.to_string(),
    };
    let text = match definition.kind {
        Kind::Int => match text.trim().parse::<i128>() {
            // As MySQL does it, what is too small becomes the smallest.
            Ok(number) => number.clamp(0, i128::from(u64::MAX)).to_string(),
            Err(_) => return Err(wrong(": expected a whole number")),
        },
        Kind::Switch => match text.trim().to_ascii_uppercase().as_str() {
            "ON" | "1" | "TRUE" | "YES" => "1".to_owned(),
            "OFF" | "0" | "FALSE" | "NO" => "0".to_owned(),
            _ => return Err(wrong(": expected ON or OFF")),
        },
        Kind::Text | Kind::NullableText => text,
    };
    match definition.name {
        "time_zone" if !is_time_zone(&text) => Err(wrong(": unknown time zone")),
        "sql_mode" => Ok(Some(if text == "0" { String::new() } else { text.to_ascii_uppercase() })),
        "transaction_isolation" => Ok(Some(text.to_ascii_uppercase().replace(' ', "-"))),
        _ => Ok(Some(text)),
    }
}

fn is_time_zone(text: &str) -> bool {
    text.eq_ignore_ascii_case("system") || text.parse::<Tz>().is_ok()
}

/// Names, default collations and bytes per character, for `SHOW CHARACTER SET`.
pub fn character_sets() -> impl Iterator<Item = (&'static str, &'static str, i64)> {
    CHARACTER_SETS.iter().map(|(name, collation)| {
        let n_bytes = match *name {
            "utf8mb4" => 4,
            "utf8" | "utf8mb3" => 3,
            _ => 1,
        };
        (*name, *collation, n_bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> ScalarValue {
        ScalarValue::from(value)
    }

    #[test]
    fn definitions_are_sorted_and_start_valid() {
        assert!(DEFINITIONS.is_sorted_by_key(|it| it.name));
        for definition in DEFINITIONS {
            match definition.kind {
                Kind::Int => assert!(definition.default.parse::<u64>().is_ok(), "{}", definition.name),
                Kind::Switch => assert!(["0", "1"].contains(&definition.default), "{}", definition.name),
                Kind::Text | Kind::NullableText => {}
            }
        }
    }

    #[test]
    fn what_clients_read_on_connect_is_there() {
        let variables = Variables::default();
        for name in [
            "auto_increment_increment",
            "tx_isolation",
            "tx_read_only",
            "query_cache_size",
            "license",
            "init_connect",
            "sql_select_limit",
            "session_track_schema",
            "SYSTEM_TIME_ZONE",
            "version_compile_os",
        ] {
            assert!(variables.get(name).is_some(), "{name}");
        }
        assert_eq!(variables.get("autocommit"), Some(ScalarValue::Int64(Some(1))));
        assert_eq!(variables.get("max_allowed_packet"), Some(ScalarValue::Int64(Some(67_108_864))));
        assert!(variables.rows().contains(&("autocommit", "ON".to_owned())));
        assert_eq!(variables.get("no_such"), None);
    }

    #[test]
    fn sets_check_their_values() {
        let mut variables = Variables::default();
        assert_eq!(variables.set("autocommit", Some(&text("off")), None).unwrap(), Effect::Set);
        assert!(!variables.is_on("autocommit"));
        assert!(matches!(variables.set("autocommit", Some(&text("maybe")), None), Err(QueryError::WrongValue { .. })));
        assert!(matches!(variables.set("version", Some(&text("9")), None), Err(QueryError::ReadOnlyVariable { .. })));
        assert!(matches!(variables.set("no_such", Some(&text("9")), None), Err(QueryError::UnknownVariable { .. })));
        assert_eq!(variables.set("innodb_something", Some(&text("9")), None).unwrap(), Effect::Ignored);
        assert!(variables.set("character_set_results", Some(&ScalarValue::Null), None).is_ok());
        assert_eq!(variables.get("character_set_results"), Some(ScalarValue::Utf8(None)));
        assert!(variables.set("time_zone", Some(&text("Europe/Nowhere")), None).is_err());
        for (zone, expected) in [("+02:00", "+02:00"), ("Europe/Berlin", "Europe/Berlin"), ("SYSTEM", "+00:00")] {
            variables.set("time_zone", Some(&text(zone)), None).unwrap();
            assert_eq!(variables.time_zone(), expected);
        }
        variables.set("tx_isolation", Some(&text("read committed")), None).unwrap();
        assert_eq!(variables.text_of("transaction_isolation"), "READ-COMMITTED");
    }

    #[test]
    fn default_goes_back_to_the_servers_value() {
        let mut server = Variables::default();
        server.set("wait_timeout", Some(&ScalarValue::Int64(Some(5))), None).unwrap();
        let mut session = server.clone();
        session.set("wait_timeout", Some(&ScalarValue::Int64(Some(9))), None).unwrap();
        session.set("wait_timeout", None, Some(&server)).unwrap();
        assert_eq!(session.text_of("wait_timeout"), "5");
    }

    #[test]
    fn modes_are_taken_apart() {
        let mut variables = Variables::default();
        assert!(variables.has_sql_mode("PIPES_AS_CONCAT") && !variables.has_sql_mode("ANSI_QUOTES"));
        variables.set("sql_mode", Some(&text("ansi")), None).unwrap();
        assert!(variables.has_sql_mode("PIPES_AS_CONCAT") && variables.has_sql_mode("ANSI_QUOTES"));
    }

    #[test]
    fn names_set_three_character_sets() {
        let mut variables = Variables::default();
        variables.set_names(Some("latin1"), None).unwrap();
        assert_eq!(variables.text_of("character_set_results"), "latin1");
        assert_eq!(variables.text_of("collation_connection"), "latin1_swedish_ci");
        assert!(variables.set_names(Some("klingon"), None).is_err());
    }
}
