//! Hostile input for parsers, made of what they accept. Shared with the lab, whose Python reads the same.

use proptest::prelude::*;
use proptest::sample::Index;

/// A change to a text: some bytes are replaced by others.
type Change = (Index, usize, usize);

/// Raw values of `From` fields.
pub(crate) fn from_values() -> impl Strategy<Value = Vec<u8>> {
    const SEEDS: [&str; 14] = [
        " a@b.test",
        " <a@b.test>",
        "\t<a@b.test>",
        "\r\n <a@b.test>",
        " A. B <a@b.test>",
        " \"A, \\\" B\" <a@b.test>",
        " \"a@b.test\" <a@b.test>",
        " =?utf-8?q?A_B=2C?= =?iso-8859-1?b?QQ==?= <a@b.test>",
        " A =?utf-8?q?B?=\r\n\tC <a@b.test>",
        " \u{e9}\u{2003}\u{4e2d} <a@b.test>",
        " MAILER-DAEMON@b.test (Mail Delivery System)",
        " a@[192.0.2.1]",
        " <a@[IPv6:2001:db8::1]>",
        " Boss \"<boss@b.test>(\" <a@c.test> (c)",
    ];
    const PIECES: [&[u8]; 44] = [
        b"<",
        b">",
        b"(",
        b")",
        b"\"",
        b"\\",
        b"@",
        b",",
        b":",
        b";",
        b"[",
        b"]",
        b".",
        b" ",
        b"\t",
        b"\r\n ",
        b"\r\n\t",
        b"\r\n \r\n ",
        b"=?utf-8?q?",
        b"=?",
        b"?=",
        b"?",
        b"=40",
        b"=3C",
        b"=?utf-8?q?x?=",
        b"=?utf-8?b?eA==?=",
        b"c@d.test",
        b"<c@d.test>",
        b"(c@d.test)",
        b"\"c@d.test\"",
        b"c",
        b"\\\"",
        b"!",
        b"%",
        b"'",
        b"mailto:",
        b"\xc3\xa9",
        b"\xff",
        b"\xc2\xa0",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"\x0b",
        b"\x0c",
        b"\0",
    ];
    changed(SEEDS.map(|seed| seed.as_bytes().to_vec()).to_vec(), &PIECES, 4)
}

/// Messages made of these.
pub(crate) fn messages(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&[u8]; 52] = [
        b"--",
        b"--b0undary",
        b"--b0undary--",
        b"\r\n--b0undary\r\n",
        b"\r\n--b0undary--\r\n",
        b"\r\n--b0undary \t\r\n",
        b"\r\n--other\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\r\n \r\n",
        b" ",
        b"\t",
        b"\"",
        b"\\",
        b";",
        b"=",
        b";boundary=other",
        b"; boundary=\"other\"",
        b"; boundary*=other",
        b"; boundary*0=other",
        b"(",
        b"(other)",
        b"=?utf-8?q?",
        b"?=",
        b"=?utf-8?q?other?=",
        b"text",
        b"text/plain",
        b"multipart/mixed",
        b"\r\nX-A: b\r\n",
        b"\r\nX-A : b\r\n",
        b"Content-Type: text/plain\r\n",
        b"Content-Type : text/plain\r\n",
        b"Content-Type: multipart/mixed; boundary=other\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n",
        b"base64",
        b"7bit",
        b"MIME-Version: 1.0\r\n",
        b"Content-Disposition: inline; filename=a.txt\r\n",
        b"\r\n\r\nSee you at noon.\r\n",
        b"This is an OpenPGP/MIME encrypted message (RFC 4880 and 3156)\r\n",
        b"charset=utf-7;",
        b"name=\"a b;c\";",
        b"name=a;",
        b"\xc2\xa0",
        b"\xff",
        b"\xe2\x80\xa8",
        b"\x0b",
        b"\x0c",
        b"\0",
        b"Version: 1",
        b"secure-join: vc-request",
    ];
    changed(seeds, &PIECES, 3)
}

/// One of the seeds with up to so many changes.
fn changed(
    seeds: Vec<Vec<u8>>,
    pieces: &'static [&'static [u8]],
    changes: usize,
) -> impl Strategy<Value = Vec<u8>> {
    let change = (
        any::<Index>(),
        prop_oneof![3 => Just(0_usize), 1 => 1..8_usize],
        0..pieces.len(),
    );
    (any::<Index>(), prop::collection::vec(change, 0..=changes)).prop_map(move |(seed, changes)| {
        let seed = seed.get(&seeds).clone();
        with_whole_line_breaks(
            &changes
                .iter()
                .fold(seed, |text, change| change_at(text, pieces, change)),
        )
    })
}

/// Half of the changes are made where a line begins or ends, or at a delimiter of a field: that is where parsers
/// differ.
fn change_at(mut text: Vec<u8>, pieces: &[&[u8]], (at, length, piece): &Change) -> Vec<u8> {
    let edges: Vec<usize> = (0..text.len())
        .filter(|at| {
            text[..*at].ends_with(b"\n")
                || text[*at..].starts_with(b"\r\n")
                || b";\"=<>@/ ".contains(&text[*at])
        })
        .collect();
    let anywhere = at.index(2 * (text.len() + 1));
    let begin = match anywhere.checked_sub(text.len() + 1) {
        Some(at) if !edges.is_empty() => edges[at % edges.len()],
        _ => anywhere.min(text.len()),
    };
    let end = (begin + length).min(text.len());
    text.splice(begin..end, pieces[*piece].iter().copied());
    text
}

/// Removes CR and LF on their own, which the SMTP side rejects.
fn with_whole_line_breaks(text: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(text.len());
    for (at, b) in text.iter().enumerate() {
        let bare = match b {
            b'\r' => text.get(at + 1) != Some(&b'\n'),
            b'\n' => at == 0 || text[at - 1] != b'\r',
            _ => false,
        };
        whole.extend((!bare).then_some(*b));
    }
    whole
}

/// The message as Postfix queues it, without white space between the name of a field and its colon.
pub(crate) fn queued(message: &[u8]) -> Vec<u8> {
    let head = message
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map_or(message.len(), |at| at + 2);
    let (head, rest) = message.split_at(head);
    let mut queued = Vec::with_capacity(message.len());
    for line in head.split_inclusive(|b| *b == b'\n') {
        let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let is_field = !value.is_empty() && !name.starts_with(b" ") && !name.starts_with(b"\t");
        queued.extend_from_slice(if is_field { name.trim_ascii_end() } else { name });
        queued.extend_from_slice(value);
    }
    queued.extend_from_slice(rest);
    queued
}
