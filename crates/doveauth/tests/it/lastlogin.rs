//! `lastlogin` as Dovecot's plugin speaks to it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use chatmail_core::account::day_of;

use crate::relay::{DOMAIN, PATIENCE, Process, Relay};

#[test]
fn a_login_is_stored_as_its_day() {
    let relay = Relay::new();
    let user = format!("abcdefghi@{DOMAIN}");
    let account = relay.account(&user);
    account.create("x").unwrap();
    let mut process = Process(
        Command::new(env!("CARGO_BIN_EXE_lastlogin"))
            .arg("--settings")
            .arg(relay.settings_file())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let began = SystemTime::now();
    let mut stream = loop {
        match UnixStream::connect(&relay.settings.lastlogin.socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(began.elapsed().unwrap() < PATIENCE, "{error}"),
        }
        assert_eq!(process.0.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(5));
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // As Dovecot 2.4.1 writes it.
    write!(
        stream,
        "H4\t0\t0\t\tlastlogin\nB1\t{user}\t0\nS1\tshared/last-login/{user}\t1795551790\nC1\n"
    )
    .unwrap();
    let mut reply = String::new();
    BufReader::new(&stream).read_line(&mut reply).unwrap();
    assert_eq!(reply, "O1\n");
    let login = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_551_790);
    assert_eq!(account.last_login().unwrap(), Some(day_of(login)));
}
