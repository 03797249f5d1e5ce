//! Tag lists (RFC 6376 section 3.2) of signatures and key records.

/// Maximum number of tags in a list; the RFC defines 13.
const MAX_TAGS: usize = 40;

/// Parses names and values in order, without the white space around them. None if the list is malformed or contains a
/// tag twice.
pub(super) fn parse(list: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut tags: Vec<(&[u8], &[u8])> = Vec::new();
    let mut specs = list.split(|b| *b == b';').peekable();
    while let Some(spec) = specs.next() {
        let spec = spec.trim_ascii();
        // An empty tag is allowed only at the end.
        if spec.is_empty() && specs.peek().is_none() && !tags.is_empty() {
            break;
        }
        let at = spec.iter().position(|b| *b == b'=')?;
        let (name, value) = (spec.get(..at)?.trim_ascii(), spec.get(at + 1..)?.trim_ascii());
        let valid = name.first().is_some_and(u8::is_ascii_alphabetic)
            && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
        if !valid || tags.len() == MAX_TAGS || tags.iter().any(|(other, _)| *other == name) {
            return None;
        }
        tags.push((name, value));
    }
    (!tags.is_empty()).then_some(tags)
}

/// The value of a tag.
pub(super) fn value<'a>(tags: &[(&[u8], &'a [u8])], name: &str) -> Option<&'a [u8]> {
    tags.iter()
        .find(|(found, _)| *found == name.as_bytes())
        .map(|(_, value)| *value)
}

/// Whether a colon-separated list contains one of these words.
pub(super) fn lists(value: &[u8], words: &[&str]) -> bool {
    value.split(|b| *b == b':').map(<[u8]>::trim_ascii).any(|found| {
        words
            .iter()
            .any(|word| found.eq_ignore_ascii_case(word.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_tags() {
        let tags = parse(b" v=1; a = rsa-sha256 ;\r\n\tb=abc=\r\n def==; h=From : To;").unwrap();
        let text = |name| value(&tags, name).map(|value| String::from_utf8_lossy(value).into_owned());
        assert_eq!(text("v").unwrap(), "1");
        assert_eq!(text("a").unwrap(), "rsa-sha256");
        assert_eq!(text("b").unwrap(), "abc=\r\n def==");
        assert!(lists(value(&tags, "h").unwrap(), &["from"]));
        assert!(!lists(value(&tags, "h").unwrap(), &["fro", ""]));
        assert_eq!(text("d"), None);
        for bad in ["", ";", "a=1;;b=2", "a=1; b", "=1", "a b=1", "a=1; a=2", "1=a"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        let many = (0..100).map(|n| format!("a{n}=1;")).collect::<String>();
        assert_eq!(parse(many.as_bytes()), None);
    }
}
