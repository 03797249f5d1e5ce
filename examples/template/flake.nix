{
  description = "A chatmail relay";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
  inputs.chatmail.url = "github:OWNER/REPOSITORY";
  inputs.chatmail.inputs.nixpkgs.follows = "nixpkgs";

  outputs =
    { nixpkgs, chatmail, ... }:
    {
      nixosConfigurations.relay = nixpkgs.lib.nixosSystem {
        modules = [
          chatmail.nixosModules.default
          ./configuration.nix
        ];
      };
    };
}
