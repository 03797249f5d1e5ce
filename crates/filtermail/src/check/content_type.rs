//! The `Content-Type` field (RFC 2045 section 5.1), in the forms that all programs parse alike.

/// Type and boundary of a `Content-Type` field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContentType {
    /// Type and subtype in lower case, as in `text/plain`.
    pub(super) media_type: String,
    /// Parameters with their names in lower case; each name occurs once.
    parameters: Vec<(String, String)>,
}

/// Maximum number of parameters, more than any program writes.
const MAX_PARAMETERS: usize = 16;

impl ContentType {
    /// Parses an unfolded value. None for forms that programs are known to parse differently: comments, backslashes and
    /// semicolons in quotes, encoded words (RFC 2047), values in pieces or with a charset (RFC 2231), repeated
    /// parameters, white space around `=`, bytes beyond ASCII.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let printable = |b: u8| b == b' ' || b == b'\t' || b.is_ascii_graphic();
        if !value.bytes().all(printable) || value.contains("=?") {
            return None;
        }
        let end = value.find([' ', '\t', ';']).unwrap_or(value.len());
        let (media_type, mut rest) = value.split_at_checked(end)?;
        let (kind, subtype) = media_type.split_once('/')?;
        if !is_token(kind) || !is_token(subtype) {
            return None;
        }
        let mut parameters: Vec<(String, String)> = Vec::new();
        loop {
            rest = rest.trim_start();
            if rest.is_empty() {
                break;
            }
            rest = rest.strip_prefix(';')?.trim_start();
            // A semicolon at the end is a common and harmless mistake.
            if rest.is_empty() {
                break;
            }
            let (name, after) = rest.split_once('=')?;
            let name = name.to_ascii_lowercase();
            let known = parameters.iter().any(|(known, _)| *known == name);
            if !is_token(&name)
                || name.contains(['*', '%', '\''])
                || known
                || parameters.len() == MAX_PARAMETERS
            {
                return None;
            }
            let (value, after) = parameter_value(after)?;
            parameters.push((name, value.to_owned()));
            rest = after;
        }
        Some(Self {
            media_type: media_type.to_ascii_lowercase(),
            parameters,
        })
    }

    /// A parameter by its name in lower case.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The `boundary` parameter, if it is valid (RFC 2046 section 5.1.1). Spaces are not allowed, because some programs
    /// drop them at the end.
    pub(super) fn boundary(&self) -> Option<&str> {
        let boundary = self.parameter("boundary")?;
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&b);
        ((1..=70).contains(&boundary.len()) && boundary.bytes().all(valid)).then_some(boundary)
    }
}

/// Splits off the token or quoted string at the beginning.
fn parameter_value(text: &str) -> Option<(&str, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (value, after) = quoted.split_once('"')?;
        return (!value.contains(['\\', ';'])).then_some((value, after));
    }
    let end = text.find([';', ' ', '\t']).unwrap_or(text.len());
    let (value, after) = text.split_at_checked(end)?;
    is_token(value).then_some((value, after))
}

/// RFC 2045 section 5.1.
fn is_token(text: &str) -> bool {
    let valid = |b: u8| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b);
    !text.is_empty() && text.bytes().all(valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms_that_programs_write() {
        for (value, boundary) in [
            ("Multipart/Encrypted; boundary=x", "x"),
            ("multipart/encrypted;boundary=\"x\"", "x"),
            (
                "multipart/encrypted; protocol=\"application/pgp-encrypted\";\tBOUNDARY=\"a b\" ; x=y",
                "",
            ),
            (
                "multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=\"=-+a/b=_c.'()?:,\";",
                "=-+a/b=_c.'()?:,",
            ),
            (
                "multipart/encrypted ; boundary=\"Apple-Mail=_A-B\"",
                "Apple-Mail=_A-B",
            ),
        ] {
            let parsed = ContentType::parse(value).unwrap();
            assert_eq!(parsed.media_type, "multipart/encrypted");
            assert_eq!(parsed.boundary().unwrap_or_default(), boundary, "{value}");
        }
        let parsed = ContentType::parse("text/plain; charset=utf-8; name=\"a (b).asc\"").unwrap();
        assert_eq!(parsed.boundary(), None);
        assert_eq!(parsed.parameter("name"), Some("a (b).asc"));
    }

    #[test]
    fn forms_that_programs_read_differently() {
        for value in [
            "",
            "text",
            "text/",
            "/plain",
            "a/b/c",
            "a /b",
            "a/b x",
            "a/b; boundary=x; boundary=y",
            "a/b; boundary=x; Boundary=x",
            "a/b; charset=x; charset=x; boundary=x",
            "a/b; boundary=\"x",
            "a/b; boundary",
            "a/b; boundary=",
            "a/b; boundary =x",
            "a/b; boundary= x",
            "a/b; boundary*=x",
            "a/b; boundary*0=x; boundary*1=y",
            "a/b; boundary*0*=us-ascii''x",
            "a/b; boundary=\"a\\b\"",
            "a/b; boundary=\"x;boundary=y\"",
            "a/b; name=\"x;boundary=y\"; boundary=z",
            "a/b; boundary=\"x\"y",
            "a/b; boundary=x(comment)",
            "a/b; (comment) boundary=x",
            "a/b(comment); boundary=x",
            "a/b; boundary=x,y",
            "a/b; boundary==_x",
            "a/b; name==?utf-8?q?x?=; boundary=z",
            "a/b; name=\"=?utf-8?q?x?=\"; boundary=z",
            "=?utf-8?q?a/b?=; boundary=z",
            "a/b;; boundary=x",
            "a/b; boundary=\u{e9}",
            "a/b\u{a0}; boundary=x",
            "a/b;\u{a0}boundary=x",
            "a/b;\u{2003}boundary=x",
            "a/b;\x0cboundary=x",
            "a/b; ; boundary=x",
        ] {
            assert_eq!(ContentType::parse(value), None, "{value:?}");
        }
        for boundary in ["", " ", "a b", "a ", "a*b", "a<b", "a&b", &"x".repeat(71)] {
            let parsed = ContentType::parse(&format!("a/b; boundary=\"{boundary}\"")).unwrap();
            assert_eq!(parsed.boundary(), None, "{boundary:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(value in "(a/b|;|boundary|=|\"|\\\\| |x|\\*|0|'|%|\\?|\\(|\\)|é){0,20}") {
            if let Some(parsed) = ContentType::parse(&value) {
                prop_assert!(value.to_ascii_lowercase().starts_with(&parsed.media_type));
            }
        }
    }
}
