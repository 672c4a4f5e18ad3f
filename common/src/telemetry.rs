//! Logs and metrics of a process: set up once, by the binary.
//!
//! Logs go to standard error, so that standard output stays for answers and for the ready line of `sheaf server`.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

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

/// Writes log records that pass `filter` to standard error from now on, panics of any thread included.
///
/// Errs when the filter cannot be read, or on the second call in a process.
pub fn init_logs(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let env_filter =
        EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
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
    fn what_is_counted_is_rendered() {
        let collected = init_metrics().unwrap();
        metrics::counter!("sheaf_test_things_total").increment(2);
        assert!(collected.render().contains("sheaf_test_things_total 2"));
        assert!(matches!(init_metrics(), Err(TelemetryError::MetricsTwice)));
    }
}
