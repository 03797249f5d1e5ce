# The relay's services and the `chatmail` command.
{ lib, rustPlatform }:
let
  # The lab is a separate package, because it is for development.
  services = [
    "--workspace"
    "--exclude=lab"
    "--exclude=lab-front"
  ];
in
rustPlatform.buildRustPackage (
  import ./workspace.nix { inherit lib; }
  // {
    pname = "chatmail";

    cargoBuildFlags = services;
    # The check `services-tests` runs these tests: they start services and wait with a time limit, so they would fail
    # builds on a machine under load.
    cargoTestFlags = services ++ [
      "--lib"
      "--bins"
    ];

    meta = {
      description = "Services of a chatmail relay";
      license = lib.licenses.mit;
      mainProgram = "chatmail";
      platforms = lib.platforms.linux;
    };
  }
)
