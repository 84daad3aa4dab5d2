//! Settings of traces: whether spans are written, and where they go.

use super::{Settings, SettingsError, value};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

/// Which spans are written for OpenTelemetry.
#[derive(Debug, Clone, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct TraceSettings {
    /// A collector that takes OTLP over HTTP, as in `http://127.0.0.1:4318`; spans go to
    /// its `/v1/traces`. None are written unless set.
    pub endpoint: Option<String>,
    /// Which share of all traces is kept, above 0 and up to 1. By the trace id alone, so
    /// that devices with the same share keep the same ones.
    pub share: f64,
    /// For host applications that have installed a tracer provider of their own: spans
    /// are written although there is no `endpoint`.
    pub spans: bool,
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            share: 1.0,
            spans: false,
        }
    }
}

impl TraceSettings {
    /// Whether spans are written.
    pub fn is_on(&self) -> bool {
        self.endpoint.is_some() || self.spans
    }
}

impl Settings {
    pub(super) fn check_trace(&self) -> Result<(), SettingsError> {
        if let Some(endpoint) = &self.trace.endpoint {
            let is_one = url::Url::parse(endpoint)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !is_one {
                let problem = "is no address, as in http://127.0.0.1:4318";
                return Err(value("trace.endpoint", problem));
            }
        }
        if !(self.trace.share > 0.0 && self.trace.share <= 1.0) {
            return Err(value("trace.share", "must be above 0 and at most 1"));
        }
        Ok(())
    }
}
