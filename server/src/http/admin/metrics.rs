//! `GET /metrics`: Prometheus text of whatever recorder the process installed.

use super::operator::Operator;
use crate::http::ApiError;
use crate::service::SyncService;
use actix_web::{HttpResponse, web};
use std::sync::Arc;

/// Writes the process's metrics as Prometheus text. The binary `oversync` makes
/// one from its recorder; a host application may bring its own as
/// `web::Data<MetricsText>` beside [`admin_routes`](crate::admin_routes).
#[derive(Clone)]
pub struct MetricsText(Arc<dyn Fn() -> String + Send + Sync>);

impl MetricsText {
    /// Takes what renders a recorder.
    pub fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(render))
    }
}

pub(super) async fn metrics(
    service: web::Data<SyncService>,
    _: Operator,
    text: Option<web::Data<MetricsText>>,
) -> Result<HttpResponse, ApiError> {
    let text = text.ok_or(ApiError::NotFound)?;
    service.measure().await;
    Ok(HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body((text.0)()))
}
