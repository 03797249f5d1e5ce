# OpenDKIM signs what leaves the relay. The unit is ours because services.opendkim cannot take another package. A relay
# without a name has no zone that could hold a key, and no signatures.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.chatmail;
  hardening = import ./hardening.nix;
  keyFile = cfg.settings.dns.dkim_key_file;

  # Headers that a second copy could be added of, which clients might show instead of the signed one.
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
    # Only what Postfix hands over as our own mail is signed, wherever it came from.
    MTA ORIGINATING
    InternalHosts -
    On-BadSignature reject
    On-KeyNotFound reject
    On-NoSignature reject
    # Who runs it, so that a check by root finds the key's owner in order.
    UserID opendkim:opendkim
    Socket local:/run/opendkim/opendkim.sock
    UMask 007
  '';

  # A key that exists is never replaced: the zone holds its public half.
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
      # Another selector gets its key before OpenDKIM starts with it.
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
      description = "DKIM signatures for mail that leaves";
      wantedBy = [ "multi-user.target" ];
      # Not required: OpenDKIM goes on while the other unit changes.
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
        # It grows over time; what is lost by a restart is a retry of Postfix.
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
