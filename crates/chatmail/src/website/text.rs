//! Templates and Markdown.

use anyhow::Context as _;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};

/// Templates with the filters for pages. Values are escaped as HTML, which Markdown preserves. An undefined name is an
/// error, so that no page is incomplete.
pub(super) fn templates() -> Environment<'static> {
    let mut templates = Environment::new();
    templates.set_undefined_behavior(UndefinedBehavior::Strict);
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    // The default formatter also escapes `/`, which makes links unreadable.
    templates.set_formatter(|out, state, value| match value.as_str() {
        Some(text) if !value.is_safe() => Ok(out.write_str(&escaped(text))?),
        _ => minijinja::escape_formatter(out, state, value),
    });
    templates.add_filter("size", size);
    templates.add_filter("plural", plural);
    templates.add_filter("lines", lines);
    templates
}

/// Renders one template; `name` is used in messages.
pub(super) fn fill(
    templates: &Environment<'_>,
    name: &str,
    source: &[u8],
    values: &Value,
) -> anyhow::Result<String> {
    let source = std::str::from_utf8(source).with_context(|| format!("{name} is not UTF-8"))?;
    templates
        .render_named_str(name, source, values)
        .with_context(|| format!("cannot render {name}"))
}

/// Converts a page to HTML, and returns the text of its first heading.
pub(super) fn markdown(source: &str) -> (String, Option<String>) {
    let events: Vec<_> = Parser::new_ext(
        source,
        Options::ENABLE_TABLES | Options::ENABLE_HEADING_ATTRIBUTES,
    )
    .collect();
    let title = events
        .iter()
        .skip_while(|event| !matches!(event, Event::Start(Tag::Heading { .. })))
        .take_while(|event| !matches!(event, Event::End(TagEnd::Heading(_))))
        .filter_map(|event| match event {
            Event::Text(text) | Event::Code(text) => Some(&**text),
            _ => None,
        })
        .collect::<String>();
    let mut page = String::new();
    html::push_html(&mut page, events.into_iter());
    (page, (!title.is_empty()).then_some(title))
}

/// Formats a size: in mebibytes if it is a multiple of one, as in the defaults of the options, else in kilobytes.
fn size(bytes: u64) -> String {
    const MEBI: u64 = 1 << 20;
    if bytes >= MEBI && bytes.is_multiple_of(MEBI) {
        format!("{}\u{a0}MiB", bytes / MEBI)
    } else {
        format!("{}\u{a0}kB", bytes.div_ceil(1000))
    }
}

/// Selects the form of a word for a number: one of two, or one of the three of Slavic languages.
fn plural(number: u64, one: String, few: String, many: Option<String>) -> String {
    let Some(many) = many else {
        return if number == 1 { one } else { few };
    };
    match (number % 10, number % 100) {
        (_, 11..=14) => many,
        (1, _) => one,
        (2..=4, _) => few,
        _ => many,
    }
}

/// Converts text to HTML with line breaks, and escapes everything that Markdown would interpret.
fn lines(text: &str) -> Value {
    let mut html = String::new();
    for (index, line) in text.trim().lines().enumerate() {
        if index > 0 {
            html.push_str("<br>");
        }
        for character in escaped(line).chars() {
            match character {
                '*' | '_' | '`' | '[' | ']' | '\\' => html.push_str(&format!("&#{};", u32::from(character))),
                _ => html.push(character),
            }
        }
    }
    Value::from_safe_string(html)
}

/// Escapes text for HTML, including attributes.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            _ => html.push(character),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_their_words() {
        assert_eq!(
            [31_457_280, 200_000, 524_288_000].map(size),
            ["30\u{a0}MiB", "200\u{a0}kB", "500\u{a0}MiB"]
        );
        let russian = |number| plural(number, "день".into(), "дня".into(), Some("дней".into()));
        assert_eq!(
            [1, 3, 5, 11, 12, 20, 21, 22, 90, 111].map(russian),
            [
                "день", "дня", "дней", "дней", "дней", "дней", "день", "дня", "дней", "дней"
            ]
        );
        assert_eq!(plural(1, "day".into(), "days".into(), None), "day");
        assert_eq!(plural(20, "day".into(), "days".into(), None), "days");
    }

    #[test]
    fn an_operators_words_are_text() {
        let (page, _) = markdown(&lines("A & B <b>\n*1* [x](y)\n").to_string());
        assert_eq!(page, "<p>A &amp; B &lt;b&gt;<br>*1* [x](y)</p>\n");
    }

    #[test]
    fn the_first_heading_is_the_title() {
        let (page, title) = markdown("# A *b* `c`\n\n## D\n");
        assert_eq!(title.as_deref(), Some("A b c"));
        assert!(page.starts_with("<h1>A <em>b</em> <code>c</code></h1>"), "{page}");
        assert_eq!(markdown("text").1, None);
    }
}
