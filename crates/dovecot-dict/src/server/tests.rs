use std::collections::BTreeMap;
use std::sync::Mutex;

use proptest::prelude::*;
use tokio::io::duplex;

use super::*;
use crate::{Commit, Failure, IterateQuery, Operation, Row};

/// Keeps everything in memory; `shared/broken` fails.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Dict for Memory {
    async fn lookup(&self, _user: &str, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        if key == "shared/broken" {
            return Err(Failure::new("disk\tgone"));
        }
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    async fn iterate(&self, query: IterateQuery) -> Result<Vec<Row>, Failure> {
        if query.path == "shared/broken" {
            return Err(Failure::new("disk gone"));
        }
        let map = self.0.lock().unwrap();
        let below = map.iter().filter(|(key, _)| key.starts_with(&query.path));
        Ok(below
            .map(|(key, value)| Row {
                key: key.clone(),
                value: value.clone(),
            })
            .collect())
    }

    async fn commit(&self, transaction: Transaction) -> Result<Commit, Failure> {
        let mut map = self.0.lock().unwrap();
        for operation in transaction.operations {
            match operation {
                Operation::Set { key, .. } if key == "shared/broken" => {
                    return Err(Failure::new("no space left"));
                }
                Operation::Set { key, value } => {
                    map.insert(key, value);
                }
                Operation::Unset { key } => {
                    map.remove(&key);
                }
                Operation::Increment { .. } => return Ok(Commit::NotFound),
            }
        }
        Ok(Commit::Done)
    }
}

