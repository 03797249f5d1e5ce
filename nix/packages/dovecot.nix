# Dovecot with Lua, which handles logins, and with a delay of 1 ms instead of 500 ms before it notifies an idle client of
# new mail.
#
# Without full-text search, which encrypted mail has no use for: every process would load its libraries (ICU,
# libstemmer), which double the memory of an idle session.
{ lib, dovecot }:
(dovecot.override { withLua = true; }).overrideAttrs (old: {
  buildInputs = lib.filter (
    input:
    !lib.elem (lib.getName input) [
      "clucene-core"
      "icu4c"
      "libexttextcat"
      "libstemmer"
      "xapian"
    ]
  ) (old.buildInputs or [ ]);
  configureFlags =
    lib.filter (
      flag:
      !lib.elem flag [
        "--with-icu"
        "--with-lucene"
        "--with-textcat"
      ]
    ) (old.configureFlags or [ ])
    ++ [
      "--without-flatcurve"
      "--without-icu"
      "--without-stemmer"
      "--without-textcat"
    ];
  postPatch = (old.postPatch or "") + ''
    substituteInPlace src/lib-storage/mailbox-watch.c \
      --replace-fail '#define NOTIFY_DELAY_MSECS 500' '#define NOTIFY_DELAY_MSECS 1'
  '';
})
