# Sockets that both the settings and Postfix's main.cf contain. The settings depend on main.cf, so it cannot read them
# from there.
{
  limit = "/run/filtermail/limit.socket";
  mxdeliv = "/run/filtermail/mxdeliv.socket";
}
