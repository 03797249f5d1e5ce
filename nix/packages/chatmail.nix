# The relay's services and the `chatmail` command.
{ lib, rustPlatform }:
rustPlatform.buildRustPackage {
  pname = "chatmail";
  version = (lib.importTOML ../../Cargo.toml).workspace.package.version;

  # Nothing else is read by the build, so a change of documentation or of the module rebuilds nothing.
  src = lib.fileset.toSource {
    root = ../..;
    fileset = lib.fileset.unions [
      ../../Cargo.lock
      ../../Cargo.toml
      ../../clippy.toml
      ../../crates
    ];
  };
  cargoLock.lockFile = ../../Cargo.lock;

  # The lab is for development: it needs root, containers and the network.
  cargoBuildFlags = [
    "--workspace"
    "--exclude=lab"
  ];
  cargoTestFlags = [
    "--workspace"
    "--exclude=lab"
  ];

  meta = {
    description = "Services of a chatmail relay";
    license = lib.licenses.mit;
    mainProgram = "chatmail";
    platforms = lib.platforms.linux;
  };
}
