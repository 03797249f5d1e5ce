# Dovecot with Lua, which logins go through, and without the half second that it waits before it tells an idle client
# about new mail.
{ dovecot }:
(dovecot.override { withLua = true; }).overrideAttrs (old: {
  postPatch = (old.postPatch or "") + ''
    substituteInPlace src/lib-storage/mailbox-watch.c \
      --replace-fail '#define NOTIFY_DELAY_MSECS 500' '#define NOTIFY_DELAY_MSECS 0'
  '';
})
