# Dovecot with Lua, which logins go through.
{ dovecot }: dovecot.override { withLua = true; }
