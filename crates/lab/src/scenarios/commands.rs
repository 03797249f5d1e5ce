//! Every IMAP command that the relay offers, sent once, and the limits on what one account can store.

use anyhow::{Context as _, ensure};
use mailtest::client::imap::{Completed, Imap, Status};
use mailtest::client::message::random_name;
use mailtest::client::pgp;

use super::Context;
use crate::harness::mailboxes;
use crate::machine::Cursor;

const RELAY: &str = "a";
/// A relay whose limits are low enough to reach within seconds.
const SMALL: &str = "c";
/// Limits of that relay.
const FOLDERS: usize = 20;
const MESSAGES: usize = 200;
const ENTRIES: usize = 10;

/// Parts of Dovecot's responses to internal errors.
const INTERNAL: [&str; 3] = ["SERVERBUG", "Internal error", "internal error"];

/// Commands in order, with the expected status. `@` stands for a message as a literal.
const AUTHENTICATED: &[(&str, Status)] = &[
    ("CAPABILITY", Status::Ok),
    ("NOOP", Status::Ok),
    ("ID NIL", Status::Ok),
    ("ID (\"name\" \"lab\" \"version\" NIL)", Status::Ok),
    ("NAMESPACE", Status::Ok),
    ("ENABLE CONDSTORE QRESYNC", Status::Ok),
    ("LIST \"\" \"\"", Status::Ok),
    ("LIST \"\" *", Status::Ok),
    ("LIST (SPECIAL-USE) \"\" *", Status::Ok),
    (
        "LIST (SUBSCRIBED RECURSIVEMATCH) \"\" (\"INBOX\" \"%\") RETURN (SUBSCRIBED CHILDREN SPECIAL-USE STATUS (MESSAGES UIDNEXT SIZE))",
        Status::Ok,
    ),
    ("LSUB \"\" *", Status::Ok),
    ("CREATE Box", Status::Ok),
    ("CREATE Box", Status::No),
    ("CREATE Box.Child", Status::Ok),
    ("CREATE Box.Child.Grandchild", Status::Ok),
    ("CREATE Parent.", Status::Ok),
    ("CREATE \"B&APw-cher\"", Status::Ok),
    ("CREATE {9+}\r\nBy a name", Status::Ok),
    ("CREATE \"../../escape\"", Status::No),
    ("SUBSCRIBE Box", Status::Ok),
    ("SUBSCRIBE Nowhere", Status::No),
    ("LSUB \"\" *", Status::Ok),
    ("UNSUBSCRIBE Box", Status::Ok),
    ("UNSUBSCRIBE Box", Status::Ok),
    ("RENAME Box.Child Other", Status::Ok),
    ("RENAME Nowhere Somewhere", Status::No),
    (
        "STATUS Box (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN SIZE HIGHESTMODSEQ)",
        Status::Ok,
    ),
    ("STATUS Nowhere (MESSAGES)", Status::No),
    ("APPEND Box @", Status::Ok),
    (
        "APPEND Box (\\Seen $Forwarded) \"01-Jan-2026 00:00:00 +0000\" @ (\\Flagged) @",
        Status::Ok,
    ),
    ("APPEND Box CATENATE (TEXT @ TEXT @)", Status::Ok),
    ("APPEND Nowhere @", Status::No),
    ("GETQUOTA \"User quota\"", Status::Ok),
    ("GETQUOTAROOT Box", Status::Ok),
    ("SETQUOTA \"User quota\" (STORAGE 1)", Status::No),
    ("GETMETADATA \"\" /shared/admin", Status::Ok),
    ("GETMETADATA \"\" (/shared/comment /private/comment)", Status::Ok),
    (
        "GETMETADATA (DEPTH infinity MAXSIZE 100) \"\" (/shared /private)",
        Status::Ok,
    ),
    ("GETMETADATA (DEPTH 1) Box (/private /shared)", Status::Ok),
    (
        "GETMETADATA Box (/private/comment /shared/comment /private/none)",
        Status::Ok,
    ),
    (
        "SETMETADATA Box (/private/comment \"mine\" /shared/comment \"everybody's\")",
        Status::Ok,
    ),
    (
        "SETMETADATA Box (/private/vendor/lab/entry {5+}\r\nvalue)",
        Status::Ok,
    ),
    ("SETMETADATA Box (/private/vendor/lab/empty \"\")", Status::Ok),
    (
        "SETMETADATA Box (/private/comment NIL /private/none NIL /shared/none NIL)",
        Status::Ok,
    ),
    (
        "SETMETADATA \"\" (/private/comment \"of the server\")",
        Status::Ok,
    ),
    (
        "SETMETADATA \"\" (/private/comment NIL /shared/vendor/lab/none NIL)",
        Status::Ok,
    ),
    ("SETMETADATA \"\" (/shared/admin \"mailto:x\")", Status::No),
    ("SETMETADATA \"\" (/shared/comment NIL)", Status::No),
    ("SETMETADATA Nowhere (/private/comment \"x\")", Status::No),
    ("SETMETADATA INBOX (/private/specialuse \"\\\\Junk\")", Status::No),
    ("SETMETADATA INBOX (/private/devicetoken \"token\")", Status::Ok),
    ("SETMETADATA INBOX (/private/devicetoken NIL)", Status::Ok),
    (
        "NOTIFY SET (SELECTED (MessageNew (FLAGS) MessageExpunge FlagChange))",
        Status::Ok,
    ),
    ("NOTIFY NONE", Status::Ok),
    ("NONSENSE", Status::Bad),
    ("SELECT Nowhere", Status::No),
    ("EXAMINE Box", Status::Ok),
    ("SELECT Box (QRESYNC (1 1))", Status::Ok),
    ("SELECT Box", Status::Ok),
];

