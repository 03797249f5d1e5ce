# Tools for work on the project.
{
  cargo,
  clippy,
  deadnix,
  mkShell,
  nixfmt,
  openssl,
  rustc,
  rustfmt,
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
  ];
}
