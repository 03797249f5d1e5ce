# Sockets that both the settings and Postfix's main.cf name: the settings depend on main.cf, so it cannot read them there.
{
  limit = "/run/filtermail/limit.socket";
}