/// Commands while the mailbox Box with four messages is selected.
const SELECTED: &[(&str, Status)] = &[
    ("CHECK", Status::Ok),
    ("SEARCH ALL", Status::Ok),
    ("SEARCH RETURN (MIN MAX COUNT ALL) UNDELETED", Status::Ok),
    ("SEARCH RETURN (SAVE) ALL", Status::Ok),
    ("SEARCH CHARSET UTF-8 TEXT {2+}\r\n\u{fc}", Status::Ok),
    ("SEARCH CHARSET EBCDIC-9 TEXT x", Status::No),
    ("UID SEARCH UID 1:* YOUNGER 1000 NOT SEEN", Status::Ok),
    ("SEARCH SAVEDSINCE 1-Jan-2020", Status::Ok),
    ("SEARCH MODSEQ 1", Status::Ok),
    ("SORT (REVERSE ARRIVAL SUBJECT DISPLAYFROM) UTF-8 ALL", Status::Ok),
    ("UID SORT RETURN (ALL) (SIZE) UTF-8 ALL", Status::Ok),
    ("THREAD REFERENCES UTF-8 ALL", Status::Ok),
    ("THREAD REFS UTF-8 ALL", Status::Ok),
    ("THREAD ORDEREDSUBJECT UTF-8 ALL", Status::Ok),
    ("FETCH 1:* ALL", Status::Ok),
    ("FETCH 1:* FULL", Status::Ok),
    ("FETCH 1:* FAST", Status::Ok),
    (
        "FETCH 1 (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE MODSEQ SAVEDATE PREVIEW)",
        Status::Ok,
    ),
    (
        "FETCH $ (BODY.PEEK[] BODY.PEEK[HEADER] BODY.PEEK[TEXT] BODY.PEEK[1] BODY.PEEK[1.MIME] BODY.PEEK[HEADER.FIELDS (FROM)] BODY[]<0.10>)",
        Status::Ok,
    ),
    ("FETCH 1 (BINARY.SIZE[1])", Status::Ok),
    ("FETCH 1:* (RFC822 RFC822.HEADER RFC822.TEXT)", Status::Ok),
    ("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 1 VANISHED)", Status::Ok),
    ("FETCH 99 (FLAGS)", Status::Bad),
    ("STORE 1 +FLAGS (\\Seen $Label)", Status::Ok),
    ("STORE 1 -FLAGS.SILENT (\\Seen)", Status::Ok),
    ("STORE 1 FLAGS ()", Status::Ok),
    ("UID STORE 1:* (UNCHANGEDSINCE 1) FLAGS (\\Seen)", Status::Ok),
    ("STORE 1 +FLAGS (\\Recent)", Status::Bad),
    ("COPY 1 Other", Status::Ok),
    ("UID COPY 1:* Other.Grandchild", Status::Ok),
    ("COPY 1 Nowhere", Status::No),
    ("MOVE 1 Other", Status::Ok),
    ("UID MOVE 2 Other", Status::Ok),
    ("MOVE 1 Nowhere", Status::No),
    ("STORE 1 +FLAGS (\\Deleted)", Status::Ok),
    ("UID EXPUNGE 1:*", Status::Ok),
    ("STORE 1 +FLAGS (\\Deleted)", Status::Ok),
    ("EXPUNGE", Status::Ok),
    ("GETMETADATA Box (/private/comment)", Status::Ok),
    ("UNSELECT", Status::Ok),
    ("SELECT Other", Status::Ok),
    ("CLOSE", Status::Ok),
    // With messages, with METADATA entries, empty, with children, and those that the relay creates.
    ("DELETE Other", Status::Ok),
    ("DELETE Other.Grandchild", Status::Ok),
    ("DELETE Box", Status::Ok),
    ("DELETE Parent", Status::Ok),
    ("DELETE \"B&APw-cher\"", Status::Ok),
    ("DELETE \"By a name\"", Status::Ok),
    ("DELETE Nowhere", Status::No),
    ("DELETE INBOX", Status::No),
    ("CREATE Sent", Status::Ok),
    ("DELETE Sent", Status::Ok),
    ("RENAME INBOX Former", Status::No),
];

