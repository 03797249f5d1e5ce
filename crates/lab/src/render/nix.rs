//! Evaluates hosts with Nix.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Hint in messages about a missing nixpkgs.
pub(super) const HOW_TO_POINT_TO_NIXPKGS: &str = "set NIXPKGS to a checkout, or NIX_PATH with nixpkgs=CHECKOUT, \
     or CHATMAIL_NIXPKGS_LIB and CHATMAIL_NIXOS_TREE to its lib folder and to a folder with its nixos folder";

/// Result of `nix/eval/render.nix` for a host.
#[derive(Debug, Deserialize)]
pub(super) struct Evaluation {
    /// Messages of failed assertions.
    pub(super) failed: Vec<String>,
    /// Warnings that a rebuild would print.
    pub(super) warnings: Vec<String>,
    /// The mail domain.
    pub(super) domain: String,
    /// Files below /etc, with the store paths of their contents.
    pub(super) etc: BTreeMap<String, PathBuf>,
    /// Units with their contents.
    pub(super) units: BTreeMap<String, String>,
    /// Lines `TARGET UNIT`.
    pub(super) wants: Vec<String>,
    /// Lines `[INTERFACE] PROTOCOL PORT` that the firewall permits.
    pub(super) firewall: Vec<String>,
    /// Lines for systemd-sysusers.
    pub(super) sysusers: Vec<String>,
    /// Lines for systemd-tmpfiles.
    pub(super) tmpfiles: Vec<String>,
}

/// Result of `nix/eval/release.nix`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Release {
    /// Release of nixpkgs' lib folder.
    lib: String,
    /// Release of its NixOS modules.
    modules: String,
    /// Modules that are too old, which the project replaces.
    stand_ins: Vec<String>,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stand_ins = match self.stand_ins.as_slice() {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        write!(
            f,
            "nixpkgs' lib {}; NixOS modules {}; stand-ins: {stand_ins}",
            self.lib, self.modules
        )
    }
}

/// Result of `nix/eval/options.nix`.
#[derive(Debug, Deserialize)]
pub(super) struct Options {
    /// Options without a description, or with neither a default nor an example.
    pub(super) undescribed: Vec<String>,
    /// The reference page of all options.
    pub(super) text: String,
}

/// Result of `nix/eval/assertions.nix`.
#[derive(Debug, Deserialize)]
pub(super) struct Assertions {
    /// Number of configurations tested.
    pub(super) cases: usize,
    /// Configurations that do not fail with the expected message, and assertions that no configuration tests.
    pub(super) complaints: Vec<String>,
}

/// The host to evaluate if the result depends only on the module.
const PLAIN_HOST: &str = "examples/minimal.nix";

/// Paths of the parts of nixpkgs that evaluation needs.
#[derive(Debug)]
pub(super) struct Nixpkgs {
    /// The `lib` folder of nixpkgs.
    pub(super) lib: PathBuf,
    /// A folder that contains the `nixos` folder of nixpkgs.
    pub(super) tree: PathBuf,
}

impl Nixpkgs {
    /// Finds nixpkgs through environment variables; returns none if they are not set, or if Nix is not installed.
    pub(super) fn find() -> anyhow::Result<Option<Self>> {
        let nix = Command::new("nix-instantiate").arg("--version").output();
        Ok(Self::at_hand()?.filter(|_| nix.is_ok()))
    }

