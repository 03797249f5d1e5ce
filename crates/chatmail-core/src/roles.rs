//! Local parts that belong to a role, such as `postmaster`, and not to a person. Only the operator can create them.

/// Local parts of roles in alphabetical order, without separators: `web-master` is `webmaster`.
///
/// These are the names of RFC 2142, those to which certificate authorities send proofs of control (CA/Browser Forum
/// Baseline Requirements 3.2.2.4.4), those that mail software uses, Unix users, and names that people take for the
/// operator.
const ROLES: &[&str] = &[
    "abuse",
    "account",
    "accounts",
    "admin",
    "administration",
    "administrator",
    "all",
    "anonymous",
    "autoconfig",
    "autodiscover",
    "backup",
    "billing",
    "bin",
    "bounce",
    "bounces",
    "ca",
    "caa",
    "cert",
    "certificate",
    "certificates",
    "certmaster",
    "chatmail",
    "contact",
    "cron",
    "daemon",
    "deltachat",
    "devnull",
    "dkim",
    "dmarc",
    "dnsadmin",
    "domain",
    "domainadmin",
    "domains",
    "donotreply",
    "doublebounce",
    "dovecot",
    "everybody",
    "everyone",
    "feedback",
    "ftp",
    "help",
    "helpdesk",
    "hostmaster",
    "imap",
    "info",
    "information",
    "is",
    "it",
    "legal",
    "list",
    "listmaster",
    "listserv",
    "localhost",
    "mail",
    "mailadmin",
    "mailer",
    "mailerdaemon",
    "mailman",
    "mailmaster",
    "majordomo",
    "marketing",
    "mis",
    "moderator",
    "mta",
    "mtasts",
    "netadmin",
    "network",
    "news",
    "newsletter",
    "nobody",
    "noc",
    "noreply",
    "notification",
    "notifications",
    "office",
    "opendkim",
    "operator",
    "owner",
    "phishing",
    "pki",
    "pop",
    "postfix",
    "postmaster",
    "press",
    "privacy",
    "register",
    "registrar",
    "registration",
    "reply",
    "root",
    "sales",
    "security",
    "server",
    "service",
    "smtp",
    "soc",
    "spam",
    "ssladmin",
    "ssladministrator",
    "sslwebmaster",
    "staff",
    "superuser",
    "support",
    "sysadmin",
    "sysadministrator",
    "sysmaster",
    "system",
    "technical",
    "tlsrpt",
    "trouble",
    "undisclosedrecipients",
    "unsubscribe",
    "usenet",
    "uucp",
    "vmail",
    "webadmin",
    "webmail",
    "webmaster",
    "www",
    "wwwdata",
];

/// Whether a local part is that of a role, whatever its case and separators.
pub fn is_role(localpart: &str) -> bool {
    let bare: String = localpart
        .chars()
        .filter(|c| !matches!(c, '.' | '_' | '-'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    ROLES.binary_search(&bare.as_str()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_found_by_binary_search() {
        assert!(ROLES.is_sorted());
        for role in ROLES {
            assert!(is_role(role), "{role}");
        }
    }
}
