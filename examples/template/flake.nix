{
  description = "A chatmail relay";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
  # Change: a clone of the relay's repository, or any other URL that Nix can fetch.
  inputs.chatmail.url = "path:/path/to/the/clone";
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
