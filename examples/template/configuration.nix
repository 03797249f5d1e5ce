# A complete host. Change the lines marked "Change" and install it; then `chatmail dns --zone` prints the records to
# publish.
{ modulesPath, ... }:
{
  imports = [
    # For virtual machines; on other hardware, use the hardware configuration that `nixos-generate-config` writes.
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

  # Change: your mail address, for the certificate authority. Its terms: https://letsencrypt.org/repository/
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
