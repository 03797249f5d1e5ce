# Makes the members of nix/eval/stub-pkgs.nix buildable in a Debian tree: whatever NixOS makes from text is built as in
# nixpkgs, and packages become links to Debian's files.
#   programs   a folder with the project's programs
#   irohRelay  a folder with the program iroh-relay
#   authority  certificate of an authority that hosts trust, PEM
#   debianKey  a string that differs for each Debian tree
#   ourKey     a string that changes the store path of the project's programs
{
  lib,
  programs,
  irohRelay,
  authority,
  debianKey,
  ourKey,
}:
{
  fake,
  fakeOf,
  final,
  stdenv,
}:
let
  # Debian packages of packages with another name.
  debian = {
    bash-interactive = [ "bash" ];
    cacert = [ ];
    cc = [ "libc-bin" ];
    coreutils-full = [ "coreutils" ];
    dbus = [
      "dbus"
      "dbus-bin"
      "dbus-daemon"
      "dbus-system-bus-common"
    ];
    dovecot = [
      "dovecot-core"
      "dovecot-imapd"
      "dovecot-lmtpd"
    ];
    gawk = [ "mawk" ];
    getent = [ "libc-bin" ];
    gnugrep = [ "grep" ];
    gnused = [ "sed" ];
    gnutar = [ "tar" ];
    host = [ "bind9-host" ];
    iana-etc = [ ];
    libcap = [ "libcap2-bin" ];
    ncurses = [ "ncurses-bin" ];
    nettools = [ "hostname" ];
    nginxStable = [ ];
    opendkim = [
      "opendkim"
      "opendkim-tools"
    ];
    openssh = [
      "openssh-client"
      "openssh-server"
      "openssh-sftp-server"
    ];
    pam = [ "libpam-modules-bin" ];
    perl = [ "perl-base" ];
    perl-env = [ "perl-base" ];
    shadow = [
      "passwd"
      "login"
      "uidmap"
    ];
    systemd = [
      "systemd"
      "systemd-sysv"
      "udev"
    ];
    unbound-with-systemd = [ "unbound" ];
    util-linux = [
      "bsdutils"
      "mount"
      "util-linux"
    ];
    xz = [ "xz-utils" ];
  };

  # Path in a package, and Debian's path.
  links = {
    bash."bin/sh" = "/usr/bin/bash";
    bash-interactive."bin/sh" = "/usr/bin/bash";
    # There is no cache of names.
    cc."bin/nscd" = "/usr/bin/true";
    coreutils."bin/kill" = "/usr/bin/kill";
    dbus."libexec/dbus-daemon-launch-helper" = "/usr/lib/dbus-1.0/dbus-daemon-launch-helper";
    dovecot."lib/dovecot" = "/usr/lib/dovecot";
    dovecot."libexec/dovecot" = "/usr/lib/dovecot";
    flock."bin/flock" = "/usr/bin/flock";
    # The only other program of this package.
    fuse."bin/fusermount" = "/usr/bin/fusermount3";
    glibcLocales."lib/locale" = "/usr/lib/locale";
    mailcap."etc/nginx/mime.types" = "/usr/share/chatmail-lab/nginx/mime.types";
    nginxStable."conf" = "/usr/share/chatmail-lab/nginx";
    pam."lib/security" = "/usr/lib/x86_64-linux-gnu/security";
    postfix."etc/postfix" = "/usr/share/chatmail-lab/postfix";
    postfix."libexec/postfix" = "/usr/lib/postfix/sbin";
    postfix."share/man" = "/usr/share/man";
    postfix."share/postfix" = "/usr/share/postfix";
    # Debian sid has these in no package that the tree contains, and nobody changes groups there.
    shadow."bin/newgrp" = "/usr/bin/true";
    shadow."bin/sg" = "/usr/bin/true";
    shadow."bin/su" = "/usr/bin/su";
    su."bin/su" = "/usr/bin/su";
    systemd."lib/systemd" = "/usr/lib/systemd";
    tzdata."share/zoneinfo" = "/usr/share/zoneinfo";
  };

  script = name: text: ''
    cat >$out/bin/${name} <<'END'
    ${text}END
    chmod +x $out/bin/${name}
  '';
  more = {
    cacert = ''
      mkdir -p $out/etc/ssl/certs
      cat /etc/ssl/certs/ca-certificates.crt ${authority} >$out/etc/ssl/certs/ca-bundle.crt
    '';
    iana-etc = ''
      mkdir $out/etc
      cp /etc/protocols /etc/services $out/etc
    '';
    lndir = script "lndir" ''
      #!/bin/sh
      exec cp -rs "$1"/. "$2"
    '';
    minica = script "minica" (builtins.readFile ../../crates/lab/files/minica.sh);
    # The stream module is built into the nginx of nixpkgs; Debian's nginx has to load it.
    nginxStable = script "nginx" ''
      #!/bin/sh
      exec /usr/sbin/nginx -g 'load_module /usr/lib/nginx/modules/ngx_stream_module.so;' "$@"
    '';
    systemd = ''
      mkdir -p $out/example/systemd
      cp -a /usr/lib/systemd/system /usr/lib/systemd/user $out/example/systemd
      cp -a /usr/lib/tmpfiles.d /usr/lib/sysctl.d $out/example
    '';
  };

  link = path: target: ''
    mkdir -p $out/${dirOf path}
    ln -sf ${target} $out/${path}
  '';

  builder = {
    builder = "/bin/bash";
    args = [ "${./builder.sh}" ];
  };
  made = name: inputs: fakeOf (builder // inputs) name;
  run =
    name: environment: buildCommand:
    made name (
      removeAttrs environment [
        "meta"
        "passthru"
      ]
      // {
        inherit buildCommand;
        passAsFile = [ "buildCommand" ] ++ environment.passAsFile or [ ];
      }
    ) { passthru = environment.passthru or { }; };

  writeFile =
    {
      name,
      text,
      executable ? false,
      destination ? "",
      ...
    }:
    run name
      {
        inherit text;
        passAsFile = [ "text" ];
      }
      ''
        mkdir -p "$(dirname "$out${destination}")"
        cp "$textPath" "$out${destination}"
        ${lib.optionalString executable ''chmod +x "$out${destination}"''}
      '';
  executable =
    name: text:
    writeFile {
      inherit name text;
      executable = true;
    };
  program =
    name: text:
    writeFile {
      inherit name text;
      executable = true;
      destination = "/bin/${name}";
    };
  shell = text: "#!${final.runtimeShell}\n${text}\n";

  # Links everything below the given paths; the first of several files with one name wins.
  join =
    {
      name,
      paths,
      pathsToLink ? [ "/" ],
      postBuild ? "",
      ...
    }:
    run name
      {
        paths = lib.concatStringsSep "\n" (map toString (lib.unique (lib.flatten paths)));
        passAsFile = [ "paths" ];
      }
      ''
        mkdir -p $out
        while read -r path; do
          for below in ${toString pathsToLink}; do
            if [ -d "$path$below" ]; then
              mkdir -p "$out$below"
              cp -rs --update=none "$path$below/." "$out$below"
            fi
          done
        done < <(cat "$pathsPath"; echo)
        ${postBuild}
      '';

  folder =
    name: path: key:
    run name { inherit key; } "mkdir $out\ncp -a ${path} $out/bin";
