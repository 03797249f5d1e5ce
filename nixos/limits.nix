# Numbers that the module and the services both need. The services read them from their settings.
{
  # Dovecot asks for room in a mailbox above the first share of its limits; the oldest messages are then removed until the
  # second one is left. Clients warn their users at 80 %.
  trimAtPercent = 75;
  trimToPercent = 70;

  # Maximum size of the announced app versions, in KiB.
  appVersionsKib = 16;

  # Messages above this size, in bytes, are large: of these, each filter has only a few in memory at once.
  large = {
    above = 1048576;
    at_once = 8;
  };
}
