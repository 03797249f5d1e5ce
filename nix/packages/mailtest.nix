# Plays mail scenarios against existing relays: `mailtest test DOMAIN`, `mailtest ping DOMAIN`, `mailtest --topology FILE`.
{
  lib,
  deltachat-rpc-server,
  makeWrapper,
  rustPlatform,
  util-linux,
}:
rustPlatform.buildRustPackage (
  import ./workspace.nix { inherit lib; }
  // {
    pname = "mailtest";

    nativeBuildInputs = [ makeWrapper ];
    cargoBuildFlags = [ "--package=mailtest" ];
    # The check `lab-tests` runs the tests, which need the whole source tree.
    doCheck = false;
    postInstall = ''
      wrapProgram $out/bin/mailtest \
        --set-default CHATMAIL_DELTACHAT_RPC_SERVER ${lib.getExe deltachat-rpc-server} \
        --prefix PATH : ${lib.makeBinPath [ util-linux ]}
    '';

    meta = {
      description = "Mail scenarios with real clients, for chatmail relays";
      license = lib.licenses.mit;
      mainProgram = "mailtest";
      platforms = lib.platforms.linux;
    };
  }
)
