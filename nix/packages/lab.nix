# The lab, for running its scenarios against existing relays: `lab test --topology FILE`. `cargo lab` starts relays in
# containers, which need the source tree and Debian's packages.
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
    pname = "lab";

    nativeBuildInputs = [ makeWrapper ];
    cargoBuildFlags = [ "--package=lab" ];
    # The check `lab-tests` runs the tests, which need the whole source tree.
    doCheck = false;
    postInstall = ''
      wrapProgram $out/bin/lab \
        --set-default CHATMAIL_DELTACHAT_RPC_SERVER ${lib.getExe deltachat-rpc-server} \
        --prefix PATH : ${lib.makeBinPath [ util-linux ]}
    '';

    meta = {
      description = "Mail scenarios with real clients, for chatmail relays";
      license = lib.licenses.mit;
      mainProgram = "lab";
      platforms = lib.platforms.linux;
    };
  }
)
