# What may be logged, as patterns for `LogFilterPatterns=`. Lists of what is kept: a kind of line that nobody thought of
# is dropped when it could name somebody.
rec {
  # Mail addresses and paths of mailboxes have an `@`.
  address = "@";
  ipv4 = "(?<![0-9])[0-9]{1,3}(\\.[0-9]{1,3}){3}(?![0-9])";
  ipv6 = "(?<![0-9A-Za-z:])([0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]|(?<![0-9A-Za-z:])([0-9A-Fa-f]{1,4}(:[0-9A-Fa-f]{1,4}){0,6})?::[0-9A-Fa-f]";

  # Lines with addresses, for units that log little else than failures.
  namesSomebody = map (pattern: "~${pattern}") [
    address
    ipv4
    ipv6
  ];

  # Lines without addresses.
  namesNobody = "^(?!.*(${address}|${ipv4}|${ipv6}))";
}
