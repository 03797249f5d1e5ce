# A host whose own web site answers for unknown names.
{
  imports = [ ../../eval/hosts/lab-c.nix ];

  services.nginx.virtualHosts."site.c.test".default = true;
}
