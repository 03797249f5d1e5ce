//! Metrics, and the dashboard and alerts that use them.

mod dashboard;
mod figures;
mod prometheus;
mod samples;

pub(super) use self::dashboard::has_data;
pub(super) use self::figures::{dovecot, own_services, storage_report};
pub(super) use self::samples::Samples;
