//! What a command line of `cargo lab` asks for, as far as it decides what is installed and compiled.

use lab_front::prerequisites::{NO_INSTALL, Need};

/// What has to be there before the lab can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// What must be installed.
    pub(crate) needs: Vec<Need>,
    /// Relays are started: this needs root and Debian.
    pub(crate) starts_relays: bool,
    /// The lab is compiled with its scenarios, benchmarks and rendering.
    pub(crate) everything: bool,
    /// The programs that are measured are compiled as for a release.
    pub(crate) optimised: bool,
    /// The tools that look at the Nix code are installed.
    pub(crate) nix_tools: bool,
    /// A lab that is compiled already will do: it only looks at what runs.
    pub(crate) any_build: bool,
    /// `bench first-run`, which is measured from the outside.
    pub(crate) first_run: bool,
}

impl Call {
    /// Reads the arguments after `cargo lab`. What it does not know is left to the lab to refuse.
    pub(crate) fn of(arguments: &[&str]) -> Self {
        let mut words = arguments
            .iter()
            .copied()
            .take_while(|argument| *argument != "--")
            .filter(|argument| *argument != NO_INSTALL);
        let command = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let has = |option: &str| rest.contains(&option);
        let nothing = Self {
            needs: vec![Need::Compiler],
            starts_relays: false,
            everything: true,
            optimised: false,
            nix_tools: false,
            any_build: false,
            first_run: false,
        };
        // What follows the machine is a command of its own.
        let own = if command == "shell" { 1 } else { rest.len() };
        if rest
            .iter()
            .take(own)
            .any(|argument| ["-h", "--help"].contains(argument))
        {
            return nothing;
        }
        let relays = |needs: &[Need]| Self {
            needs: [&[Need::Compiler, Need::Relays], needs].concat(),
            starts_relays: true,
            ..nothing.clone()
        };
        match command {
            "demo" => Self {
                everything: false,
                ..relays(&[Need::DeltaChat])
            },
            "up" => Self {
                everything: false,
                ..relays(&[])
            },
            "down" | "logs" | "shell" => Self {
                everything: false,
                any_build: true,
                ..nothing
            },
            "test" if has("--list") => nothing,
            "test" if rest.iter().any(|argument| argument.starts_with("--topology")) => Self {
                needs: vec![Need::Compiler, Need::DeltaChat],
                ..nothing
            },
            // Chromium is large: where scenarios are chosen by name, the lab installs it only when one needs it.
            "test" if rest.iter().any(|argument| !argument.starts_with('-')) => {
                relays(&[Need::DeltaChat, Need::Scenarios])
            }
            "test" => Self {
                nix_tools: !has("--scenarios-only"),
                ..relays(&[Need::DeltaChat, Need::Scenarios, Need::Browser])
            },
            "bench" if rest.first() == Some(&"first-run") => Self {
                first_run: true,
                ..relays(&[Need::DeltaChat])
            },
            "bench" => Self {
                starts_relays: !["expire", "metadata"].iter().any(|name| has(name)),
                optimised: true,
                ..relays(&[])
            },
            _ => nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_needs_neither_a_browser_nor_the_scenarios() {
        let call = Call::of(&["demo"]);
        assert_eq!(call.needs, [Need::Compiler, Need::Relays, Need::DeltaChat]);
        assert!(call.starts_relays && !call.everything && !call.optimised);
        assert_eq!(Call::of(&["demo", "--no-install"]), call);
        assert_eq!(Call::of(&["--no-install", "demo"]), call);
    }

    #[test]
    fn all_tests_need_everything_and_chosen_scenarios_no_browser() {
        let all = Call::of(&["test"]);
        assert!(all.needs.contains(&Need::Browser) && all.nix_tools && all.everything);
        let chosen = Call::of(&["test", "--keep", "securejoin"]);
        assert!(!chosen.needs.contains(&Need::Browser) && !chosen.nix_tools && chosen.starts_relays);
    }

    #[test]
    fn what_starts_no_relay_needs_no_root() {
        for line in [
            &["test", "--list"][..],
            &["test", "--topology", "file.json"],
            &["test", "--topology=file.json", "securejoin"],
            &["render", "--check"],
            &["up", "--help"],
            &["--help"],
            &[],
        ] {
            assert!(!Call::of(line).starts_relays, "{line:?}");
        }
        let shell = Call::of(&["shell", "a", "bench", "--help"]);
        assert!(!shell.starts_relays && shell.any_build);
    }

    #[test]
    fn only_benchmarks_wait_for_optimised_programs() {
        assert!(Call::of(&["bench", "delivery", "--messages", "9"]).optimised);
        assert!(!Call::of(&["bench", "first-run"]).optimised);
        assert!(Call::of(&["bench", "first-run"]).first_run);
        assert!(!Call::of(&["bench", "expire"]).starts_relays);
    }
}
