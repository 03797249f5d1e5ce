//! Checks from another machine over SSH, which sees the firewalls and routes in front of the relay.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use chatmail_core::settings::Turn;
use rand::RngCore as _;
use time::OffsetDateTime;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::inputs::Inputs;
use super::network::judge_ports;
use super::verdict::{Verdict, failed};
use crate::dial::{Dial, Ssh};
use crate::ports;

/// Longest wait for a datagram after the other machine has sent it.
const DATAGRAM: Duration = Duration::from_secs(3);

/// Seconds by which the clocks may differ.
const MAX_DIFFERENCE: i64 = 60;

const FIREWALL: &str = "open it in the firewalls of the host and of the provider, and check the route";

fn ssh(inputs: &Inputs) -> anyhow::Result<&Ssh> {
    inputs.from.as_ref().context("no other machine is given")
}

pub(super) async fn ports(inputs: &Inputs) -> anyhow::Result<Verdict> {
    let ssh = ssh(inputs)?;
    // Opens the shared connection, and tells a failed login from a closed port.
    ssh.bash("true").await?;
    let mut settings = inputs.settings.clone();
    let routes = "ip -6 route show default 2>/dev/null || true";
    let skipped = if ssh.bash(routes).await.is_ok_and(|text| has_ipv6(&text)) {
        None
    } else {
        settings.addresses.retain(IpAddr::is_ipv4);
        inputs.settings.addresses.iter().find(|address| address.is_ipv6())
    };
    let probes = ports::probes(&settings, &Dial::Over(ssh.clone())).await;
    let verdict = judge_ports(&probes, FIREWALL);
    Ok(match (verdict, skipped) {
        (Verdict::Well(text), Some(address)) => Verdict::Well(format!(
            "{text} from {}, which has no IPv6 to check {address}",
            ssh.host
        )),
        (Verdict::Well(text), None) => Verdict::Well(format!("{text} from {}", ssh.host)),
        (verdict, _) => verdict,
    })
}

/// Whether a machine has a default route for IPv6 other than the one that rejects.
fn has_ipv6(routes: &str) -> bool {
    routes.lines().any(|line| line.starts_with("default "))
}

/// Sends from the other machine to sockets that this check opens. A datagram to coturn's port 3478 is a request of STUN
/// (RFC 8489), which it answers.
pub(super) async fn udp(inputs: &Inputs) -> anyhow::Result<Verdict> {
    let ssh = ssh(inputs)?;
    let Some(turn) = &inputs.settings.turn else {
        return Ok(Verdict::Skipped("the relay announces no TURN server".to_owned()));
    };
    let Some(address) = ports::addresses(&inputs.settings)
        .into_iter()
        .find(IpAddr::is_ipv4)
    else {
        return Ok(Verdict::Skipped("the relay has no IPv4 address".to_owned()));
    };
    let mut closed = Vec::new();
    for port in [turn.min_port, turn.max_port] {
        if !arrives(ssh, address, port, turn.max_port).await? {
            closed.push(port);
        }
    }
    let request = format!(
        "exec 3<>/dev/udp/{address}/{port}\n\
         printf '\\x00\\x01\\x00\\x00\\x21\\x12\\xa4\\x42doctordoctor' >&3\n\
         timeout 3 head -c 20 <&3 | wc -c\n",
        port = turn.port
    );
    let answered = ssh.bash(&request).await?;
    let answered = answered.trim().parse::<u32>().is_ok_and(|bytes| bytes > 0);
    Ok(judge_udp(&closed, turn, answered))
}

