//! Where the command line's spans go: to the collector that `OVERSQLITE_TRACES` names.

use crate::settings::{COLLECTOR, collector};
use anyhow::Context as _;
use opentelemetry::global;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use reqwest::blocking::Client;
use std::time::Duration;

/// How long the collector may take, also at the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends what is left when it is dropped.
pub(super) struct Export(SdkTracerProvider);

impl Export {
    /// Has spans go there, where the environment says so.
    pub(super) fn begin() -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = collector() else {
            return Ok(None);
        };
        // It has a runtime of its own, which cannot be made inside of another.
        let is_plain = endpoint.starts_with("http://");
        let client = std::thread::spawn(move || {
            let mut client = Client::builder().timeout(PATIENCE);
            if is_plain {
                // Nor does it need any authority's certificate.
                client = client.tls_certs_only([]);
            }
            client.build()
        });
        let client = client.join().map_err(|_| anyhow::anyhow!("BUG: a panic"))?;
        let client = client.context(COLLECTOR)?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(PATIENCE)
            .build()
            .context(COLLECTOR)?;
        let resource = Resource::builder().with_service_name("oversqlite");
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        global::set_tracer_provider(provider.clone());
        Ok(Some(Self(provider)))
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(PATIENCE) {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}
