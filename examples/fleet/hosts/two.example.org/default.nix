# The relay two.example.org.
{ lib, ... }:
{
  # `nix run .#install` writes these files.
  imports = lib.filter builtins.pathExists [
    ./addresses.nix
    ./hardware-configuration.nix
  ];

  nixpkgs.hostPlatform = "x86_64-linux";
  disko.devices.disk.main.device = "/dev/sda";

  # The host gets its address from DHCP. The operator guide describes static addresses.
  networking.hostName = "two";
  networking.domain = "example.org";

  services.chatmail = {
    domain = "two.example.org";
  };

  # The release that the relay was installed with; upgrades do not change it.
  system.stateVersion = "26.05";
}
