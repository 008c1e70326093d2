//! The metrics registry of a process and its Prometheus text form.
//!
//! Names are `quern_<subsystem>_<what>_<unit>`, counters end in `_total`; libraries record through the `metrics` facade and
//! never see this module. Labels have few values: a method, an outcome, a kind; never an id or an address.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use thiserror::Error;

/// Bounds of histograms of durations, in seconds: 1 ms to about 2 minutes.
const SECONDS_BOUNDS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];

/// Reads out what this process has recorded. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Why the registry did not start.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// The recorder was refused, most likely because one is installed already.
    #[error("the metrics recorder was not installed ({0}): install it once, in main")]
    Install(#[from] BuildError),
    /// Another recorder is already the process's own.
    #[error("this process already has a metrics recorder: install it once, in main")]
    AlreadyInstalled,
}

impl Metrics {
    /// Makes a recorder the process's own. Call it once, in `main`.
    ///
    /// # Errors
    /// A recorder is installed already.
    pub fn install() -> Result<Self, MetricsError> {
        let (recorder, metrics) = Self::recorder()?;
        ::metrics::set_global_recorder(recorder).map_err(|_| MetricsError::AlreadyInstalled)?;
        Ok(metrics)
    }

    /// A recorder that is not the process's own, for tests that use [`metrics::with_local_recorder`](::metrics::with_local_recorder).
    ///
    /// # Errors
    /// The bounds of the histograms were refused, which would be a defect here.
    pub fn recorder() -> Result<(PrometheusRecorder, Self), MetricsError> {
        let recorder =
            PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BOUNDS)?.build_recorder();
        let handle = recorder.handle();
        Ok((recorder, Self { handle }))
    }

    /// Everything recorded so far, in the Prometheus text format. Also drains the histograms' buffers: call it at least every few minutes,
    /// as a scraper does, or memory grows with the number of samples.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn render_shows_counters_and_buckets() {
        let (recorder, metrics) = Metrics::recorder().expect("bounds are valid");
        ::metrics::with_local_recorder(&recorder, || {
            ::metrics::counter!("quern_test_events_total", "kind" => "move").increment(3);
            ::metrics::histogram!("quern_test_commit_seconds").record(0.03);
        });
        let text = metrics.render();
        assert!(text.contains("quern_test_events_total{kind=\"move\"} 3"), "{text}");
        assert!(text.contains("quern_test_commit_seconds_bucket{le=\"0.05\"} 1"), "{text}");
        assert!(text.contains("quern_test_commit_seconds_bucket{le=\"0.025\"} 0"), "{text}");
    }

    #[test]
    fn second_install_is_refused() {
        Metrics::install().expect("the first one is installed");
        let error = Metrics::install().expect_err("the second one is refused");
        assert!(error.to_string().contains("once"), "{error}");
    }
}
