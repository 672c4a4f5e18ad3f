//! Logs and metrics of a process: set up once, by the binary.
//!
//! Logs go to standard error, so that standard output stays for answers and for the ready line of `sheaf server`.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::LogFormat;

/// Tells of each step of reading a table's log, in lines that say nothing of a table or a statement.
const TALKATIVE: &str = "buoyant_kernel";

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("log filter {filter:?} is not valid")]
    Filter {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("logs are set up already")]
    LogsTwice,
    #[error("metrics are set up already")]
    MetricsTwice,
}

/// Writes log records that pass `filter` to standard error from now on, panics of any thread included. Of the library
/// that reads tables' logs only warnings, unless the filter names it.
///
/// Errs when the filter cannot be read, or on the second call in a process.
pub fn init_logs(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let env_filter = EnvFilter::try_new(quieted(filter))
        .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let base = tracing_subscriber::fmt().with_env_filter(env_filter).with_writer(std::io::stderr);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    match format {
        LogFormat::Text => base.with_ansi(ansi).try_init(),
        LogFormat::Json => base.json().flatten_event(true).try_init(),
    }
    .map_err(|_| TelemetryError::LogsTwice)?;
    std::panic::set_hook(Box::new(|panic| {
        crate::panics::note(panic);
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(%location, %thread, message, "panic");
    }));
    Ok(())
}

/// A filter that lets through what it says, and of a library that tells too much its warnings.
fn quieted(filter: &str) -> String {
    let parts = filter.split(',').map(str::trim).filter(|it| !it.is_empty());
    let level = parts.filter_map(|it| it.parse::<LevelFilter>().ok()).next_back();
    match level {
        Some(level) if level > LevelFilter::WARN && !filter.contains(TALKATIVE) => format!("{filter},{TALKATIVE}=warn"),
        _ => filter.to_owned(),
    }
}

/// Collects what the `metrics` macros count, for `/metrics`.
///
/// Errs on the second call in a process.
pub fn init_metrics() -> Result<Metrics, TelemetryError> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| TelemetryError::MetricsTwice)?;
    Ok(Metrics { handle })
}

/// What was counted so far.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let error = init_logs("sheaf=loudly", LogFormat::Text).unwrap_err();
        assert_eq!(error.to_string(), "log filter \"sheaf=loudly\" is not valid");
    }

    #[test]
    fn a_talkative_library_is_heard_when_it_is_asked_for() {
        for (filter, expected) in [
            ("info", "info,buoyant_kernel=warn"),
            ("debug,h2=info", "debug,h2=info,buoyant_kernel=warn"),
            ("sheaf_query=debug, info", "sheaf_query=debug, info,buoyant_kernel=warn"),
            ("info,buoyant_kernel=info", "info,buoyant_kernel=info"),
            ("warn", "warn"),
            ("off", "off"),
            ("sheaf_query=trace", "sheaf_query=trace"),
            ("", ""),
        ] {
            assert_eq!(quieted(filter), expected);
            assert!(EnvFilter::try_new(quieted(filter)).is_ok(), "{filter}");
        }
    }

    #[test]
    fn what_is_counted_is_rendered() {
        let collected = init_metrics().unwrap();
        metrics::counter!("sheaf_test_things_total").increment(2);
        assert!(collected.render().contains("sheaf_test_things_total 2"));
        assert!(matches!(init_metrics(), Err(TelemetryError::MetricsTwice)));
    }
}
