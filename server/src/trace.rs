//! Spans for OpenTelemetry: one per request, continuing the caller's `traceparent`,
//! and one per change in that change's own trace, which its devices write into too.
//!
//! Spans go to the tracer provider of the process: [`export`] installs the one of the
//! binary, a host application its own. Which spans there are: `docs/TRACING.md`.

use crate::clock::Clock;
use crate::settings::TraceSettings;
use crate::store::Page;
use opentelemetry::global::{self, BoxedTracer};
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags,
    TraceId, TraceState,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use oversync_shared::trace::{ChangeTrace, MAX_CHANGES};
use oversync_shared::wire::UploadReply;
use oversync_shared::{DeviceId, UserId};
use reqwest::blocking::Client;
use std::time::{Duration, SystemTime};

/// How long the collector may take, also when the server ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has spans go to the collector that the settings name, if they name one. To be kept,
/// and shut down in the end. Call it outside of any runtime.
pub fn export(settings: &TraceSettings) -> anyhow::Result<Option<SdkTracerProvider>> {
    let Some(endpoint) = &settings.endpoint else {
        return Ok(None);
    };
    // The exporter's own would panic on a machine without any authority's certificate.
    let mut client = Client::builder().timeout(PATIENCE);
    if endpoint.starts_with("http://") {
        client = client.tls_certs_only([]);
    }
    let client = client.build()?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(PATIENCE)
        .build()?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        // By the trace id alone: all who write into a trace decide alike.
        .with_sampler(Sampler::TraceIdRatioBased(settings.share))
        .with_resource(Resource::builder().with_service_name("oversync").build())
        .build();
    global::set_tracer_provider(provider.clone());
    Ok(Some(provider))
}

/// Writes what has not been sent, and ends.
pub fn finish(provider: &SdkTracerProvider) {
    if let Err(error) = provider.shutdown_with_timeout(PATIENCE) {
        tracing::warn!(%error, "the last spans could not be sent");
    }
}

/// A request that has come in.
#[derive(Debug)]
pub(crate) struct Heard {
    at: SystemTime,
    caller: Option<SpanContext>,
}

/// Writes spans, where that is wanted.
pub(crate) struct Traces {
    tracer: Option<BoxedTracer>,
    clock: Clock,
}

impl Traces {
    pub(crate) fn new(settings: &TraceSettings, clock: Clock) -> Self {
        let tracer = settings.is_on().then(|| global::tracer("oversync"));
        Self { tracer, clock }
    }

    fn now(&self) -> SystemTime {
        self.clock.now().into()
    }

    /// Notes when a request came, and the span that it is part of; nothing where no
    /// spans are wanted.
    pub(crate) fn hear(&self, traceparent: Option<&str>) -> Option<Heard> {
        self.tracer.as_ref()?;
        Some(Heard {
            at: self.now(),
            caller: traceparent.and_then(caller),
        })
    }

    /// An upload has been answered.
    pub(crate) fn uploaded(
        &self,
        heard: &Heard,
        (user, device): (&UserId, &DeviceId),
        reply: &UploadReply,
    ) {
        let attributes = vec![
            KeyValue::new("oversync.user", user.to_string()),
            KeyValue::new("oversync.device", device.to_string()),
            KeyValue::new("oversync.changes", count(reply.statuses.len())),
            KeyValue::new("oversync.head", reply.highest_server_seq.get()),
        ];
        let Some(request) = self.request("oversync.upload", heard, attributes) else {
            return;
        };
        for status in reply.statuses.iter().take(MAX_CHANGES) {
            let trace = ChangeTrace::of(user, device.as_str(), status.source_change_id);
            let mut attributes = vec![
                KeyValue::new("oversync.device", device.to_string()),
                KeyValue::new("oversync.change", status.source_change_id.get()),
                KeyValue::new("oversync.status", status.status.as_str()),
            ];
            if let Some(version) = status.new_server_version {
                attributes.push(KeyValue::new("oversync.version", version.get()));
            }
            self.change("change.commit", &trace, &request, heard.at, attributes);
        }
    }

    /// A page has been read for a device.
    pub(crate) fn downloaded(
        &self,
        heard: &Heard,
        (user, device): (&UserId, &DeviceId),
        page: &Page,
    ) {
        // A poll that found nothing is nothing to be told of.
        if page.entries.is_empty() {
            return;
        }
        let attributes = vec![
            KeyValue::new("oversync.user", user.to_string()),
            KeyValue::new("oversync.device", device.to_string()),
            KeyValue::new("oversync.changes", count(page.entries.len())),
            KeyValue::new("oversync.head", page.head.get()),
        ];
        let Some(request) = self.request("oversync.download", heard, attributes) else {
            return;
        };
        for entry in page.entries.iter().rev().take(MAX_CHANGES) {
            let trace = ChangeTrace::of(user, &entry.source, entry.change_id);
            // A long poll was there before the change.
            let from = heard.at.max(entry.ts.into());
            let attributes = vec![
                KeyValue::new("oversync.device", device.to_string()),
                KeyValue::new("oversync.change", entry.change_id.get()),
                KeyValue::new("oversync.source", entry.source.to_string()),
                KeyValue::new("oversync.place", entry.server_id.get()),
                KeyValue::new("oversync.version", entry.version.get()),
            ];
            self.change("change.page", &trace, &request, from, attributes);
        }
    }

    fn request(
        &self,
        name: &'static str,
        heard: &Heard,
        attributes: Vec<KeyValue>,
    ) -> Option<SpanContext> {
        let tracer = self.tracer.as_ref()?;
        let parent = match &heard.caller {
            Some(caller) => Context::new().with_remote_span_context(caller.clone()),
            None => Context::new(),
        };
        let mut span = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Server)
            .with_start_time(heard.at)
            .with_attributes(attributes)
            .start_with_context(tracer, &parent);
        let context = span.span_context().clone();
        span.end_with_timestamp(self.now());
        Some(context)
    }

    fn change(
        &self,
        name: &'static str,
        trace: &ChangeTrace,
        request: &SpanContext,
        from: SystemTime,
        attributes: Vec<KeyValue>,
    ) {
        let Some(tracer) = &self.tracer else { return };
        let mut span = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(from)
            .with_attributes(attributes)
            .with_links(vec![Link::with_context(request.clone())])
            .start_with_context(tracer, &trace.context());
        span.end_with_timestamp(self.now());
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The W3C header `traceparent`, version 00 and what later ones have in common with it;
/// anything else is as good as none.
fn caller(text: &str) -> Option<SpanContext> {
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        text.len() == length && text.bytes().all(digit)
    };
    let is_known = version == "00" && parts.next().is_none();
    if !(is_hex(version, 2) && version != "ff" && (is_known || version != "00"))
        || !(is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2))
    {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_known_by_its_header_or_not_at_all() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{trace}-00f067aa0ba902b7-01");
        let found = caller(&good).expect("a caller");
        assert_eq!(found.trace_id().to_string(), trace);
        assert!(found.is_sampled() && found.is_remote());
        assert!(caller(&format!("01-{trace}-00f067aa0ba902b7-01-more")).is_some());
        for bad in [
            "",
            "00",
            &format!("{good}-more"),
            &format!("ff-{trace}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{trace}-{}-01", "0".repeat(16)),
            &format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            &format!("00-{trace}-+0f067aa0ba902b7-01"),
            &format!("00-{trace}\u{e9}-00f067aa0ba902b7-01"),
        ] {
            assert!(caller(bad).is_none(), "{bad}");
        }
    }
}