    /// Finds nixpkgs through environment variables; returns none if they are not set.
    pub(super) fn at_hand() -> anyhow::Result<Option<Self>> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let in_nix_path = std::env::var("NIX_PATH")
            .unwrap_or_default()
            .split(':')
            .find_map(|entry| entry.strip_prefix("nixpkgs=").map(PathBuf::from));
        let checkout = variable("NIXPKGS").or(in_nix_path);
        let lib = variable("CHATMAIL_NIXPKGS_LIB").or_else(|| Some(checkout.as_ref()?.join("lib")));
        let tree = variable("CHATMAIL_NIXOS_TREE").or(checkout);
        let (Some(lib), Some(tree)) = (lib, tree) else {
            return Ok(None);
        };
        for needed in [
            lib.join("default.nix"),
            tree.join("nixos/modules/module-list.nix"),
        ] {
            if !needed.is_file() {
                bail!("{} is missing; {HOW_TO_POINT_TO_NIXPKGS}", needed.display());
            }
        }
        Ok(Some(Self { lib, tree }))
    }

    /// Returns a flake that replaces nixpkgs, with `nix/eval/nixpkgs.nix` of the project.
    pub(super) fn flake(&self, project: &Path) -> anyhow::Result<String> {
        let name = self.lib.file_name().and_then(|name| name.to_str());
        let (Some(name), Some(above)) = (name, self.lib.parent()) else {
            bail!("{} is not a folder with a name", self.lib.display());
        };
        // The parent folder, because files in a checkout's lib may refer to it.
        let input = |name: &str, path: &Path| {
            format!(
                "  inputs.{name} = {{ url = \"path:{}\"; flake = false; }};\n",
                path.display()
            )
        };
        let inputs = [
            input("above", above),
            input("tree", &self.tree),
            input("eval", &project.join("nix/eval")),
        ];
        // Inputs are strings with store context, but the module system compares modules by path.
        let path = "path = input: /. + builtins.unsafeDiscardStringContext \"${input}\";";
        Ok(format!(
            "{{\n{}  outputs = inputs: let {path} in import (path inputs.eval + \"/nixpkgs.nix\") {{\n    \
             lib = path inputs.above + \"/{name}\";\n    tree = path inputs.tree;\n  }};\n}}\n",
            inputs.concat()
        ))
    }

    /// Evaluates hosts in parallel.
    pub(super) fn evaluate(
        &self,
        project: &Path,
        hosts: &BTreeMap<String, PathBuf>,
    ) -> anyhow::Result<BTreeMap<String, Evaluation>> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = hosts
                .iter()
                .map(|(name, file)| (name, scope.spawn(move || self.evaluate_one(project, file))))
                .collect();
            threads
                .into_iter()
                .map(|(name, thread)| {
                    let evaluation = thread
                        .join()
                        .map_err(|_| anyhow::anyhow!("the evaluation panicked"))
                        .flatten()
                        .with_context(|| format!("cannot evaluate {name}"))?;
                    Ok((name.clone(), evaluation))
                })
                .collect()
        })
    }

    fn evaluate_one(&self, project: &Path, host: &Path) -> anyhow::Result<Evaluation> {
        self.run(project, "render", host)
    }

    /// Returns the options reference, and the gaps in it. It is the same for every host.
    pub(super) fn options(&self, project: &Path) -> anyhow::Result<Options> {
        self.run(project, "options", &project.join(PLAIN_HOST))
    }

    /// Returns the release of this nixpkgs.
    pub(super) fn release(&self, project: &Path) -> anyhow::Result<Release> {
        self.run(project, "release", &project.join(PLAIN_HOST))
    }

    /// Tests that every assertion of the module fails for its configuration.
    pub(super) fn assertions(&self, project: &Path) -> anyhow::Result<Assertions> {
        self.run(project, "assertions", &project.join(PLAIN_HOST))
    }

    /// Evaluates `nix/eval/WHAT.nix` for a host.
    fn run<T: DeserializeOwned>(&self, project: &Path, what: &str, host: &Path) -> anyhow::Result<T> {
        // Evaluation writes texts to the store and reads them from it, so the store must be writable.
        let output = Command::new("nix-instantiate")
            .args(["--eval", "--strict", "--json", "--read-write-mode"])
            .arg(project.join(format!("nix/eval/{what}.nix")))
            .arg("--argstr")
            .arg("lib")
            .arg(&self.lib)
            .arg("--argstr")
            .arg("tree")
            .arg(&self.tree)
            .arg("--argstr")
            .arg("host")
            .arg(host)
            .output()
            .context("cannot run nix-instantiate")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("nix/eval/{what}.nix returns an unexpected format"))
    }
}