/// Sends a command, with a message in place of each `@`.
async fn play(imap: &mut Imap, sender: &str, command: &str) -> anyhow::Result<Completed> {
    let message = pgp::encrypted(sender, 200).bytes();
    let literal = format!("{{{}+}}\r\n{}", message.len(), String::from_utf8_lossy(&message));
    imap.command(&command.replace('@', &literal)).await
}

/// Returns every line that Dovecot has logged since then; fails if one reports an error.
async fn no_error(context: &Context, relay: &str, start: &Cursor) -> anyhow::Result<()> {
    for unit in ["dovecot", "chatmail-metadata"] {
        let lines = context.machines().journal(relay, Some(unit), start).await?;
        let bad = lines.iter().find(|line| {
            ["Error: ", "Panic: ", "Fatal: ", "ERROR "]
                .iter()
                .any(|sign| line.contains(sign))
        });
        ensure!(bad.is_none(), "{unit} logs {bad:?}");
    }
    Ok(())
}

pub(super) async fn every_command(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines();
    let account = context.account(RELAY).await?;
    let start = lab.cursor(RELAY).await?;
    let mut imap = account.imap().await?;
    for (command, wanted) in AUTHENTICATED.iter().chain(SELECTED) {
        let ended = play(&mut imap, &account.address, command)
            .await
            .with_context(|| format!("{command:?} closes the session"))?;
        let internal = INTERNAL.iter().any(|sign| ended.text.contains(sign));
        ensure!(
            ended.status == *wanted && !internal,
            "the response to {command:?} is {:?} {}",
            ended.status,
            ended.text
        );
    }
    imap.select_inbox().await?;
    imap.idle().await?.done().await?;
    imap.command("LOGOUT").await?.ok()?;
    no_error(context, RELAY, &start).await
}

/// Folders, messages of one byte and METADATA entries are limited, and reaching a limit causes no internal error.
pub(super) async fn bounded_account(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines();
    let account = context.account(SMALL).await?;
    let start = lab.cursor(SMALL).await?;
    let mut imap = account.imap().await?;

    let mut made = 0;
    let refused = loop {
        let created = imap.command(&format!("CREATE {}", random_name(8))).await?;
        if created.status != Status::Ok {
            break created;
        }
        made += 1;
        ensure!(made <= FOLDERS, "an account can create {made} folders");
    };
    ensure!(
        refused.text.starts_with("[LIMIT]"),
        "the response at the limit of folders is: {}",
        refused.text
    );
    ensure!(made + 10 > FOLDERS, "an account can create only {made} folders");

    let mut stored = 0;
    let refused = loop {
        let appended = imap.command("APPEND INBOX {1+}\r\nx").await?;
        if appended.status != Status::Ok {
            break appended;
        }
        stored += 1;
        ensure!(stored <= MESSAGES, "an account can store {stored} messages");
    };
    ensure!(
        refused.text.starts_with("[OVERQUOTA]"),
        "the response at the limit of messages is: {}",
        refused.text
    );
    ensure!(stored == MESSAGES, "an account can store only {stored} messages");

    for number in 0..ENTRIES * 3 {
        let command = format!(
            "SETMETADATA INBOX (/private/vendor/lab/{number} \"{}\")",
            "x".repeat(1000)
        );
        imap.command(&command).await?.ok()?;
    }
    let last = format!("GETMETADATA INBOX (/private/vendor/lab/{})", ENTRIES * 3 - 1);
    let kept = imap.command(&last).await?.ok()?;
    let kept = format!("{:?}", kept.data("METADATA").collect::<Vec<_>>());
    ensure!(kept.contains("120, 120"), "the last entry is not stored: {kept}");
    // Values that cannot be stored cause no internal error: one above the limit, and one that dict cannot transfer.
    for bytes in [60_000, 300_000] {
        let value = "x".repeat(bytes);
        let long = format!("SETMETADATA INBOX (/private/vendor/lab/long {{{bytes}+}}\r\n{value})");
        imap.command(&long).await?.ok()?;
    }

    let home = mailboxes::of(&account);
    let size = context
        .run(SMALL, &["stat", "-c", "%s", &format!("{home}/metadata.json")])
        .await?;
    let size: usize = size.trim().parse()?;
    ensure!(size < ENTRIES * 2000, "metadata.json has {size} bytes");
    let files = context.run(SMALL, &["find", &home]).await?.lines().count();
    ensure!(
        files < MESSAGES + FOLDERS * 12 + 50,
        "the account occupies {files} files and folders"
    );
    no_error(context, SMALL, &start).await
}
