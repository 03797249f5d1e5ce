# OpenDKIM signs outgoing mail. The module defines its own unit because services.opendkim cannot use another package. A
# relay without a domain name has no zone for a key, so its mail is not signed.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.chatmail;
  hardening = import ./hardening.nix;
  keyFile = cfg.settings.dkim.key_file;

  # Headers of which an attacker could add a second copy, which clients might display instead of the signed one.
  oversigned = [
    "from"
    "reply-to"
    "subject"
    "date"
    "to"
    "cc"
    "resent-date"
    "resent-from"
    "resent-sender"
    "resent-to"
    "resent-cc"
    "in-reply-to"
    "references"
    "list-id"
    "list-help"
    "list-unsubscribe"
    "list-subscribe"
    "list-post"
    "list-owner"
    "list-archive"
    "autocrypt"
  ];

  configFile = pkgs.writeText "opendkim.conf" ''
    Mode s
    Syslog yes
    SyslogSuccess yes
    Domain ${cfg.domain}
    Selector ${cfg.dkim.selector}
    KeyFile ${keyFile}
    Canonicalization relaxed/simple
    SignHeaders *,+autocrypt,+content-type
    OversignHeaders ${lib.concatStringsSep "," oversigned}
    # Sign exactly the mail that Postfix marks as originating here, whatever the client's address.
    MTA ORIGINATING
    InternalHosts -
    On-BadSignature reject
    On-KeyNotFound reject
    On-NoSignature reject
    # The unit's user, so that OpenDKIM's check of the key file accepts its owner.
    UserID opendkim:opendkim
    Socket local:/run/opendkim/opendkim.sock
    UMask 007
  '';

  # An existing key is never replaced: its public half is in the DNS.
  makeKey = pkgs.writeShellScript "chatmail-dkim-key" ''
    set -eu
    if [ -s "$1" ]; then
      exit 0
    fi
    ${lib.getExe pkgs.openssl} genrsa -out "$1.new" 2048
    chmod 0600 "$1.new"
    mv "$1.new" "$1"
  '';
in
{
  config = lib.mkIf (cfg.enable && !cfg.byAddress) {
    users.users.opendkim = {
      description = "OpenDKIM";
      isSystemUser = true;
      group = "opendkim";
    };
    users.groups.opendkim = { };
    # Postfix connects to the socket.
    users.users.${config.services.postfix.user}.extraGroups = [ "opendkim" ];

    systemd.services.chatmail-dkim-key = {
      description = "DKIM key of the relay";
      wantedBy = [ "multi-user.target" ];
      # The key of a new selector is generated before OpenDKIM starts with it.
      stopIfChanged = false;
      serviceConfig = hardening // {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${makeKey} ${keyFile}";
        User = "opendkim";
        Group = "opendkim";
        StateDirectory = "chatmail-dkim";
        StateDirectoryMode = "0750";
        PrivateNetwork = true;
        PrivateUsers = false;
      };
    };

    systemd.services.opendkim = {
      description = "DKIM signatures for outgoing mail";
      wantedBy = [ "multi-user.target" ];
      # Not `requires`: OpenDKIM keeps running while the other unit changes.
      wants = [ "chatmail-dkim-key.service" ];
      after = [ "chatmail-dkim-key.service" ];
      before = [ "postfix.service" ];
      startLimitIntervalSec = 0;
      stopIfChanged = false;
      serviceConfig = hardening // {
        Type = "simple";
        ExecStart = "${cfg.dkim.package}/bin/opendkim -f -x ${configFile}";
        Restart = "always";
        RestartSec = "1s";
        # OpenDKIM's memory grows over time. A restart costs at most a retry by Postfix.
        RuntimeMaxSec = "1d";
        MemoryMax = "512M";
        TasksMax = 512;
        User = "opendkim";
        Group = "opendkim";
        RuntimeDirectory = "opendkim";
        RuntimeDirectoryMode = "0750";
        UMask = "0007";
        LogFilterPatterns = [ (import ./log-filters.nix).namesNobody ];
        PrivateNetwork = true;
        PrivateUsers = false;
      };
    };
  };
}
