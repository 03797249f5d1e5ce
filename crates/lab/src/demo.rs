//! `cargo lab demo`: two users on two relays sign up, verify each other and exchange messages.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mailtest::client::deltachat::{Pair, Program, User};

use crate::machine::{Found, Lab, Progress, cache, interrupted};

/// Their messages, in turn.
const CONVERSATION: [&str; 6] = [
    "Hello Bob, can you read this?",
    "Loud and clear, Alice. Nobody else can.",
    "Not even the relays?",
    "They see who writes to whom, and how long it is.",
    "Then let's keep it short.",
    "Agreed.",
];

/// Runs the demo. Stops the relays afterwards if the demo has started them, even if it fails.
pub(crate) async fn demo() -> anyhow::Result<ExitCode> {
    let lab = Lab::up(&Progress::new()).await?;
    // Silent, because the demo prints its own output; the phase is for measurements only.
    let phase = Progress::silent().phase("Playing the demo", None);
    let played = tokio::select! {
        played = play(&lab) => played,
        signal = interrupted() => Err(signal),
    };
    phase.done(None);
    let found = lab.release().await?;
    played?;
    match found {
        Found::Nothing => println!("\nThe relays have been stopped. `cargo lab up` leaves them running."),
        Found::Running => println!("\nThe relays are still running. `cargo lab down` stops them."),
    }
    Ok(ExitCode::SUCCESS)
}

async fn play(lab: &Lab) -> anyhow::Result<()> {
    let topology = lab.topology();
    let program = Program::prepare(&cache()?, topology.resolver.into()).await?;
    let domain = |name| topology.relay(name).map(|relay| relay.domain.clone());
    let (at_a, at_b) = domain("a")
        .zip(domain("b"))
        .context("relays a and b are missing")?;

    println!("\nTwo users sign up by logging in for the first time:");
    let (alice, bob) = tokio::try_join!(sign_up(&program, "Alice", &at_a), sign_up(&program, "Bob", &at_b))?;

    println!("\nAlice scans Bob's QR code:");
    let started = Instant::now();
    let pair = Pair::verify(alice, bob).await?;
    println!(
        "  both have verified each other        {:>8}",
        milliseconds(started.elapsed())
    );

    println!("\nThey exchange end-to-end encrypted messages:           sent   arrived");
    for (turn, text) in CONVERSATION.iter().enumerate() {
        let (from, to, chat) = if turn % 2 == 0 {
            (&pair.one, &pair.other, pair.one_chat)
        } else {
            (&pair.other, &pair.one, pair.other_chat)
        };
        let (before, start) = (from.mark(), to.mark());
        let started = Instant::now();
        let message = from.send(chat, text).await?;
        let (_, arrived) = to.receive(start, text).await?;
        let sent = from.sent(before, message).await?;
        println!(
            "  {:5} > {:5} {:52} {:>8} {:>8}",
            from.name,
            to.name,
            text,
            milliseconds(sent.saturating_duration_since(started)),
            milliseconds(arrived.saturating_duration_since(started))
        );
    }
    println!("\nEach time includes about 75 ms in which Delta Chat encrypts, fetches and decrypts.");
    Ok(())
}

async fn sign_up(program: &Program, name: &str, domain: &str) -> anyhow::Result<User> {
    let started = Instant::now();
    let user = program.user(name, domain).await?;
    println!(
        "  {name:5} is {:28} {:>8}",
        user.address,
        milliseconds(started.elapsed())
    );
    Ok(user)
}

fn milliseconds(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
