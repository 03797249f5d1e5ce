# What all packages made from the Cargo workspace have in common.
{ lib }:
{
  # Nothing else is read by the build, so a change of documentation or of the module rebuilds nothing. The site's sources
  # are for tests.
  src = lib.fileset.toSource {
    root = ../..;
    fileset = lib.fileset.unions [
      ../../Cargo.lock
      ../../Cargo.toml
      ../../clippy.toml
      ../../crates
      ../../rustfmt.toml
      ../../www
    ];
  };
  version = (lib.importTOML ../../Cargo.toml).workspace.package.version;
  cargoLock.lockFile = ../../Cargo.lock;
}
