# iroh-relay 0.35, the version whose protocol clients support; nixpkgs has later ones. Built from the published crate,
# which contains its lock file.
{
  lib,
  fetchCrate,
  rustPlatform,
}:
rustPlatform.buildRustPackage rec {
  pname = "iroh-relay";
  version = "0.35.0";

  src = fetchCrate {
    inherit pname version;
    hash = "sha256-RHIs7JfJgxo6QisAhkF/u5wkZ9Y4p3cc+72QvwnvVs0=";
  };
  cargoHash = "sha256-3E2l9IteNrUxtnDyvtG5ihK/sFKgeCelp1zxsWr5EN8=";

  buildFeatures = [ "server" ];
  # The tests need network access.
  doCheck = false;

  meta = {
    description = "Relay for realtime connections between devices that cannot reach each other";
    homepage = "https://github.com/n0-computer/iroh";
    license = with lib.licenses; [
      asl20
      mit
    ];
    mainProgram = "iroh-relay";
    platforms = lib.platforms.linux;
  };
}
