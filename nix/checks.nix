# Everything that `nix flake check` builds: packages with their tests, lints, complete hosts, and tests in virtual
# machines.
{
  lib,
  pkgs,
  self,
}:
let
  inherit (pkgs.stdenv.hostPlatform) system;
  packages = self.packages.${system};

  sources = lib.fileset.toSource {
    root = ./..;
    fileset = lib.fileset.fileFilter (file: file.hasExt "nix") ./..;
  };
  overSources =
    name: tools: command:
    pkgs.runCommand name { nativeBuildInputs = tools; } ''
      cd ${sources}
      ${command}
      touch $out
    '';

  # All files that the lab's tests read.
  tree = lib.fileset.toSource {
    root = ./..;
    fileset = lib.fileset.unions [
      ../ARCHITECTURE.md
      ../Cargo.lock
      ../Cargo.toml
      ../clippy.toml
      ../crates
      ../docs
      ../examples
      ../flake.nix
      ../nix
      ../nixos
      ../rustfmt.toml
      ../tests
      ../www
    ];
  };

  # A derivation that runs a command on the Rust code and installs nothing.
  rust =
    name: tools: command:
    packages.chatmail.overrideAttrs (old: {
      inherit name;
      nativeBuildInputs = old.nativeBuildInputs ++ tools;
      src = tree;
      buildPhase = command;
      doCheck = false;
      installPhase = "touch $out";
    });

  host =
    module:
    lib.nixosSystem {
      modules = [
        self.nixosModules.default
        module
        {
          nixpkgs.hostPlatform = system;
          boot.loader.grub.enable = false;
          fileSystems."/" = {
            device = "none";
            fsType = "tmpfs";
          };
        }
      ];
    };
  examples = lib.mapAttrs (_: host) {
    host-daemon-settings = ../examples/daemon-settings.nix;
    host-existing-site = ../examples/existing-site.nix;
    host-full = ../examples/full.nix;
    host-minimal = ../examples/minimal.nix;
    host-monitoring = ../examples/monitoring.nix;
  };
  # The hosts of a folder that `nix run .#init` wrote, with this flake as its input.
  hostsOf =
    folder:
    let
      flake = (import (folder + "/flake.nix")).outputs {
        nixpkgs = { inherit lib; };
        chatmail = self;
      };
    in
    lib.mapAttrs' (
      domain: written:
      lib.nameValuePair "host-${baseNameOf folder}-${domain}" (
        written.extendModules { modules = [ { nixpkgs.hostPlatform = lib.mkForce system; } ]; }
      )
    ) flake.nixosConfigurations;
  hosts = examples // hostsOf ../examples/init // hostsOf ../examples/fleet;

  tests = import ../tests/vm { inherit pkgs self; };
in
{
  inherit (packages)
    chatmail
    dovecot
    iroh-relay
    mailtest
    opendkim
    website
    ;

  clippy = rust "clippy" [
    pkgs.clippy
  ] "cargo clippy --release --frozen --workspace --all-targets -- --deny warnings";
  services-tests =
    rust "services-tests" [ ]
      "cargo test --release --frozen --workspace --exclude=lab --exclude=lab-front --exclude=mailtest";
  # This also checks that the committed rendering is that of this module.
  lab-tests = rust "lab-tests" [
    pkgs.python3
  ] "cargo test --release --frozen --package=lab --package=lab-front --package=mailtest";
  rustfmt = rust "rustfmt" [ pkgs.rustfmt ] "cargo fmt --all --check";

  nixfmt = overSources "nixfmt" [ pkgs.nixfmt ] "find . -name '*.nix' -exec nixfmt --check {} +";
  shellcheck = pkgs.runCommand "shellcheck" { nativeBuildInputs = [ pkgs.shellcheck ]; } ''
    shellcheck --external-sources ${./apps}/*.sh
    touch $out
  '';
  deadnix = overSources "deadnix" [ pkgs.deadnix ] "deadnix --fail .";
}
// lib.mapAttrs (_: host: host.config.system.build.toplevel) hosts
// lib.mapAttrs' (name: lib.nameValuePair "vm-${name}") tests
