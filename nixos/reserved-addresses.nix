# Non-public addresses (IANA's registries of special-purpose addresses), as POSIX regular expressions for Postfix's
# tables. They lead to the host itself or to its private network, so senders must not be able to choose them as a
# destination.
{ lib }:
let
  # IPv4 networks.
  reserved = [
    "0.0.0.0/8"
    "10.0.0.0/8"
    "100.64.0.0/10"
    "127.0.0.0/8"
    "169.254.0.0/16"
    "172.16.0.0/12"
    "192.0.0.0/24"
    "192.0.2.0/24"
    "192.88.99.0/24"
    "192.168.0.0/16"
    "198.18.0.0/15"
    "198.51.100.0/24"
    "203.0.113.0/24"
    "224.0.0.0/3"
  ];

  power = n: if n == 0 then 1 else 2 * power (n - 1);

  # Expression that matches the dotted addresses of a network such as "100.64.0.0/10".
  network =
    cidr:
    let
      parts = lib.splitString "/" cidr;
      octets = map lib.toInt (lib.splitString "." (lib.head parts));
      bits = lib.toInt (lib.last parts);
      whole = bits / 8;
      size = power (8 - lib.mod bits 8);
      octet =
        position:
        let
          value = lib.elemAt octets position;
          first = value - lib.mod value size;
        in
        if position < whole then
          toString value
        else if position == whole && size < 256 then
          "(${lib.concatMapStringsSep "|" toString (lib.range first (first + size - 1))})"
        else
          "[0-9]+";
    in
    lib.concatMapStringsSep "\\." octet (lib.range 0 3);

  alternatives = networks: "(${lib.concatMapStringsSep "|" network networks})";
in
{
  inherit alternatives reserved;
  ipv4 = alternatives reserved;

  # Non-public networks to which mail may be delivered.
  allowed = cfg: cfg.delivery.allowedNetworks ++ lib.optional cfg.byAddress "${cfg.domain}/32";

  # Global unicast is 2000::/3. Within it, 2001::/23 is reserved for protocols, 2001:db8::/32 and 3fff::/20 for
  # documentation, and 2002::/16 contains an IPv4 address.
  ipv6 = {
    global = "[23][0-9a-f][0-9a-f][0-9a-f]:";
    reserved = "(2001:(:|0*[0-9a-f]?[0-9a-f]:|0*1[0-9a-f][0-9a-f]:|0?db8:)|2002:|3fff:(:|0?[0-9a-f]?[0-9a-f]?[0-9a-f]:))";
  };
}
