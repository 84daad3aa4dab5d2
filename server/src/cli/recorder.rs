//! The recorder behind `GET /metrics`, installed by the binary only.

use crate::http::MetricsText;
use crate::meters::{self, Shape};
use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use std::time::Duration;

/// Seconds: from a page out of memory to a request that waits for a database in
/// trouble.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Up to the uploads of one group commit.
const UPLOADS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// How often measurements are folded into their buckets; until then each takes
/// memory, whether anybody asks for them or not.
const FOLD: Duration = Duration::from_secs(5);

/// Installs the recorder for this process; `live_bytes` is asked with every
/// rendering. Needs a runtime.
pub(super) fn install(live_bytes: fn() -> usize) -> anyhow::Result<MetricsText> {
    let mut builder = PrometheusBuilder::new();
    for meter in meters::all() {
        let buckets = match meter.shape {
            Shape::Seconds => SECONDS,
            Shape::Sizes => UPLOADS,
            Shape::Counter | Shape::Gauge => continue,
        };
        let name = Matcher::Full(meter.name.to_owned());
        builder = builder
            .set_buckets_for_metric(name, buckets)
            .context("metrics")?;
    }
    let handle = builder.install_recorder().context("metrics")?;
    let fold = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(FOLD).await;
            fold.run_upkeep();
        }
    });
    Ok(MetricsText::new(move || {
        meters::live_bytes(live_bytes());
        handle.render()
    }))
}
