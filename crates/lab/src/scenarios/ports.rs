//! Ports on which a relay listens, public ones and internal ones.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use anyhow::{Context as _, ensure};

use super::Context;

/// Public ports.
const PUBLIC: [&str; 10] = [
    "tcp 25", "tcp 80", "tcp 143", "tcp 443", "tcp 465", "tcp 587", "tcp 993", "tcp 3478", "tcp 8443",
    "udp 3478",
];
/// UDP ports that relay calls (`turn.minPort`, `turn.maxPort`): each is open only during its call.
const CALLS: RangeInclusive<u16> = 50000..=52999;
/// Metrics. Relay a has `metrics.listenAddress`, for a Prometheus server on another machine.
const METRICS: RangeInclusive<u16> = 3903..=3913;
/// Ports through which the relay's services reach each other.
const INTERNAL: [&str; 7] = [
    "tcp 53",
    "udp 53",
    "tcp 10143",
    "tcp 10465",
    "tcp 10903",
    "tcp 10904",
    "tcp 10993",
];
/// Ports of `federation.https.send`, which is off on relay c.
const TRANSPORT: [&str; 2] = ["tcp 3912", "tcp 10083"];
/// Ports of the filters if `filter.transport` is `tcp`, as on relay b.
const FILTERS: [&str; 4] = ["tcp 10025", "tcp 10026", "tcp 10080", "tcp 10081"];

/// Protocol and address of a line of `ss -Hltun`: `tcp LISTEN 0 100 0.0.0.0:25 0.0.0.0:*`.
fn listener(line: &str) -> Option<(&str, SocketAddr)> {
    let mut fields = line.split_whitespace();
    let protocol = fields.next()?;
    let (address, port) = fields.nth(3)?.rsplit_once(':')?;
    let address = address.trim_matches(['[', ']']).split('%').next()?;
    let address: IpAddr = if address == "*" {
        IpAddr::from([0, 0, 0, 0])
    } else {
        address.parse().ok()?
    };
    Some((protocol, SocketAddr::new(address, port.parse().ok()?)))
}

pub(super) async fn listening(context: &Context) -> anyhow::Result<()> {
    for relay in ["a", "b", "c"] {
        let text = context.run(relay, &["ss", "-Hltun"]).await?;
        let (mut public, mut internal) = (BTreeSet::new(), BTreeSet::new());
        for line in text.lines() {
            let (protocol, address) = listener(line).with_context(|| format!("not a listener: {line}"))?;
            if protocol == "udp" && CALLS.contains(&address.port()) {
                continue;
            }
            let found = if address.ip().is_loopback() {
                &mut internal
            } else {
                &mut public
            };
            found.insert(format!("{protocol} {}", address.port()));
        }
        let mut expected: BTreeSet<String> = PUBLIC.map(str::to_owned).into();
        let sends = relay != "c";
        let metrics = METRICS
            .map(|port| format!("tcp {port}"))
            .filter(|port| sends || !TRANSPORT.contains(&port.as_str()));
        if relay == "a" {
            expected.extend(metrics);
        } else {
            let missing: Vec<_> = metrics.filter(|port| !internal.contains(port)).collect();
            ensure!(
                missing.is_empty(),
                "nothing is listening on {missing:?} of relay {relay}"
            );
        }
        ensure!(
            public == expected,
            "relay {relay} listens publicly on {public:?}, not on {expected:?}"
        );
        for port in INTERNAL {
            ensure!(
                internal.contains(port),
                "nothing is listening on {port} of relay {relay}"
            );
        }
        for port in TRANSPORT {
            ensure!(
                (internal.contains(port) || public.contains(port)) == sends,
                "relay {relay} listens on {internal:?} and {public:?}"
            );
        }
        for port in FILTERS {
            ensure!(
                internal.contains(port) == (relay == "b"),
                "relay {relay} listens on {internal:?}"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_of_every_form() {
        let read = |line| listener(line).map(|(protocol, address)| format!("{protocol} {address}"));
        assert_eq!(
            read("tcp LISTEN 0 100 0.0.0.0:25 0.0.0.0:*").as_deref(),
            Some("tcp 0.0.0.0:25")
        );
        assert_eq!(
            read("udp UNCONN 0 0 [::1]:3478 [::]:*").as_deref(),
            Some("udp [::1]:3478")
        );
        assert_eq!(
            read("tcp LISTEN 0 511 *:80 *:*").as_deref(),
            Some("tcp 0.0.0.0:80")
        );
        assert_eq!(
            read("udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:*").as_deref(),
            Some("udp 127.0.0.53:53")
        );
        assert_eq!(read("tcp LISTEN 0"), None);
    }
}
