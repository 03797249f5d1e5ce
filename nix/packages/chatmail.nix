# The relay's services and the `chatmail` command.
{
  lib,
  rustPlatform,
  stdenv,
}:
rustPlatform.buildRustPackage (
  import ./workspace.nix { inherit lib; }
  // {
    pname = "chatmail";

    # The lab is for development, and `mailtest` is a separate package: it runs on other computers than a relay.
    cargoBuildFlags = [
      "--workspace"
      "--exclude=lab"
      "--exclude=lab-front"
      "--exclude=mailtest"
    ];
    # The check `services-tests` runs the tests. An operator's machine would have to compile them too, and they could fail
    # its build: they start services and wait with a time limit.
    doCheck = false;

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
