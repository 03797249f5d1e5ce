//! Output of `cargo lab up`: the addresses of the relays, and how clients connect to them.

use std::path::Path;

use mailtest::topology::{Certificate, Relay, Topology};

/// A table of the relays, and examples with curl and Delta Chat.
pub(super) fn of(topology: &Topology, resolv_conf: &Path) -> String {
    let ca = topology.ca_file.display();
    let mut text = table(topology);
    text.push_str(&format!(
        "\n\
         resolver              {}\n\
         CA certificate        {ca}\n\
         this computer         {}, as the relays see it\n",
        topology.resolver, topology.host,
    ));
    let signed = |relay: &&Relay| relay.certificate == Certificate::LabCa;
    if let Some(relay) = topology.relays.iter().find(signed) {
        let Relay { domain, ipv4, .. } = relay;
        text.push_str(&format!(
            "\nWith curl, without changes to this computer:\n\n  \
             curl --cacert {ca} --resolve {domain}:443:{ipv4} https://{domain}/\n"
        ));
    }
    let own = |relay: &&Relay| relay.certificate == Certificate::SelfSigned && relay.is_named();
    if let Some(relay) = topology.relays.iter().find(own) {
        text.push_str(&format!(
            "\nWith Delta Chat or any other client, using the lab's resolver for this program only:\n\n  \
             unshare --mount sh -c 'mount --bind {} /etc/resolv.conf && exec su USER -c deltachat'\n\n\
             Then add a profile, and paste dcaccount:{} instead of scanning a QR code.\n\
             Delta Chat accepts self-signed certificates for domains that begin with an underscore.\n",
            resolv_conf.display(),
            relay.domain,
        ));
    }
    text.push_str(
        "\ncargo lab shell a     opens a shell in a relay\n\
         cargo lab logs a      shows its journal\n\
         cargo lab down        stops the lab",
    );
    text
}

fn table(topology: &Topology) -> String {
    let mut rows = vec![["relay", "domain", "address", "certificate"].map(str::to_owned)];
    for relay in &topology.relays {
        let certificate = match relay.certificate {
            Certificate::SelfSigned => "self-signed",
            Certificate::LabCa => "signed by the lab's CA",
            Certificate::Acme => "temporary",
        };
        rows.push([
            relay.name.clone(),
            relay.domain.clone(),
            relay.ipv4.to_string(),
            certificate.to_owned(),
        ]);
    }
    let width =
        |column: fn(&[String; 4]) -> &String| rows.iter().map(|row| column(row).len()).max().unwrap_or(0);
    let widths = (width(|row| &row[0]), width(|row| &row[1]), width(|row| &row[2]));
    rows.iter()
        .map(|[name, domain, address, certificate]| {
            format!(
                "{name:a$}  {domain:b$}  {address:c$}  {certificate}\n",
                a = widths.0,
                b = widths.1,
                c = widths.2
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_where_relays_are_and_how_to_reach_them() {
        let relay = |name: &str, domain: &str, last: u8, certificate| Relay {
            name: name.to_owned(),
            domain: domain.to_owned(),
            ipv4: [198, 18, 25, last].into(),
            ipv6: None,
            certificate,
            invitation: None,
            accounts: Vec::new(),
        };
        let topology = Topology {
            relays: vec![
                relay("a", "_a.test", 11, Certificate::SelfSigned),
                relay("c", "c.test", 13, Certificate::LabCa),
                relay("d", "198.18.25.14", 14, Certificate::SelfSigned),
                relay("e", "e.test", 15, Certificate::Acme),
            ],
            resolver: [198, 18, 25, 2].into(),
            host: [198, 18, 25, 1].into(),
            ca_file: "/var/cache/lab/ca.pem".into(),
        };
        insta::assert_snapshot!(of(&topology, Path::new("/var/cache/lab/resolv.conf")));
    }
}
