{
  description = "Chatmail relays";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
  inputs.chatmail.url = "path:/path/to/the/clone";
  inputs.chatmail.inputs.nixpkgs.follows = "nixpkgs";

  outputs =
    { nixpkgs, chatmail, ... }:
    let
      # Each relay has its settings in hosts/DOMAIN.
      relays = [
        "one.example.org"
        "two.example.org"
      ];
    in
    {
      nixosConfigurations = nixpkgs.lib.genAttrs relays (
        domain:
        nixpkgs.lib.nixosSystem {
          modules = [
            chatmail.nixosModules.default
            chatmail.nixosModules.disko
            ./disk.nix
            ./shared.nix
            (./hosts + "/${domain}")
          ];
        }
      );

      # `nix run .#install` and `nix run .#deploy`
      inherit (chatmail) apps;
    };
}