/// Whether a datagram from the other machine reaches this port of the host.
async fn arrives(ssh: &Ssh, address: IpAddr, port: u16, last: u16) -> anyhow::Result<bool> {
    // coturn may use one of these ports at the moment; the next ones are as good.
    let mut socket = None;
    for offset in 0..32u16 {
        let port = if port == last {
            port.saturating_sub(offset)
        } else {
            port.saturating_add(offset)
        };
        if let Ok(bound) = UdpSocket::bind(SocketAddr::new(address, port)).await {
            socket = Some(bound);
            break;
        }
    }
    let socket = socket.with_context(|| format!("cannot open a UDP port at {address}"))?;
    let token = format!("{:016x}", rand::rng().next_u64());
    let port = socket.local_addr()?.port();
    let script = format!("for i in 1 2 3; do printf {token} >/dev/udp/{address}/{port}; done\n");
    let received = async {
        let mut buffer = [0; 64];
        loop {
            let (length, _) = socket.recv_from(&mut buffer).await?;
            if buffer.get(..length) == Some(token.as_bytes()) {
                return std::io::Result::Ok(());
            }
        }
    };
    let sent = ssh.bash(&script);
    tokio::pin!(received);
    tokio::select! {
        received = &mut received => { received?; return Ok(true) }
        sent = sent => drop(sent?),
    }
    match timeout(DATAGRAM, received).await {
        Ok(received) => received.map(|()| true).map_err(Into::into),
        Err(_) => Ok(false),
    }
}

fn judge_udp(closed: &[u16], turn: &Turn, answered: bool) -> Verdict {
    let mut found = Vec::new();
    if !answered {
        found.push(failed(
            format!("TURN does not answer on UDP port {}", turn.port),
            FIREWALL,
        ));
    }
    if !closed.is_empty() {
        found.push(failed(
            format!(
                "datagrams do not reach UDP ports {} to {}, so calls fail",
                turn.min_port, turn.max_port
            ),
            "open the range in the firewalls of the host and of the provider",
        ));
    }
    Verdict::of(found, || "TURN answers, and its ports are open".to_owned())
}

pub(super) async fn clock(inputs: &Inputs) -> anyhow::Result<Verdict> {
    let ssh = ssh(inputs)?;
    let before = OffsetDateTime::now_utc().unix_timestamp();
    let there = ssh.bash("date +%s").await?;
    let after = OffsetDateTime::now_utc().unix_timestamp();
    let there: i64 = there.trim().parse().context("date prints no number")?;
    Ok(judge_clocks(before, after, there, &ssh.host))
}

fn judge_clocks(before: i64, after: i64, there: i64, host: &str) -> Verdict {
    let difference = if there < before {
        before - there
    } else {
        (there - after).max(0)
    };
    if difference > MAX_DIFFERENCE {
        return Verdict::Found(vec![failed(
            format!("the clock differs by {difference} s from that of {host}"),
            "see `timedatectl status` on both machines, and set services.timesyncd.enable",
        )]);
    }
    Verdict::Well(format!("as that of {host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_differ_only_beyond_the_time_that_the_answer_took() {
        assert!(matches!(judge_clocks(100, 120, 110, "b"), Verdict::Well(_)));
        assert!(matches!(judge_clocks(100, 120, 40, "b"), Verdict::Well(_)));
        assert!(matches!(judge_clocks(100, 120, 39, "b"), Verdict::Found(_)));
        assert!(matches!(judge_clocks(100, 120, 180, "b"), Verdict::Well(_)));
        assert!(matches!(judge_clocks(100, 120, 181, "b"), Verdict::Found(_)));
    }

    #[test]
    fn closed_udp_ports_are_told_from_a_silent_turn_server() {
        let turn = Turn {
            host: "chat.example.org".to_owned(),
            port: 3478,
            min_port: 50000,
            max_port: 52999,
            secret_file: "/secret".into(),
            lifetime: 60,
        };
        assert!(matches!(judge_udp(&[], &turn, true), Verdict::Well(_)));
        for (closed, answered, count) in [(&[50000][..], true, 1), (&[], false, 1), (&[52999], false, 2)] {
            let Verdict::Found(found) = judge_udp(closed, &turn, answered) else {
                panic!("nothing is found")
            };
            assert_eq!(found.len(), count);
        }
    }

    #[test]
    fn ipv6_needs_a_default_route() {
        assert!(has_ipv6("default via fe80::1 dev eth0\n"));
        assert!(!has_ipv6("fe80::/64 dev eth0\n"));
    }
}
