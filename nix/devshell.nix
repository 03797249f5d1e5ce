# Development tools.
{
  cargo,
  clippy,
  deadnix,
  mkShell,
  nixfmt,
  openssl,
  rustc,
  rustfmt,
  shellcheck,
}:
mkShell {
  packages = [
    cargo
    clippy
    deadnix
    nixfmt
    openssl
    rustc
    rustfmt
    shellcheck
  ];
}