in
{
  package = name: {
    inherit (builder) builder args;
    inherit debianKey;
    debian = debian.${name} or [ name ];
    more = lib.concatStrings (lib.mapAttrsToList link links.${name} or { }) + more.${name} or "";
    buildCommandPath = "${./package.sh}";
  };

  members = {
    stdenv = stdenv // {
      mkDerivation =
        arguments:
        made (arguments.pname or arguments.name) (
          lib.filterAttrs (name: value: name != "meta" && name != "passthru" && value != null) arguments
          // lib.optionalAttrs (arguments ? buildCommand) {
            passAsFile = [ "buildCommand" ] ++ arguments.passAsFile or [ ];
          }
        ) { };
    };
    stdenvNoCC = final.stdenv;
    linuxHeaders = fake "linux-headers" { };
    # Debian has these parts in other packages.
    systemd = fake "systemd" (
      lib.genAttrs [
        "withBootloader"
        "withCryptsetup"
        "withImportd"
        "withMachined"
        "withPortabled"
        "withUtmp"
      ] (_: false)
    );
    rustPlatform.buildRustPackage =
      { pname, ... }:
      {
        chatmail = folder "chatmail" programs ourKey;
        iroh-relay = folder "iroh-relay" irohRelay "";
      }
      .${pname} or (final.hello);

    runCommand = run;
    runCommandCC = run;
    runCommandLocal = run;
    writeText = name: text: writeFile { inherit name text; };
    writeTextFile = writeFile;
    writeTextDir =
      path: text:
      writeFile {
        name = baseNameOf path;
        inherit text;
        destination = "/${path}";
      };
    writeScript = executable;
    writeScriptBin = program;
    writeShellScript = name: text: executable name (shell text);
    writeShellScriptBin = name: text: program name (shell text);
    writeShellApplication =
      {
        name,
        text,
        runtimeInputs ? [ ],
        ...
      }:
      program name (shell ''
        set -o errexit
        set -o nounset
        set -o pipefail
        export PATH="${lib.makeBinPath runtimeInputs}:$PATH"

        ${text}
      '');
    writers = {
      writeBash = name: text: executable name (shell text);
      writeBashBin = name: text: program name (shell text);
      writeDash = name: text: executable name (shell text);
      writeNginxConfig = name: text: writeFile { inherit name text; };
    };

    buildEnv = join;
    symlinkJoin = join;
    concatText = name: files: run name { } "cat ${toString files} >$out";
    substitute =
      {
        src,
        substitutions ? arguments.replacements,
        isExecutable ? false,
        ...
      }@arguments:
      run (arguments.name or (baseNameOf src)) { } ''
        substitute ${src} $out ${lib.escapeShellArgs substitutions}
        ${lib.optionalString isExecutable "chmod +x $out"}
      '';
    substituteAll =
      {
        src,
        name ? baseNameOf src,
        isExecutable ? false,
        dir ? null,
        postInstall ? "",
        ...
      }@arguments:
      run name
        (removeAttrs arguments [
          "dir"
          "isExecutable"
          "postInstall"
        ])
        ''
          target=$out${lib.optionalString (dir != null) "/${dir}/${name}"}
          mkdir -p "$(dirname "$target")"
          substituteAll ${src} "$target"
          ${lib.optionalString isExecutable ''chmod +x "$target"''}
          ${postInstall}
        '';
    linkFarm =
      name: entries:
      run name { } ''
        mkdir $out
        ${lib.concatMapStrings
          (entry: ''
            mkdir -p "$(dirname "$out/${entry.name}")"
            ln -s ${entry.path} "$out/${entry.name}"
          '')
          (
            if lib.isAttrs entries then
              lib.mapAttrsToList (name: path: { inherit name path; }) entries
            else
              entries
          )
        }
      '';
    # The variables that programs with other rights must not inherit, from glibc.
    srcOnly =
      _:
      run "glibc-unsecvars" { } ''
        mkdir $out
        cat >$out/unsecvars.h <<'END'
        #define UNSECURE_ENVVARS \
          "GCONV_PATH\0" "GETCONF_DIR\0" "GLIBC_TUNABLES\0" "HOSTALIASES\0" "LD_AUDIT\0" \
          "LD_DEBUG\0" "LD_DEBUG_OUTPUT\0" "LD_DYNAMIC_WEAK\0" "LD_HWCAP_MASK\0" \
          "LD_LIBRARY_PATH\0" "LD_ORIGIN_PATH\0" "LD_PRELOAD\0" "LD_PROFILE\0" \
          "LD_SHOW_AUXV\0" "LD_USE_LOAD_BIAS\0" "LOCALDOMAIN\0" "LOCPATH\0" \
          "MALLOC_CHECK_\0" "MALLOC_TRACE\0" "NIS_PATH\0" "NLSPATH\0" "RESOLV_HOST_CONF\0" \
          "RES_OPTIONS\0" "TMPDIR\0" "TZDIR\0"
        END
      '';
    makeDBusConf =
      { serviceDirectories, suidHelper, ... }:
      run "dbus-1" { } ''
        mkdir $out
        for bus in system session; do
          {
            sed -e '/<\/busconfig>/d' -e '/<standard_.*_servicedirs/d' -e '/<include/d' \
              -e 's,<servicehelper>.*</servicehelper>,<servicehelper>${suidHelper}</servicehelper>,' \
              /usr/share/dbus-1/$bus.conf
            for folder in ${toString serviceDirectories}; do
              echo "<servicedir>$folder/share/dbus-1/$bus-services</servicedir>"
              echo "<includedir>$folder/share/dbus-1/$bus.d</includedir>"
            done
            echo '</busconfig>'
          } >$out/$bus.conf
        done
      '';
  };
}
