//! The session's configuration, which a plan means but does not hold.

use std::collections::HashMap;

use datafusion::config::ConfigOptions;
use datafusion::prelude::SessionConfig;

use super::CodecError;

/// Sets other options as well when it is set: it has to come first, and they have to follow.
const DYNAMIC_FILTERS: &str = "datafusion.optimizer.enable_dynamic_filter_pushdown";

/// What each node would take from its own machine, and what [`DYNAMIC_FILTERS`] sets.
const ALWAYS: [&str; 5] = [
    "datafusion.execution.target_partitions",
    "datafusion.execution.planning_concurrency",
    "datafusion.optimizer.enable_topk_dynamic_filter_pushdown",
    "datafusion.optimizer.enable_join_dynamic_filter_pushdown",
    "datafusion.optimizer.enable_aggregate_dynamic_filter_pushdown",
];

/// DataFusion's options as far as they are not the default of every node, the time zone among them.
///
/// Extensions of the configuration that are not DataFusion's own stay behind.
pub fn encode_config(config: &SessionConfig) -> Vec<(String, String)> {
    let defaults = ConfigOptions::default().entries();
    let defaults: HashMap<String, Option<String>> =
        defaults.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let mut entries: Vec<(String, String)> = Vec::new();
    for entry in config.options().entries() {
        // An option cannot be set to nothing; those that have a value by default concern writing files only.
        let Some(value) = entry.value else { continue };
        let Some(default) = defaults.get(&entry.key) else { continue };
        if ALWAYS.contains(&entry.key.as_str()) || default.as_ref() != Some(&value) {
            entries.push((entry.key, value));
        }
    }
    entries.sort_by(|(a, _), (b, _)| (a != DYNAMIC_FILTERS, a).cmp(&(b != DYNAMIC_FILTERS, b)));
    entries
}

/// The configuration of [`encode_config`]'s pairs over DataFusion's defaults, not those of this process's environment.
///
/// Errs when an option is unknown here or its value is not one of its values.
pub fn decode_config(entries: &[(String, String)]) -> Result<SessionConfig, CodecError> {
    let mut options = ConfigOptions::default();
    for (key, value) in entries {
        options.set(key, value).map_err(CodecError::of)?;
    }
    Ok(SessionConfig::from(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &SessionConfig) {
        let entries = encode_config(config);
        let back = decode_config(&entries).unwrap();
        let (sent, got) = (config.options().entries(), back.options().entries());
        for (sent, got) in sent.iter().zip(&got) {
            assert_eq!((&sent.key, &sent.value), (&got.key, &got.value));
        }
        assert_eq!(sent.len(), got.len());
        assert_eq!(encode_config(&back), entries);
    }

    #[test]
    fn defaults_are_not_sent() {
        let config = SessionConfig::new();
        assert_eq!(encode_config(&config).len(), ALWAYS.len());
        check(&config);
    }

    #[test]
    fn what_was_set_arrives() {
        let config = SessionConfig::new()
            .with_target_partitions(3)
            .with_batch_size(17)
            .set_str("datafusion.execution.time_zone", "+05:30")
            .set_bool("datafusion.execution.parquet.pushdown_filters", true)
            .set_str("datafusion.execution.parquet.created_by", "a = 'b'\n")
            .set_u64("datafusion.optimizer.hash_join_single_partition_threshold", 1 << 40)
            .set_str("datafusion.sql_parser.dialect", "mysql");
        let entries = encode_config(&config);
        assert!(entries.contains(&("datafusion.execution.time_zone".into(), "+05:30".into())), "{entries:?}");
        check(&config);
    }

    #[test]
    fn dynamic_filters_by_kind() {
        let one_left = SessionConfig::new()
            .set_bool(DYNAMIC_FILTERS, false)
            .set_bool("datafusion.optimizer.enable_join_dynamic_filter_pushdown", true);
        check(&one_left);
        check(&SessionConfig::new().set_bool("datafusion.optimizer.enable_topk_dynamic_filter_pushdown", false));
    }

    /// The text of every value reads back as the value.
    #[test]
    fn every_option_can_be_sent() {
        for entry in ConfigOptions::default().entries() {
            let Some(value) = entry.value else { continue };
            let mut options = ConfigOptions::default();
            options.set(&entry.key, &value).unwrap_or_else(|error| panic!("{} = {value:?}: {error}", entry.key));
            let again = options.entries().into_iter().find(|it| it.key == entry.key);
            assert_eq!(again.and_then(|it| it.value), Some(value), "{}", entry.key);
        }
    }

    #[test]
    fn an_unknown_option_is_an_error() {
        let error = decode_config(&[("datafusion.execution.no_such".into(), "1".into())]).unwrap_err();
        assert!(error.to_string().contains("no_such"), "{error}");
    }
}
