//! `GET /admin/row?user=…&schema=…&table=…&pk=…`: a row as it stands, with the
//! version that a write is compared with.

use super::operator::Operator;
use crate::http::ApiError;
use crate::service::{RowError, SyncService};
use actix_web::{HttpRequest, HttpResponse, web};

pub(super) async fn row(
    service: web::Data<SyncService>,
    operator: Operator,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let find = |name: &str| super::parameter(&request, name).unwrap_or_default();
    let user = super::user(&find("user"))?;
    operator.looks_at(&user, "a row");
    let found = service
        .row(&user, &find("schema"), &find("table"), &find("pk"))
        .await;
    match found {
        Ok(Some(row)) => Ok(HttpResponse::Ok().json(row)),
        Ok(None) => Err(ApiError::NotFound),
        Err(RowError::Invalid(fault)) => Err(ApiError::Invalid(
            fault.message().unwrap_or_default().into(),
        )),
        Err(RowError::Store(error)) => Err(ApiError::from_store(error)),
    }
}
