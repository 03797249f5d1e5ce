//! Responses to those who get no account. Clients show the reason to the person who scanned the code.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chatmail_core::registration::Denied;
use serde::Serialize;

/// Seconds after which clients may retry when the accounts of an hour are used up.
const RETRY_LATER: u64 = 600;

const TOO_MANY: &str =
    "Too many people are asking for a new address right now. Please try again in a minute.";
const HOURLY_LIMIT: &str =
    "This relay has reached its limit of new users for this hour. Please try again later.";
const CLOSED: &str = "This relay does not accept new users.";
const UNINVITED: &str = "You need an invitation to get an address on this relay.";
const UNKNOWN: &str = "This invitation is not valid. Please ask for a new one.";
const EXPIRED: &str = "This invitation has expired. Please ask for a new one.";
const USED_UP: &str = "This invitation has been used up. Please ask for a new one.";
const FAILED: &str = "The relay cannot create addresses at the moment. Please try again later.";

#[derive(Serialize)]
struct Reason {
    reason: &'static str,
}

/// An error response.
pub(crate) struct Refusal {
    status: StatusCode,
    reason: &'static str,
    /// Seconds after which the request may succeed.
    retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, reason: &'static str) -> Self {
        Self {
            status,
            reason,
            retry_after: None,
        }
    }

    /// The rate limit is reached; the next account is available after this time.
    pub(crate) fn too_many(seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, TOO_MANY)
        }
    }

    /// The registration creates no account. `asked` tells whether the request contains a token.
    pub(crate) fn denied(denied: &Denied, asked: bool) -> Self {
        let reason = match denied {
            Denied::ClosedByFile(_) | Denied::Closed => CLOSED,
            Denied::Uninvited if asked => UNKNOWN,
            Denied::Uninvited => UNINVITED,
            Denied::Expired => EXPIRED,
            Denied::UsedUp => USED_UP,
            Denied::HourlyLimit(_) => {
                return Self {
                    retry_after: Some(RETRY_LATER),
                    ..Self::new(StatusCode::TOO_MANY_REQUESTS, HOURLY_LIMIT)
                };
            }
        };
        Self::new(StatusCode::FORBIDDEN, reason)
    }

    /// The state of the registration is unknown.
    pub(crate) fn failed() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, FAILED)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(Reason { reason: self.reason });
        let mut response = (self.status, [(header::CACHE_CONTROL, "no-store")], body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
