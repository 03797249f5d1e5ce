//! `cargo lab demo`: two people on two relays sign up, verify each other and write to each other.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::client::deltachat::{Program, User};
use crate::machine::{Found, Lab, Progress, cache, interrupted};

/// What they write to each other, in turn.
const CONVERSATION: [&str; 6] = [
    "Hello Bob, can you read this?",
    "Loud and clear, Alice. Nobody else can.",
    "Not even the relays?",
    "They see from whom and to whom, and how long it is.",
    "Then let us keep it short.",
    "Agreed.",
];

/// Runs the demonstration and ends everything that it started, whatever happens.
pub(crate) async fn demo() -> anyhow::Result<ExitCode> {
    let lab = Lab::up(&Progress::new()).await?;
    // What is shown goes to standard output; this is for the record.
    let phase = Progress::silent().phase("Playing the demo", None);
    let played = tokio::select! {
        played = play(&lab) => played,
        signal = interrupted() => Err(signal),
    };
    phase.done(None);
    let found = lab.release().await?;
    played?;
    match found {
        Found::Nothing => println!("\nThe relays have been ended. `cargo lab up` leaves them running."),
        Found::Running => println!("\nThe relays are still up. `cargo lab down` ends them."),
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

    println!("\nTwo people get an account by logging in for the first time:");
    let (alice, bob) = tokio::try_join!(sign_up(&program, "Alice", &at_a), sign_up(&program, "Bob", &at_b))?;

    println!("\nAlice scans Bob's QR code:");
    let started = Instant::now();
    let (alice_chat, bob_chat) = alice.secure_join(&bob).await?;
    println!(
        "  both have verified each other        {:>8}",
        milliseconds(started.elapsed())
    );

    println!("\nThey write to each other, end-to-end encrypted:        sent   arrived");
    for (turn, text) in CONVERSATION.iter().enumerate() {
        let (from, to, chat) = if turn % 2 == 0 {
            (&alice, &bob, alice_chat)
        } else {
            (&bob, &alice, bob_chat)
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
    println!("\nOf each time, Delta Chat itself needs about 75 ms to encrypt, fetch and decrypt.");
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
