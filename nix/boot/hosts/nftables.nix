# The firewall of nftables instead of iptables.
{
  imports = [ ../../eval/hosts/lab-a.nix ];

  networking.nftables.enable = true;
  # The check at build time needs a kernel of its own.
  networking.nftables.checkRuleset = false;
}
