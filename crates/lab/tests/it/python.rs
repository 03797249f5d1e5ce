//! Checks that Python's `email`, a parser independent of `mailparse`, agrees with the filters on messages that they
//! accept.

use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use filtermail::check::incoming::{self, Examined, Kind};
use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde::Deserialize;

use crate::generator;

/// Number of generated messages per test.
const MESSAGES: usize = 5000;

/// A message as Python parses it.
#[derive(Debug, Deserialize)]
struct Reading {
    senders: Vec<String>,
    r#type: String,
    preamble: String,
    epilogue: String,
    parts: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    r#type: String,
    multipart: bool,
    body: Option<String>,
}

impl Part {
    fn text(&self) -> String {
        let body = STANDARD.decode(self.body.as_deref().unwrap()).unwrap();
        String::from_utf8(body).unwrap()
    }
}

/// Generated messages that the filter accepts as `kind`, with its result.
fn passing(messages: &impl Strategy<Value = Vec<u8>>, kind: Kind) -> Vec<(Vec<u8>, Examined)> {
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &rand::random::<[u8; 32]>());
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let passing: Vec<_> = (0..MESSAGES)
        .map(|_| messages.new_tree(&mut runner).unwrap().current())
        .filter_map(|message| Some((generator::queued(&message), incoming::examine(&message, "").ok()?)))
        .filter(|(_, examined)| examined.kind == kind)
        .collect();
    assert!(
        passing.len() > MESSAGES / 20,
        "only {} messages pass",
        passing.len()
    );
    passing
}

/// What Python makes of each message: its reading, or the exception that it raised.
fn read<'a>(messages: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Reading, String>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/reader.py");
    let mut python = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    let lines: String = messages
        .map(|message| format!("\"{}\"\n", STANDARD.encode(message)))
        .collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Generated messages that the filter accepts as `kind`, with its result and that of Python.
fn compared(messages: &impl Strategy<Value = Vec<u8>>, kind: Kind) -> Vec<(String, Examined, Reading)> {
    let passing = passing(messages, kind);
    let readings = read(passing.iter().map(|(message, _)| message.as_slice()));
    assert_eq!(readings.len(), passing.len());
    passing
        .into_iter()
        .zip(readings)
        .map(|((message, examined), reading)| {
            let message = String::from_utf8_lossy(&message).into_owned();
            let reading = reading.unwrap_or_else(|error| panic!("{error} in {message:?}"));
            (message, examined, reading)
        })
        .collect()
}

#[test]
fn python_sees_the_sender_that_we_verify() {
    let messages = generator::from_values()
        .prop_map(|value| [b"From:".as_slice(), &value, b"\r\nSubject: x\r\n\r\nhello\r\n"].concat());
    for (message, examined, reading) in compared(&messages, Kind::Cleartext) {
        assert_eq!(reading.senders, [examined.from], "{message}");
    }
}

#[test]
fn python_sees_the_parts_that_we_see() {
    for (message, examined, reading) in compared(&generator::messages(seeds()), Kind::Encrypted) {
        assert_eq!(reading.senders, [examined.from], "{message}");
        assert_eq!(reading.epilogue, "", "{message}");
        let sentence = "This is an OpenPGP/MIME encrypted message (RFC ";
        assert!(
            reading.preamble.is_empty() || reading.preamble.starts_with(sentence),
            "{message}"
        );
        assert!(reading.parts.iter().all(|part| !part.multipart), "{message}");
        match reading.parts.as_slice() {
            [version, data] => {
                assert_eq!(reading.r#type, "multipart/encrypted", "{message}");
                assert_eq!(version.r#type, "application/pgp-encrypted", "{message}");
                assert_eq!(version.text().trim(), "Version: 1", "{message}");
                assert_eq!(data.r#type, "application/octet-stream", "{message}");
                let data = data.text();
                assert!(data.starts_with("-----BEGIN PGP MESSAGE-----\r\n"), "{message}");
                assert!(data.trim().ends_with("-----END PGP MESSAGE-----"), "{message}");
            }
            [step] => {
                assert_eq!(step.r#type, "text/plain", "{message}");
                assert!(
                    step.text().trim().to_lowercase().starts_with("secure-join: v"),
                    "{message}"
                );
            }
            parts => panic!("{} parts in {message}", parts.len()),
        }
    }
}

/// The messages of the filter's own tests that it accepts from other relays.
fn seeds() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../filtermail/testdata");
    let files = |name| std::fs::read_dir(format!("{folder}/{name}")).unwrap();
    ["passes", "arriving-only"]
        .into_iter()
        .flat_map(files)
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect()
}
