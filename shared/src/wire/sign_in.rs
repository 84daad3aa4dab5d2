//! Signing in with a name, for development only.

use serde::{Deserialize, Serialize};

/// The body of `POST /signin` (development only).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignInRequest {
    /// Becomes the user `user-<username>`.
    #[cfg_attr(feature = "openapi", schema(min_length = 1))]
    pub username: String,
    /// Not checked beyond being present: this endpoint exists for development.
    #[serde(default)]
    pub password: String,
    /// The device to mint the token for.
    #[cfg_attr(feature = "openapi", schema(min_length = 1))]
    pub device_id: String,
}

/// The answer to a sign-in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignInReply {
    /// A bearer token, good for one hour.
    pub token: String,
    /// The user it is for.
    pub user_id: String,
    /// The device it is for.
    pub device_id: String,
}
