# OpenDKIM with the fixes published after its last release, used for signing only. nixpkgs marks its own package as
# insecure because it lacks these fixes and because upstream no longer makes releases.
{ fetchpatch, opendkim }:
opendkim.overrideAttrs (old: {
  patches =
    map
      (
        {
          commit,
          name,
          hash,
        }:
        fetchpatch {
          url = "https://github.com/trusteddomainproject/OpenDKIM/commit/${commit}.patch";
          inherit name hash;
        }
      )
      [
        {
          name = "CVE-2020-35766.patch";
          commit = "520338d25af68cf263b97ba63037e3f5856a10da";
          hash = "sha256-O4a4boa67tj0nqxee6V+u7rd3l3RGaiWE+Mu0ib4DWE=";
        }
        {
          name = "CVE-2022-48521.patch";
          commit = "e67c33e1a08cca793470e6a6ff44082f73f6d222";
          hash = "sha256-QtxiRM+/NDlQhfGB8XNX1M1PtQyXXarawoF+8pTTMVo=";
        }
        {
          name = "base64-of-files.patch";
          commit = "3f0aa0a31c11b9924f826708535071b68c22b731";
          hash = "sha256-nQCBGef2kjs9ZyHwPreNPQYW6jBOBTDhVq9RyeGSN/Y=";
        }
      ];

  meta = old.meta // {
    knownVulnerabilities = [ ];
  };
})
