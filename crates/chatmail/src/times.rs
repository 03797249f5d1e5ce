//! Times of Unix, and as people and programs read them.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The minute in UTC.
pub(crate) fn minute(time: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(time).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{} {:02}:{:02} UTC", time.date(), time.hour(), time.minute())
}

/// Date and time of RFC 3339.
pub(crate) fn rfc3339(time: u64) -> String {
    i64::try_from(time)
        .ok()
        .and_then(|time| OffsetDateTime::from_unix_timestamp(time).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| time.to_string())
}

/// A duration in the space of eight columns; `-` if there is none.
pub(crate) fn short(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 10.0 => format!("{seconds:.2} s"),
        Some(seconds) if seconds < 1000.0 => format!("{seconds:.0} s"),
        Some(seconds) => format!("{:.0} min", seconds / 60.0),
    }
}
