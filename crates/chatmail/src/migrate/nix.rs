//! Formats values as Nix expressions.

use serde::Serialize;

/// A value of an option.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Value {
    Bool(bool),
    Integer(u64),
    Float(f64),
    Text(String),
    /// A path literal; Nix copies the files to its store.
    Path(String),
    /// `null`.
    Null,
}

/// The value in the syntax of Nix.
pub(super) fn expression(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        // `5` is an integer in Nix, which the options of these values accept too.
        Value::Float(value) => value.to_string(),
        Value::Text(text) => quoted(text),
        Value::Path(path) => path.clone(),
        Value::Null => "null".to_owned(),
    }
}

/// A string literal on one line.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // `${` would begin an interpolation.
            '$' => quoted.push_str("\\$"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
