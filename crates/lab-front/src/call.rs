//! Decides from the command line of `cargo lab` what to install and what to compile.

use lab_front::prerequisites::{NO_INSTALL, Need};

/// What the lab needs for one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// Prerequisites to install.
    pub(crate) needs: Vec<Need>,
    /// Whether the command starts relays, for which it needs root and Debian.
    pub(crate) starts_relays: bool,
    /// Whether to compile the lab with its scenarios, benchmarks and rendering.
    pub(crate) everything: bool,
    /// Whether to compile with the profile `release`, for measurements.
    pub(crate) optimised: bool,
    /// Whether to install the tools that check the Nix code.
    pub(crate) nix_tools: bool,
    /// Whether any existing build of the lab suffices, because the command only uses running relays.
    pub(crate) any_build: bool,
    /// Whether the command is `bench first-run`, which this program runs itself.
    pub(crate) first_run: bool,
}

impl Call {
    /// Reads the arguments after `cargo lab`. The lab reports those that are invalid.
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
        // Arguments after the machine belong to the command that runs in it.
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
            // Chromium is large. If scenarios are chosen by name, the lab installs it only when one of them needs it.
            "test" if rest.iter().any(|argument| !argument.starts_with('-')) => {
                relays(&[Need::DeltaChat, Need::Scenarios])
            }
            "test" => Self {
                nix_tools: !has("--scenarios-only"),
                ..relays(&[Need::DeltaChat, Need::Scenarios, Need::Browser])
            },
            "nixos" => relays(&[Need::DeltaChat, Need::Scenarios]),
            "bench" if rest.first() == Some(&"first-run") => Self {
                first_run: true,
                ..relays(&[Need::DeltaChat])
            },
            "bench" => Self {
                starts_relays: !["expire", "filter", "metadata"].iter().any(|name| has(name)),
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
