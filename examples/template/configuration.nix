# A whole host. Change what is marked, install it, then `chatmail dns --zone` prints the records to publish.
{ modulesPath, ... }:
{
  imports = [
    # For virtual machines; on other hardware put what `nixos-generate-config` finds here instead.
    (modulesPath + "/profiles/qemu-guest.nix")
  ];
  nixpkgs.hostPlatform = "x86_64-linux";

  # Change: the domain of the relay, and its public addresses.
  networking.domain = "example.org";
  networking.hostName = "chat";
  services.chatmail = {
    enable = true;
    domain = "chat.example.org";
    addresses = [ "192.0.2.1" ];
    adminAddress = "privacy@example.org";
  };

  # Change: where the certificate authority reaches you. Its terms: https://letsencrypt.org/repository/
  security.acme = {
    acceptTerms = true;
    defaults.email = "admin@example.org";
  };

  # Change: the disk.
  boot.loader.grub.device = "/dev/vda";
  fileSystems."/" = {
    device = "/dev/disk/by-label/nixos";
    fsType = "ext4";
  };

  # Change: your key.
  services.openssh.enable = true;
  services.openssh.settings.PasswordAuthentication = false;
  users.users.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA… you@example.org" ];

  system.stateVersion = "26.05";
}
