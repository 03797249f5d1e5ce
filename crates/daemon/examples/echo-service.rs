//! A minimal service for the tests of this crate: echoes every byte.

use std::process::ExitCode;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() -> ExitCode {
    let cli = daemon::Cli::parse("echo-service", "Echoes what a connection says");
    daemon::main(&cli, async |mut service| {
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
