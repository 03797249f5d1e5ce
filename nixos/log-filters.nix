# Patterns for `LogFilterPatterns=`. Units list what they keep: an unexpected kind of line is dropped if it could name
# somebody.
rec {
  # Mail addresses and paths of mailboxes contain an `@`.
  address = "@";
  ipv4 = "(?<![0-9])[0-9]{1,3}(\\.[0-9]{1,3}){3}(?![0-9])";
  ipv6 = "(?<![0-9A-Za-z:])([0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]|(?<![0-9A-Za-z:])([0-9A-Fa-f]{1,4}(:[0-9A-Fa-f]{1,4}){0,6})?::[0-9A-Fa-f]";

  # Drops lines with addresses, for units that log little more than failures.
  namesSomebody = map (pattern: "~${pattern}") [
    address
    ipv4
    ipv6
  ];

  # Lines without addresses.
  namesNobody = "^(?!.*(${address}|${ipv4}|${ipv6}))";
}
