# Dovecot with Lua, which handles logins, and with a delay of 1 ms instead of 500 ms before it notifies an idle client
# of new mail. Without any delay, it can read the mailbox while the delivering process still locks it.
{ dovecot }:
(dovecot.override { withLua = true; }).overrideAttrs (old: {
  postPatch = (old.postPatch or "") + ''
    substituteInPlace src/lib-storage/mailbox-watch.c \
      --replace-fail '#define NOTIFY_DELAY_MSECS 500' '#define NOTIFY_DELAY_MSECS 1'
  '';
})
