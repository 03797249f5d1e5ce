# The relay's services and the `chatmail` command.
{
  lib,
  rustPlatform,
  stdenv,
}:
let
  # The lab is for development, and `mailtest` is a separate package: it runs on other computers than a relay.
  services = [
    "--workspace"
    "--exclude=lab"
    "--exclude=lab-front"
    "--exclude=mailtest"
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

    # Man pages and shell completions of the command line.
    postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
      $out/bin/chatmail manual --output $out/share
    '';

    meta = {
      description = "Services of a chatmail relay";
      license = lib.licenses.mit;
      mainProgram = "chatmail";
      platforms = lib.platforms.linux;
    };
  }
)
