//! `chatmail doctor --from`: the computer that runs the lab is the other machine. A stand-in takes the place of ssh(1),
//! and passes connections and scripts on to this process, which runs them here.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::super::Context;
use super::expected::{expect, name_addresses, shell};

const RELAY: &str = "a";

/// The stand-in: asks for a connection or for bash, and copies in both directions.
fn ssh(host: Ipv4Addr, port: u16) -> String {
    format!(
        r#"#!/usr/bin/bash
wanted=bash
while (($# > 0)); do
  case $1 in
  -o) shift ;;
  -W) wanted=$2; shift ;;
  refused) echo 'refused: Permission denied (publickey).' >&2; exit 255 ;;
  esac
  shift
done
exec 3<>/dev/tcp/{host}/{port}
echo "$wanted" >&3
if [[ $wanted == bash ]]; then
  script=$(cat)
  # The clock of the other machine, as the script there sees it.
  [[ ! -e /run/behind ]] || script="date() {{ command date -d '2 minutes' \"\$@\"; }}; $script"
  printf '%s\n\0' "$script" >&3
  exec cat <&3
fi
cat <&3 & cat >&3
wait
"#
    )
}

/// Serves one connection of the stand-in.
async fn serve(stream: TcpStream) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut wanted = String::new();
    stream.read_line(&mut wanted).await?;
    if wanted.trim() != "bash" {
        let mut there = TcpStream::connect(wanted.trim()).await?;
        tokio::io::copy_bidirectional(&mut stream, &mut there).await?;
        return Ok(());
    }
    let mut script = Vec::new();
    stream.read_until(0, &mut script).await?;
    script.pop();
    let mut bash = Command::new("bash")
        .arg("-s")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    bash.stdin.take().context("no pipe")?.write_all(&script).await?;
    let mut text = Vec::new();
    bash.stdout
        .take()
        .context("no pipe")?
        .read_to_end(&mut text)
        .await?;
    stream.write_all(&text).await?;
    stream.shutdown().await?;
    Ok(())
}

pub(in super::super) async fn from_another_machine(context: &Context) -> anyhow::Result<()> {
    name_addresses(context).await?;
    let host = context.topology.host;
    let listener = TcpListener::bind((host, 0)).await?;
    let port = listener.local_addr()?.port();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    fs::write(
        context.machines().root(RELAY).join("var/lib/lab-ssh"),
        ssh(host, port),
    )?;
    shell(
        context,
        RELAY,
        "mkdir -p /run/lab-ssh; install -m 0755 /var/lib/lab-ssh /run/lab-ssh/ssh",
    )
    .await?;
    let played = play(context).await;
    shell(context, RELAY, "rm -r /run/lab-ssh /var/lib/lab-ssh").await?;
    serving.abort();
    played
}

async fn play(context: &Context) -> anyhow::Result<()> {
    let from = ["--from", "other"];
    expect(context, RELAY, &from, &[])
        .await
        .context("before anything is broken")?;
    for (name, provoke, mend, expected) in FAULTS {
        shell(context, RELAY, provoke).await?;
        let found = expect(context, RELAY, &from, expected).await;
        shell(context, RELAY, mend).await?;
        found.context(*name)?;
        expect(context, RELAY, &from, &[])
            .await
            .with_context(|| format!("{name}: afterwards"))?;
    }
    let refused = "cannot run bash on refused: refused: Permission denied (publickey).";
    let checks = ["from-ports", "from-udp", "from-clock"];
    expect(
        context,
        RELAY,
        &[&["--from", "refused"][..], &checks].concat(),
        &checks.map(|check| (check, refused)),
    )
    .await
    .context("a refused login")
}

/// A fault, the scripts that provoke and mend it, and the failures.
pub(super) type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

/// A firewall in front of the relay: rules of routing drop what arrives over the network. The relay itself still sees
/// its ports open.
pub(super) const FAULTS: &[Row] = &[
    (
        "a firewall that closes a port",
        "ip rule add priority 2 lookup local; ip rule del priority 0; \
         ip rule add priority 1 iif eth0 ipproto tcp dport 587 blackhole",
        "ip rule add priority 0 lookup local; ip rule del priority 1; ip rule del priority 2",
        &[("from-ports", "198.18.25.11:587 STARTTLS")],
    ),
    (
        "a firewall that closes the UDP ports of calls",
        "ip rule add priority 2 lookup local; ip rule del priority 0; \
         ip rule add priority 1 iif eth0 ipproto udp dport 50000-52999 blackhole",
        "ip rule add priority 0 lookup local; ip rule del priority 1; ip rule del priority 2",
        &[("from-udp", "datagrams do not reach UDP ports 50000 to 52999")],
    ),
    (
        "a firewall that closes the port of TURN",
        "ip rule add priority 2 lookup local; ip rule del priority 0; \
         ip rule add priority 1 iif eth0 ipproto udp dport 3478 blackhole",
        "ip rule add priority 0 lookup local; ip rule del priority 1; ip rule del priority 2",
        &[("from-udp", "TURN does not answer on UDP port 3478")],
    ),
    (
        "a clock that is two minutes behind that of the other machine",
        "touch /run/behind",
        "rm /run/behind",
        &[("from-clock", "the clock differs by 1")],
    ),
];
