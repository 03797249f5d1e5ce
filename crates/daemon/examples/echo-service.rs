//! The smallest service: echoes what a connection says. The tests of this crate run it.

use std::process::ExitCode;

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: daemon::Options,
}

fn main() -> ExitCode {
    daemon::main(&Cli::parse().options, async |mut service| {
        let socket = std::env::var("ECHO_SOCKET")?;
        let listener = service.unix_listener(socket.as_ref())?;
        service.ready("echoing");
        daemon::serve(&service, listener, 4, |mut stream| async move {
            let mut byte = [0; 1];
            while matches!(stream.read(&mut byte).await, Ok(1)) {
                if stream.write_all(&byte).await.is_err() {
                    return;
                }
            }
        })
        .await;
        Ok(())
    })
}
