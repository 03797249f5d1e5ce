# Common attributes of all packages that are built from the Cargo workspace.
{ lib }:
{
  # The build reads nothing else, so a change of documentation or of the module rebuilds nothing. The tests need the
  # sources of the site.
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
