//! Addresses in lines of logs.

/// Local parts of the mail system itself.
const SYSTEM: [&str; 4] = ["mailer-daemon", "double-bounce", "postmaster", "root"];

/// Characters of local parts, host names and addresses.
pub(super) fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

/// Returns the first address of this domain in a line in lower case. Those of the mail system itself do not count.
pub(super) fn address_in(line: &str, domain: &str) -> Option<String> {
    let domain = format!("@{domain}");
    line.match_indices(&domain).find_map(|(at, _)| {
        let (before, _) = line.split_at(at);
        let local = before.rsplit(|c| !in_word(c)).next().unwrap_or_default();
        // A Message-ID looks like an address.
        let message_id = ["message-id=<", "msgid=<"]
            .iter()
            .any(|mark| before.ends_with(&format!("{mark}{local}")));
        let somebody = !local.is_empty() && !SYSTEM.contains(&local) && !message_id;
        somebody.then(|| format!("{local}{domain}"))
    })
}
