# The minimal example under the domain of the lab's relay with ACME.
{ lib, ... }:
{
  imports = [
    ../../../examples/minimal.nix
    ../../eval/hosts/lab-e.nix
  ];

  services.chatmail.domain = lib.mkForce "e.test";
}
