# The relay's services and the `chatmail` command.
{ lib, rustPlatform }:
let
  # The lab is a package of its own: it is for development.
  services = [
    "--workspace"
    "--exclude=lab"
  ];
in
rustPlatform.buildRustPackage (
  import ./workspace.nix { inherit lib; }
  // {
    pname = "chatmail";

    cargoBuildFlags = services;
    # Tests that start services and wait for them watch the clock, which fails builds on a machine under load: the check
    # `services-tests` runs them.
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
