# A relay in a virtual machine. Its ports are forwarded from 127.0.0.1 of this computer, with 10000 added; other
# machines cannot connect to it.
{
  lib,
  modulesPath,
  pkgs,
  ...
}:
let
  domain = "_relay.test";

  # The first login of Delta Chat creates the account.
  hint = pkgs.writeShellScript "relay-hint" ''
    set -eu
    random() { tr -dc a-z0-9 </dev/urandom | head -c "$1"; }
    cat <<EOF

    This is the relay ${domain}. Each of these codes is a new account: in Delta Chat on this computer, add a
    profile and paste one of them instead of scanning a QR code.

    EOF
    for _ in 1 2; do
      echo "  dclogin:$(random 9)@${domain}?p=$(random 20)&v=1&ih=127.0.0.1&ip=10993&is=ssl&sh=127.0.0.1&sp=10465&ss=ssl&ic=3"
    done
    cat <<EOF

    Web site: https://127.0.0.1:10443/    Logs: journalctl -f    Stop: poweroff

    EOF
  '';
in
{
  imports = [ (modulesPath + "/virtualisation/qemu-vm.nix") ];

  networking.hostName = "relay";

  services.chatmail = {
    enable = true;
    inherit domain;
    # The relay is alone, so it needs no DNS.
    resolver.enable = false;
    accounts = {
      minMemoryAvailable = 0;
      minDiskFree = 0;
    };
  };

  virtualisation = {
    cores = lib.mkDefault 2;
    memorySize = lib.mkDefault 2048;
    diskSize = lib.mkDefault 4096;
    graphics = false;
    forwardPorts =
      map
        (port: {
          from = "host";
          host.address = "127.0.0.1";
          host.port = 10000 + port;
          guest.port = port;
        })
        [
          80
          143
          443
          465
          587
          993
        ];
  };

  services.getty.autologinUser = "root";
  programs.bash.loginShellInit = "${hint}";

  system.stateVersion = "26.05";
}
