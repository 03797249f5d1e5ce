{
  description = "A chatmail relay for NixOS: mail for Delta Chat and other end-to-end encrypting clients";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      packagesFor = import ./nix/packages;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      # Operators can install and deploy relays from these too.
      otherLaptops = [
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      forSystems = systems: make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      forAllSystems = forSystems systems;

      programs = [
        "chatmail-expire"
        "chatmail-fsreport"
        "chatmail-metadata"
        "chatmail-metrics"
        "chatmail-quota-expire"
        "doveauth"
        "filtermail"
        "lastlogin"
        "newemail"
      ];
    in
    {
      nixosModules = {
        default = self.nixosModules.chatmail;
        chatmail = lib.modules.importApply ./nixos {
          inherit packagesFor;
          revision = self.rev or self.dirtyRev or null;
        };
        # For hosts whose disks disko lays out, as those of `nix run .#init` do.
        disko = import ./nix/disko.nix nixpkgs.legacyPackages.x86_64-linux;
      };

      overlays.default =
        final: _:
        let
          packages = packagesFor final;
        in
        {
          inherit (packages) chatmail;
          chatmail-dovecot = packages.dovecot;
          chatmail-iroh-relay = packages.iroh-relay;
          chatmail-mailtest = packages.mailtest;
          chatmail-opendkim = packages.opendkim;
        };

      packages = forAllSystems (
        pkgs:
        let
          packages = packagesFor pkgs;
          binary = pkgs.callPackage ./nix/packages/binary.nix { inherit (packages) chatmail; };
        in
        packages // lib.genAttrs programs binary // { default = packages.chatmail; }
      );

      apps =
        let
          operator = forSystems (systems ++ otherLaptops) (pkgs: import ./nix/apps { inherit lib pkgs; });
          vm = forAllSystems (pkgs: {
            vm = import ./nix/vm { inherit lib pkgs self; };
          });
        in
        lib.recursiveUpdate operator vm;

      checks = forAllSystems (pkgs: import ./nix/checks.nix { inherit lib pkgs self; });

      devShells = forAllSystems (pkgs: {
        default = pkgs.callPackage ./nix/devshell.nix { };
      });

      formatter = forAllSystems (pkgs: pkgs.nixfmt-tree);

      templates.default = {
        path = ./examples/init;
        description = "The folder of a new relay, as `nix run .#init` writes it";
      };
    };
}