/// Sends `input` in pieces of `piece` bytes, closes, and returns what came back and how the connection ended.
async fn talk(dict: &Memory, limits: &Limits, input: &[u8], piece: usize) -> (Vec<u8>, String) {
    let (ours, theirs) = duplex(64);
    let (mut reader, mut writer) = tokio::io::split(ours);
    let shutdown = CancellationToken::new();
    let send = async {
        for piece in input.chunks(piece) {
            // The server may have hung up already.
            if writer.write_all(piece).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    let receive = async {
        let mut output = Vec::new();
        reader.read_to_end(&mut output).await.unwrap();
        output
    };
    let server = async {
        match serve(theirs, dict, limits, &shutdown).await {
            Ok(()) => "closed".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    let ((), output, end) = tokio::join!(send, receive, server);
    (output, end)
}

fn small() -> Limits {
    Limits {
        line: 200,
        transactions: 2,
        operations: 3,
        bytes: 100,
        idle: Duration::from_secs(5),
    }
}

const HELLO: &str = "H4\t0\t0\t\ttest\n";

/// Clients choose how long their values are.
#[tokio::test]
async fn a_value_that_is_too_long_is_not_stored_and_ends_nothing() {
    for length in [500, 70_000] {
        for piece in [1, 7, 4096] {
            let dict = Memory::default();
            let value = "x".repeat(length);
            let lines = format!(
                "{HELLO}B1\tu@x\t0\nS1\tpriv/a\t{value}\nS1\tpriv/b\t2\nC1\nLpriv/a\tu@x\nLpriv/b\tu@x\n"
            );
            let (output, end) = talk(&dict, &small(), lines.as_bytes(), piece).await;
            assert_eq!(
                String::from_utf8(output).unwrap(),
                "N1\nN\nN\n",
                "{length} {piece}"
            );
            assert_eq!(end, "closed");
        }
    }
    let key = format!("{HELLO}Lpriv/{}\tu@x\n", "x".repeat(500));
    let (_, end) = talk(&Memory::default(), &small(), key.as_bytes(), 4096).await;
    assert_eq!(end, "dict connection: line longer than 200 bytes");
    let no_transaction = format!("{HELLO}S1\tpriv/a\t{}\n", "x".repeat(500));
    let (_, end) = talk(&Memory::default(), &small(), no_transaction.as_bytes(), 4096).await;
    assert_eq!(end, "dict connection: line longer than 200 bytes");
}

#[tokio::test]
async fn transcript() {
    let dict = Memory::default();
    let mut report = String::new();
    for lines in [
        "Lshared/none\tu@x\n",
        "B1\tu@x\t0\nS1\tpriv/a\tone\x01ttwo\nS1\tpriv/b\t2\nV1\tyes\nT1\t5\t6\nC1\n",
        "Lpriv/a\tu@x\nI0\t0\tpriv/\tu@x\nI8\t1\tpriv/\tu@x\n",
        "Lshared/broken\tu@x\nI0\t0\tshared/broken\tu@x\n",
        "B1\tu@x\nB2\tu@x\nU1\tpriv/a\nS2\tpriv/c\t3\nR2\nC1\nI8\t0\tpriv/\tu@x\n",
        "B7\tu@x\nA7\tshared/n\t1\nC7\nB7\tu@x\nS7\tshared/broken\t1\nC7\n",
        "B9\tu@x\nS9\tshared/s\t1\nD9\n",
    ] {
        let (output, end) = talk(&dict, &small(), format!("{HELLO}{lines}").as_bytes(), 4096).await;
        for line in lines.lines() {
            report.push_str(&format!("< {}\n", line.as_bytes().escape_ascii()));
        }
        for line in output.split_inclusive(|&byte| byte == b'\n') {
            report.push_str(&format!("> {}\n", line.escape_ascii()));
        }
        report.push_str(&format!("{end}\n\n"));
    }
    insta::assert_snapshot!(report);
}

#[tokio::test]
async fn what_is_refused_ends_the_connection() {
    let long = "L".repeat(201);
    let long_line = format!("{long}\n");
    let big = format!("B1\tu@x\nS1\tshared/k\t{}\n", "v".repeat(120));
    let hello = |rest: &str| format!("{HELLO}{rest}");
    for (input, end) in [
        (
            "H2\t0\t0\t\ttest\n".to_owned(),
            "no hello of a known version (found version Some(2))",
        ),
        (
            "H5\t0\t0\t\ttest\n".to_owned(),
            "no hello of a known version (found version Some(5))",
        ),
        (
            "Lshared/a\n".to_owned(),
            "no hello of a known version (found version None)",
        ),
        (
            "GET / HTTP/1.1\r\n".to_owned(),
            "no hello of a known version (found version None)",
        ),
        (hello(HELLO), "hello in the middle"),
        (hello(&long), "line longer than 200 bytes"),
        (hello(&long_line), "line longer than 200 bytes"),
        (hello("Q\n"), "unknown command (byte 81)"),
        (hello("C1\n"), "transaction 1 is not open"),
        (hello("S1\tshared/k\tv\n"), "transaction 1 is not open"),
        (hello("V1\tyes\n"), "transaction 1 is not open"),
        (hello("R1\n"), "transaction 1 is not open"),
        (hello("B1\nB1\n"), "transaction 1 begins twice"),
        (hello("B1\nB2\nB3\n"), "too much in open transactions"),
        (hello(&big), "too much in open transactions"),
        (
            hello("B1\nU1\tk\nU1\tk\nU1\tk\nU1\tk\n"),
            "too much in open transactions",
        ),
        (
            hello("B1\nS1\tpriv/k\tv\n"),
            "command S: private key without a user name",
        ),
    ] {
        let (output, found) = talk(&Memory::default(), &small(), input.as_bytes(), 4096).await;
        assert_eq!(found, format!("dict connection: {end}"), "{input:?}");
        assert_eq!(output, b"", "{input:?}");
    }
}

#[tokio::test]
async fn limits_count_only_open_transactions() {
    let mut input = HELLO.to_owned();
    for id in 0..50 {
        let end = if id % 2 == 0 { 'C' } else { 'R' };
        input.push_str(&format!(
            "B{id}\tu@x\nS{id}\tpriv/k\t{}\n{end}{id}\n",
            "v".repeat(80)
        ));
    }
    let (output, end) = talk(&Memory::default(), &small(), input.as_bytes(), 4096).await;
    assert_eq!(end, "closed");
    assert_eq!(output.split(|&byte| byte == b'\n').count(), 26);
}

#[tokio::test]
async fn a_transaction_is_seen_by_its_own_connection_only() {
    let dict = Memory::default();
    let limits = Limits::default();
    let shutdown = CancellationToken::new();
    let (mut one, server_one) = duplex(1024);
    let (mut two, server_two) = duplex(1024);
    let client = async {
        one.write_all(format!("{HELLO}B1\tu@x\nS1\tshared/k\tone\n").as_bytes())
            .await
            .unwrap();
        two.write_all(format!("{HELLO}B1\tu@x\nS1\tshared/k\ttwo\nC1\n").as_bytes())
            .await
            .unwrap();
        let mut reply = [0; 3];
        two.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"O1\n");
        // The first connection vanishes with its transaction open.
        drop((one, two));
    };
    let (one, two, ()) = tokio::join!(
        serve(server_one, &dict, &limits, &shutdown),
        serve(server_two, &dict, &limits, &shutdown),
        client
    );
    one.unwrap();
    two.unwrap();
    assert_eq!(dict.0.lock().unwrap().get("shared/k"), Some(&b"two".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dropped() {
    let limits = small();
    let dict = Memory::default();
    let shutdown = CancellationToken::new();
    for (input, quiet) in [
        (HELLO.to_owned(), true),
        (format!("{HELLO}Lshared/"), false),
        (format!("{HELLO}B1\tu@x\n"), false),
    ] {
        let (mut peer, server) = duplex(1024);
        peer.write_all(input.as_bytes()).await.unwrap();
        let result = serve(server, &dict, &limits, &shutdown).await;
        assert_eq!(result.is_ok(), quiet, "{input:?}");
    }
    // A peer that takes no reply.
    let (mut peer, server) = duplex(64);
    let client = async {
        peer.write_all(format!("{HELLO}{}", "Lshared/x\n".repeat(400)).as_bytes())
            .await
            .unwrap_err();
    };
    let (result, ()) = tokio::join!(serve(server, &dict, &limits, &shutdown), client);
    assert!(matches!(result, Err(ConnectionError::Timeout)));
}

#[tokio::test(start_paused = true)]
async fn shutdown_answers_what_has_arrived() {
    let dict = Memory::default();
    let limits = Limits::default();
    let shutdown = CancellationToken::new();
    let (mut peer, server) = duplex(1024);
    peer.write_all(format!("{HELLO}Lshared/x\nLshared/").as_bytes())
        .await
        .unwrap();
    shutdown.cancel();
    serve(server, &dict, &limits, &shutdown).await.unwrap();
    let mut output = Vec::new();
    peer.read_to_end(&mut output).await.unwrap();
    assert_eq!(output, b"N\n");
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_a_transaction_be_finished() {
    let dict = Memory::default();
    let limits = Limits::default();
    let shutdown = CancellationToken::new();
    let (mut peer, server) = duplex(1024);
    peer.write_all(format!("{HELLO}B1\tu@x\nS1\tshared/k\tv\n").as_bytes())
        .await
        .unwrap();
    shutdown.cancel();
    let client = async {
        tokio::time::sleep(GRACE / 2).await;
        peer.write_all(b"C1\n").await.unwrap();
        let mut output = Vec::new();
        peer.read_to_end(&mut output).await.unwrap();
        assert_eq!(output, b"O1\n");
    };
    let (result, ()) = tokio::join!(serve(server, &dict, &limits, &shutdown), client);
    result.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_of_any_size_give_the_same_replies(
        piece in 1_usize..70,
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..12),
    ) {
        let mut input = HELLO.as_bytes().to_vec();
        let mut expected = Vec::new();
        for (id, value) in (0_u32..).zip(values) {
            let user = "u@x".to_owned();
            let key = format!("priv/{id}");
            Command::Begin { id, user: user.clone(), expire_secs: 0 }.encode(&mut input);
            let operation = Operation::Set { key: key.clone(), value: value.clone() };
            Command::Operation { id, operation }.encode(&mut input);
            Command::Commit { id, detached: false }.encode(&mut input);
            Command::Lookup { key, user }.encode(&mut input);
            Reply::Committed { id, detached: false, result: Ok(Commit::Done) }.encode(&mut expected);
            Reply::Value(value).encode(&mut expected);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (output, end) = runtime.block_on(talk(&Memory::default(), &small(), &input, piece));
        prop_assert_eq!(end, "closed");
        prop_assert_eq!(output, expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(input in prop::collection::vec(any::<u8>(), 0..400), greet in any::<bool>()) {
        let mut all = if greet { HELLO.as_bytes().to_vec() } else { Vec::new() };
        all.extend(input);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(talk(&Memory::default(), &small(), &all, 7));
    }
}
