//! The web site in a real browser, and a test that these checks find faults.

mod faulty;
mod look;
mod pages;

pub(super) use self::faulty::finds_faults;
pub(super) use self::pages::{
    content_policy, invitation, keyboard, languages, pages_self_signed, pages_strict, without_scripts,
};
