# The lab, to play its scenarios against relays that run elsewhere: `lab test --topology FILE`. The relays in containers,
# which it makes from the source tree and Debian's packages, are started with `cargo lab`.
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
    # They look at the whole source tree: the check `lab-tests` runs them.
    doCheck = false;
    postInstall = ''
      wrapProgram $out/bin/lab \
        --set-default CHATMAIL_DELTACHAT_RPC_SERVER ${lib.getExe deltachat-rpc-server} \
        --prefix PATH : ${lib.makeBinPath [ util-linux ]}
    '';

    meta = {
      description = "Mail scenarios that real clients play against chatmail relays";
      license = lib.licenses.mit;
      mainProgram = "lab";
      platforms = lib.platforms.linux;
    };
  }
)
