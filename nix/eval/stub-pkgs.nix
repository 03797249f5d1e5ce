# A package set whose members evaluate but are never built. Each is a fake derivation with its own store path, named
# after the package without its version. Text writers do write to the store, so that the text behind every path in a
# rendered file can be read (needs --read-write-mode). With `real`, its members can be built: nix/boot/packages.nix.
{
  lib,
  names ? lib.importJSON ./names.json,
  real ? null,
  system ? "x86_64-linux",
  versions ? { },
}:
let
  platform = lib.systems.elaborate system // {
    # Modules that are older than this lib use it.
    linux-kernel.target = "bzImage";
  };

  # Attributes that modules read from a package: outputs, tool paths, build flags.
  reached = [
    "bin"
    "bintools"
    "cc"
    "cli"
    "cryptsetup"
    "data"
    "dev"
    "doc"
    "fd"
    "ga"
    "gcc"
    "getBin"
    "info"
    "kbd"
    "kmod"
    "lib"
    "libc"
    "lvm2"
    "man"
    "out"
    "p11kit"
    "su"
    "unbundled"
    "util-linux"
    "zfs"
  ];
  withFlags = map (name: "with${name}") [
    "Bootloader"
    "Bpf"
    "Coredump"
    "Cryptsetup"
    "Efi"
    "Fido2"
    "Homed"
    "Hostnamed"
    "Importd"
    "Kexec"
    "Localed"
    "Logind"
    "Machined"
    "Networkd"
    "Oomd"
    "PCRE2"
    "PasswordQuality"
    "Polkit"
    "Portabled"
    "Remote"
    "Repart"
    "Resolved"
    "Sysupdate"
    "Timedated"
    "Timesyncd"
    "Tpm2Tss"
    "Ukify"
    "Utmp"
  ];

  kernelConfig = {
    getValue = _: "y";
    isDisabled = _: false;
    isEnabled = _: true;
    isModule = _: true;
    isNo = _: false;
    isSet = _: true;
    isYes = _: true;
  };

  # A derived package depends on all of its inputs, so that errors and changes in them have an effect.
  made =
    name: inputs: attrs:
    let
      isInput = key: value: key != "meta" && key != "passthru" && !builtins.isFunction value;
    in
    fakeOf { inputs = builtins.toJSON (lib.filterAttrs isInput inputs); } name (
      {
        overrideAttrs =
          change:
          let
            changed = change ({ nativeBuildInputs = [ ]; } // inputs);
          in
          made (changed.name or name) (inputs // changed) attrs;
      }
      // attrs
    );

  realised =
    if real == null then
      {
        members = { };
        package = _: { };
      }
    else
      real {
        inherit fake fakeOf final;
        inherit (stubs) stdenv;
      };
  fake = name: fakeOf (realised.package name) name;

  fakeOf =
    inputs: name: attrs:
    let
      drv = derivation (
        {
          builder = "/bin/sh";
        }
        // inputs
        // {
          inherit system;
          name = lib.strings.sanitizeDerivationName name;
        }
      );
      self =
        drv
        // lib.genAttrs reached (_: self)
        // lib.genAttrs withFlags (_: true)
        // {
          pname = name;
          version = versions.${name} or "1.0";
          meta = {
            mainProgram = name;
            license = { };
            platforms = [ system ];
            maintainers = [ ];
          };
          passthru = { };
          # Any package can also be called and overridden like a builder.
          __functor = _: _: self;
          extend = _: self;
          override = _: self;
          overrideAttrs = _: self;
          overridePythonAttrs = _: self;
          withModules = _: self;
          withPackages = _: self;
          withPlugins = _: self;
          dynamicLinker = "/lib/ld.so";
          interpreter = "/bin/${name}";
          shellPath = "/bin/${name}";
          inherit (final) stdenv;
          pkgs = final;
          outputs = [ "out" ];
          packages = { };
          modules = [ ];
          sitePackages = "lib/python";
          interfaceVersion = 2;
          libcMinor = 0;
          mesonFlags = [ ];
          config = kernelConfig;
          features = { };
          initramfs = null;
          compressorArgs = [ ];
          compressorExecutableFunction = _: "/bin/${name}";
          isHardened = false;
          isXen = false;
          kernel = self;
          kernelAtLeast = _: true;
          kernelOlder = _: false;
          kernelPatches = [ ];
          modDirVersion = "6.12.0";
          systemManagementModeRequired = false;
          firmware = "/${name}/firmware";
          variables = "/${name}/variables";
          withDebugInfo = false;
        }
        // attrs;
    in
    self;

  written =
    name: text:
    fake name {
      inherit text;
      outPath = builtins.toFile (lib.strings.sanitizeDerivationName name) (
        builtins.unsafeDiscardStringContext text
      );
    };

  format = print: _: {
    type =
      let
        value =
          lib.types.nullOr (
            lib.types.oneOf [
              lib.types.bool
              lib.types.int
              lib.types.float
              lib.types.str
              lib.types.path
              (lib.types.attrsOf value)
              (lib.types.listOf value)
            ]
          )
          // {
            description = "value";
          };
      in
      value;
    generate = name: value: final.writeText name (print value);
    lib = { };
  };
  # JSON with one value per line, as the real writers produce it.
  json =
    indent: value:
    let
      deeper = indent + "  ";
      block =
        open: close: lines:
        if lines == [ ] then
          open + close
        else
          "${open}\n${lib.concatMapStringsSep ",\n" (line: deeper + line) lines}\n${indent}${close}";
    in
    if lib.isList value then
      block "[" "]" (map (json deeper) value)
    else if lib.isAttrs value && !(value ? outPath || value ? __toString) then
      block "{" "}" (
        lib.mapAttrsToList (name: inner: "${builtins.toJSON name}: ${json deeper inner}") value
      )
    else
      builtins.toJSON value;
  jsonFormat = format (value: json "" value + "\n");
  # Numbers, strings and lists of them have the same form as in JSON; tables are not needed.
  tomlFormat = format (
    value:
    lib.concatStrings (
      lib.mapAttrsToList (
        name: scalar:
        assert !builtins.isAttrs scalar;
        "${name} = ${builtins.toJSON scalar}\n"
      ) value
    )
  );

  # Calls package functions whose arguments are all in this set, such as those of the flake.
  callPackage =
    function: arguments:
    let
      call = if builtins.isFunction function then function else import function;
      asked = builtins.functionArgs call;
      given = builtins.intersectAttrs asked final // arguments;
      complete = lib.all (name: asked.${name} || given ? ${name}) (lib.attrNames asked);
    in
    if complete then call given else fake "called" { };

  stubs = lib.genAttrs names (name: fake name { }) // {
    _type = "pkgs";
    inherit callPackage lib system;
    __splicedPackages = final;
    buildPackages = final;
    pkgs = final;
    pkgsBuildBuild = final;
    pkgsCross = { };
    pkgsHostTarget = final;
    pkgsStatic = final;
    pkgsi686Linux = final;
    unixtools = final;
    callPackages = callPackage;
    config = {
      allowUnfree = false;
      allowAliases = true;
    };
    overlays = [ ];
    path = null;
    appendOverlays = _: final;
    extend = _: final;

    hostPlatform = platform;
    buildPlatform = platform;
    targetPlatform = platform;
    stdenv = fake "stdenv" {
      inherit (platform) isx86_64;
      hostPlatform = platform;
      buildPlatform = platform;
      targetPlatform = platform;
      is64bit = true;
      isLinux = true;
      isDarwin = false;
      shell = "/bin/sh";
      cc = fake "cc" { };
      mkDerivation =
        arguments:
        if builtins.isFunction arguments then
          fake "derivation" { }
        else
          made (arguments.pname or arguments.name or "derivation") arguments { };
    };
    stdenvNoCC = final.stdenv;
    rustPlatform.buildRustPackage =
      arguments:
      made arguments.pname
        (
          arguments
          // {
            # No hash: the lock file contains them.
            cargoLock = lib.mapAttrs (_: builtins.readFile) arguments.cargoLock or { };
          }
        )
        {
          inherit (arguments) meta;
        };

    # Files with a destination keep the path of the store file; the renderer learns the destination from references to
    # it.
    writeText = written;
    writeTextFile = arguments: written arguments.name arguments.text;
    writeTextDir = path: written (baseNameOf path);
    writeScript = written;
    writeScriptBin = written;
    writeShellScript = name: text: written name "#!${final.runtimeShell}\n${text}";
    writeShellScriptBin = name: text: written name "#!${final.runtimeShell}\n${text}";
    writeShellApplication =
      arguments:
      assert lib.all lib.isDerivation (arguments.runtimeInputs or [ ]);
      written arguments.name "#!${final.runtimeShell}\n${arguments.text}";
    writers = {
      writeBash = written;
      writeBashBin = written;
      writeDash = written;
      writeNginxConfig = written;
      writePython3 = name: _: written name;
    };

    runCommand =
      name: environment: script:
      made name (environment // { inherit script; }) { meta = environment.meta or { }; };
    runCommandCC = final.runCommand;
    runCommandLocal = final.runCommand;
    buildEnv = arguments: made arguments.name { inherit (arguments) paths; } { };
    mkShell = arguments: made "shell" arguments { };
    symlinkJoin = arguments: made (arguments.name or "join") { inherit (arguments) paths; } { };
    linkFarm = name: _: fake name { };
    linkFarmFromDrvs = name: _: fake name { };
    replaceVars = _: _: fake "replaced" { };
    substitute = _: fake "substituted" { };
    substituteAll = arguments: fake (arguments.name or "substituted") { };
    fetchCrate = _: fake "source" { };
    fetchFromGitHub = _: fake "source" { };
    fetchpatch = _: fake "patch" { };
    fetchurl = _: fake "source" { };
    fetchzip = _: fake "source" { };

    aggregateModules = _: fake "modules" { };
    closureInfo = _: fake "closure-info" { };
    ensureNewerSourcesForZipFilesHook = fake "hook" { };
    fontconfig = fake "fontconfig" { };
    makeDBusConf = _: fake "dbus-conf" { };
    makeFontsConf = _: fake "fonts-conf" { };
    makeInitrd = _: fake "initrd" { };
    makeInitrdNG = _: fake "initrd-ng" { };
    makeModulesClosure = _: fake "modules-closure" { };
    makeWrapper = fake "makeWrapper" { };
    nixosOptionsDoc =
      _:
      lib.genAttrs [
        "optionsAsciiDoc"
        "optionsCommonMark"
        "optionsDocBook"
        "optionsJSON"
        "optionsNix"
      ] (name: fake name { });
    udev = final.systemd;

    formats = {
      elixirConf = jsonFormat;
      gitIni = jsonFormat;
      hocon = jsonFormat;
      ini = format (lib.generators.toINI { });
      iniWithGlobalSection = jsonFormat;
      javaProperties = jsonFormat;
      json = jsonFormat;
      keyValue = format (lib.generators.toKeyValue { });
      libconfig = jsonFormat;
      nixConf = jsonFormat;
      php = jsonFormat;
      pythonVars = jsonFormat;
      systemd = jsonFormat { };
      toml = tomlFormat;
      yaml = jsonFormat;
      yaml_1_2 = jsonFormat;
    };

    # Its source is the stand-in for its module. fetchTarball first looks for the hash in the store, where this puts it.
    disko = fake "disko" {
      src = {
        url = "https://github.com/nix-community/disko/archive/refs/tags/v1.0.tar.gz";
        # After a change of the stand-in: nix hash path nix/eval/modules/disko
        outputHash =
          let
            sha256 = "sha256-EatGQ3CeNVK5OkTZmi72O0TUpqOMMcY7ewFQLj6FWYQ=";
            source = builtins.path {
              inherit sha256;
              name = "source";
              path = ./modules/disko;
            };
          in
          builtins.seq "${source}" sha256;
      };
    };

    bash = fake "bash" { shellPath = "/bin/bash"; };
    bashInteractive = fake "bash-interactive" { shellPath = "/bin/bash"; };
    runtimeShell = "/bin/bash";
    runtimeShellPackage = final.bash;
    libxcrypt = fake "libxcrypt" {
      enabledCryptSchemeIds = [
        "y"
        "gy"
        "7"
        "2b"
        "6"
      ];
    };
    linuxKernel = {
      packages = { };
      kernels = { };
    };
    linuxPackages = fake "linuxPackages" {
      kernel = fake "linux" { version = "6.12.0"; };
      extend = _: final.linuxPackages;
    };
    linuxPackages_latest = final.linuxPackages;
    nginxModules = lib.genAttrs [
      "brotli"
      "zstd"
    ] (_: { });
    nixos-artwork.wallpapers.simple-dark-gray-bootloader.gnomeFilePath = "/splash.png";
    nixos-option = fake "nixos-option" { };
    perl = fake "perl" {
      withPackages = _: fake "perl-env" { };
      pkgs = { };
    };
    perlPackages = { };
    python3 = fake "python3" { pkgs = final.python3Packages; };
    python3Packages = lib.genAttrs [
      "colorama"
      "gixy"
      "junit-xml"
      "ptpython"
      "pyflakes"
      "setuptools"
      "supervisor"
    ] (name: fake name { });
    xorg = lib.genAttrs [
      "lndir"
      "xauth"
      "xorgserver"
      "xwininfo"
    ] (name: fake name { });
    dictionaries = { };
    gnome = { };
    haskellPackages = { };
    kdePackages = { };
    libsForQt5 = { };
    nodePackages = { };
    plasma5Packages = { };
  };
  final = stubs // realised.members;
in
final
