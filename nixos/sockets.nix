# Sockets that both the settings and Postfix's main.cf contain. The settings depend on main.cf, so it cannot read them
# from there.
{
  sasl = "/run/doveauth/sasl.socket";
  limit = "/run/filtermail/limit.socket";
  deliveries = "/run/filtermail/deliveries.socket";
  rules = "/run/filtermail/rules.socket";
  transport = "127.0.0.1:10083";
  lookup = "/run/filtermail/lookup.socket";
  results = "/run/filtermail/results.socket";
  mxdeliv = "/run/filtermail/mxdeliv.socket";
  lmtp = "/run/dovecot2/lmtp-filters";
  delivered = "/run/chatmail-metadata/delivered.socket";
}
