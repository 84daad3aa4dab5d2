//! Spans for OpenTelemetry: one per request, handed on to the server as
//! `traceparent`, and one per change in that change's own trace, which the server and
//! the other devices write into too.
//!
//! Only where [`Config::traces`](crate::Config::traces) asks for them, and to the
//! tracer provider that the application has installed. Which there are:
//! `docs/TRACING.md`.

use crate::clock::unix_now_ms;
use opentelemetry::KeyValue;
use opentelemetry::global::{self, BoxedSpan, BoxedTracer};
use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind};
use oversync_shared::trace::ChangeTrace;
use oversync_shared::{ChangeId, UserId};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Writes spans, where that is wanted.
pub(crate) struct Traces {
    tracer: Option<BoxedTracer>,
}

/// A request on its way: a span until it is dropped.
pub(crate) struct Request(BoxedSpan);

/// One change, as its span tells of it.
pub(crate) struct Told {
    /// The device that made it.
    pub(crate) source: String,
    pub(crate) change: ChangeId,
    /// When the edit was first seen, in seconds since 1970, cut off; none where nobody
    /// knows, or another device made it.
    pub(crate) edited_at: Option<i64>,
    pub(crate) attributes: Vec<KeyValue>,
}

impl Traces {
    pub(crate) fn new(on: bool) -> Self {
        Self {
            tracer: on.then(|| global::tracer("oversqlite")),
        }
    }

    /// When something began that is to be told of; none where nothing is told.
    pub(crate) fn begin(&self) -> Option<SystemTime> {
        self.tracer.as_ref().map(|_| now())
    }

    /// A request begins.
    pub(crate) fn request(&self, name: &'static str) -> Option<Request> {
        let tracer = self.tracer.as_ref()?;
        let span = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Client)
            .with_start_time(now())
            .start(tracer);
        Some(Request(span))
    }

    /// How long edits had waited when they were put into a batch.
    pub(crate) fn waited(&self, user: &UserId, until: SystemTime, changes: &[Told]) {
        let Some(tracer) = &self.tracer else { return };
        for told in changes {
            // To the second after it, so that no wait is told of that was not: one shorter
            // than that is not told of at all.
            let second = told.edited_at.and_then(|at| u64::try_from(at + 1).ok());
            let from = second.map(|at| UNIX_EPOCH + Duration::from_secs(at));
            if let Some(from) = from.filter(|from| *from < until) {
                told.write(tracer, "change.wait", user, from, until, Vec::new());
            }
        }
    }

    /// What has become of changes since `from`.
    pub(crate) fn changes(
        &self,
        name: &'static str,
        user: &UserId,
        from: SystemTime,
        changes: Vec<Told>,
    ) {
        let Some(tracer) = &self.tracer else { return };
        for mut told in changes {
            let mut attributes = std::mem::take(&mut told.attributes);
            if let Some(at) = told.edited_at {
                attributes.push(KeyValue::new("oversync.edited_at", at));
            }
            told.write(tracer, name, user, from, now(), attributes);
        }
    }
}

impl Told {
    /// A span in the change's own trace.
    fn write(
        &self,
        tracer: &BoxedTracer,
        name: &'static str,
        user: &UserId,
        from: SystemTime,
        until: SystemTime,
        mut attributes: Vec<KeyValue>,
    ) {
        let trace = ChangeTrace::of(user, &self.source, self.change);
        attributes.push(KeyValue::new("oversync.change", self.change.get()));
        attributes.push(KeyValue::new("oversync.source", self.source.clone()));
        let mut span = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(from)
            .with_attributes(attributes)
            .start_with_context(tracer, &trace.context());
        span.end_with_timestamp(until);
    }
}

impl Request {
    /// What the server is told.
    pub(crate) fn traceparent(&self) -> String {
        let context = self.0.span_context();
        format!(
            "00-{}-{}-{:02x}",
            context.trace_id(),
            context.span_id(),
            context.trace_flags().to_u8()
        )
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.end_with_timestamp(now());
    }
}

fn now() -> SystemTime {
    let since = u64::try_from(unix_now_ms()).unwrap_or_default();
    UNIX_EPOCH + Duration::from_millis(since)
}
