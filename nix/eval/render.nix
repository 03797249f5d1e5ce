# Everything that `cargo lab render` writes for one host; see crates/lab/src/render/.
{
  lib,
  tree,
  host,
}:
let
  sys = import ./. { inherit lib tree host; };
  inherit (sys) config options;
in
let
  # From here on, `lib` is the library and not its folder.
  inherit (sys) lib;

  # The lab boots its relays from the rendered files, which must then include the units of NixOS.
  booted = lib.hasPrefix (toString ./hosts + "/") (toString (/. + toString host));

  # Units that the relay's module defines or extends.
  ours =
    kind:
    lib.unique (
      lib.concatMap (definition: lib.attrNames definition.value) (
        builtins.filter (
          definition: lib.hasPrefix (toString ../../nixos) definition.file
        ) options.systemd.${kind}.definitionsWithLocations
      )
    );

  # Units that NixOS defines for the relay's certificate; they exist only with tls.mode "acme".
  acmeUnits =
    let
      inherit (config.services.chatmail) domain;
    in
    [
      "acme-${domain}.service"
      "acme-order-renew-${domain}.service"
      "acme-renew-${domain}.timer"
      "acme-setup.service"
    ];

  names = lib.filter (name: config.systemd.units.${name}.enable or false) (
    lib.unique (
      map (name: "${name}.service") (
        ours "services"
        ++ lib.optionals booted [
          "nginx"
          "nginx-config-reload"
          "postfix-setup"
          "unbound"
        ]
      )
      ++ lib.optionals booted acmeUnits
      ++ map (name: "${name}.socket") (ours "sockets")
      ++ map (name: "${name}.timer") (ours "timers")
      ++ map (name: "${name}.path") (ours "paths")
    )
  );
  units = lib.genAttrs names (name: config.systemd.units.${name});

  etcPrefixes = [
    "chatmail-version"
    "chatmail/"
    "dovecot/"
    "nginx/"
    "postfix"
    "systemd/journald.conf"
    "unbound/"
  ];
  isOurs = path: lib.any (prefix: lib.hasPrefix prefix path) etcPrefixes;
  etc = lib.filterAttrs (path: file: file.enable && isOurs path) config.environment.etc;
  isStored = file: lib.hasPrefix builtins.storeDir "${file.source}";

  accounts = [
    "acme"
    "chatmail-delivery"
    "chatmail-registration"
    "doveauth"
    "dovecot2"
    "dovenull"
    "nginx"
    "opendkim"
    "postdrop"
    "postfix"
    "turnserver"
    "unbound"
    "vmail"
  ];
  users = lib.filterAttrs (name: _: lib.elem name accounts) config.users.users;
  groups = lib.filterAttrs (name: _: lib.elem name accounts) config.users.groups;
  id = number: if number == null then "-" else toString number;

  firewall =
    let
      inherit (config.networking) firewall;
      range = { from, to }: "${toString from}-${toString to}";
      of =
        prefix: ports:
        map (port: "${prefix}tcp ${toString port}") ports.allowedTCPPorts
        ++ map (ports: "${prefix}tcp ${range ports}") ports.allowedTCPPortRanges
        ++ map (port: "${prefix}udp ${toString port}") ports.allowedUDPPorts
        ++ map (ports: "${prefix}udp ${range ports}") ports.allowedUDPPortRanges;
    in
    of "" firewall ++ lib.concatLists (lib.mapAttrsToList (name: of "${name} ") firewall.interfaces);

  rulesOf =
    group:
    lib.concatLists (
      lib.mapAttrsToList (
        path: types:
        lib.mapAttrsToList (
          type: rule:
          lib.concatStringsSep " " [
            type
            path
            rule.mode
            rule.user
            rule.group
            rule.age
            rule.argument
          ]
        ) types
      ) config.systemd.tmpfiles.settings.${group} or { }
    );
in
{
  # A host with failing assertions is not rendered.
  failed = map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions);
  inherit (config) warnings;

  inherit (config.services.chatmail) domain;
  etc = lib.mapAttrs (_: file: "${file.source}") (lib.filterAttrs (_: isStored) etc);
  units = lib.mapAttrs (_: unit: unit.text) units;
  # Lines `[INTERFACE] PROTOCOL PORT`.
  inherit firewall;
  wants = lib.concatLists (
    lib.mapAttrsToList (name: unit: map (target: "${target} ${name}") unit.wantedBy) units
  );
  sysusers =
    lib.mapAttrsToList (name: group: "g ${name} ${id group.gid}") groups
    ++ lib.mapAttrsToList (
      name: user: "u ${name} ${id user.uid} \"${user.description}\" ${user.home} /sbin/nologin"
    ) users
    ++ lib.concatLists (
      lib.mapAttrsToList (name: user: map (group: "m ${name} ${group}") user.extraGroups) users
    );
  # Links to files that services create at run time come last.
  tmpfiles =
    rulesOf "10-chatmail"
    ++ lib.optionals booted (rulesOf "10-acme")
    ++ lib.mapAttrsToList (path: file: "L+ /etc/${path} - - - - ${file.source}") (
      lib.filterAttrs (_: file: !isStored file) etc
    );
}
