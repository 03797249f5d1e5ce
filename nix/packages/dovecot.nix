# Dovecot with Lua, which logins go through, and with 10 ms in place of the half second that it waits before it tells an
# idle client about new mail. Without any wait it may look before the delivering process has let go of the mailbox.
{ dovecot }:
(dovecot.override { withLua = true; }).overrideAttrs (old: {
  postPatch = (old.postPatch or "") + ''
    substituteInPlace src/lib-storage/mailbox-watch.c \
      --replace-fail '#define NOTIFY_DELAY_MSECS 500' '#define NOTIFY_DELAY_MSECS 10'
  '';
})
