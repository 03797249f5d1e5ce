//! Serves one connection.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::codec::{self, Command, ParseError, Reply};
use crate::{Commit, Dict, Transaction};

/// Replies are written when they have reached this size, or when no complete command is left.
const WRITE_AT: usize = 32 * 1024;

/// Time in which an open transaction or an incomplete line may be finished when the service stops. Dovecot sends these
/// at once, and does not repeat a commit.
const GRACE: Duration = Duration::from_secs(1);

/// Limits of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum length of a line in bytes, without its line feed.
    pub line: usize,
    /// Maximum number of open transactions.
    pub transactions: usize,
    /// Maximum number of operations in all open transactions.
    pub operations: usize,
    /// Maximum size of keys and values in all open transactions, in bytes.
    pub bytes: usize,
    /// Longest wait for a command, and for the peer to read a reply.
    pub idle: Duration,
}

impl Default for Limits {
    /// The maximum length of lines in Dovecot, and otherwise far more than its plugins use.
    fn default() -> Self {
        Self {
            line: codec::MAX_LINE,
            transactions: 64,
            operations: 1024,
            bytes: 1024 * 1024,
            idle: Duration::from_secs(600),
        }
    }
}

/// Why a connection was closed early. Its open transactions are dropped; committed ones stay.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Reading or writing failed.
    #[error("dict connection: {0}")]
    Io(#[from] std::io::Error),
    /// The peer was silent for longer than [`Limits::idle`] while a line or transaction was incomplete.
    #[error("dict connection: timed out")]
    Timeout,
    /// A line cannot be parsed.
    #[error("dict connection: {0}")]
    Parse(#[from] ParseError),
    /// A line that does not set a value is longer than [`Limits::line`].
    #[error("dict connection: line longer than {0} bytes")]
    LineTooLong(usize),
    /// The first line is not a hello of a version in [`codec::VERSIONS`].
    #[error("dict connection: no hello of a known version (found version {found:?})")]
    Hello {
        /// The version, if the line was a hello.
        found: Option<u32>,
    },
    /// A second hello.
    #[error("dict connection: hello in the middle")]
    HelloAgain,
    /// A transaction that is already open begins again.
    #[error("dict connection: transaction {0} begins twice")]
    TransactionExists(u32),
    /// An operation belongs to a transaction that is not open.
    #[error("dict connection: transaction {0} is not open")]
    NoTransaction(u32),
    /// The open transactions exceed [`Limits`].
    #[error("dict connection: too much in open transactions")]
    TooMuch,
}

/// Serves one connection until the peer closes it, it breaks the protocol, or `shutdown` is cancelled.
///
/// Commands are answered one after the other. At shutdown, received commands are still answered, and open transactions
/// may be finished: Dovecot repeats lookups on a new connection, but not commits.
pub async fn serve<S, D>(
    stream: S,
    dict: &D,
    limits: &Limits,
    shutdown: &CancellationToken,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite,
    D: Dict,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut session = Session::new(dict, limits);
    let mut input = Vec::new();
    let mut output = Vec::new();
    // Where the search for a line feed continues.
    let mut searched = 0;
    // Whether the rest of a line that is too long is being skipped.
    let mut discarding = false;
    loop {
        let mut consumed = 0;
        while let Some(length) = input
            .get(searched..)
            .and_then(|new| new.iter().position(|&byte| byte == b'\n'))
        {
            let line = input.get(consumed..searched + length).unwrap_or_default();
            searched += length + 1;
            consumed = searched;
            if std::mem::take(&mut discarding) {
                continue;
            }
            if line.len() > limits.line {
                session.overlong(line)?;
                continue;
            }
            session.line(line, &mut output).await?;
            if output.len() >= WRITE_AT {
                write(&mut writer, &mut output, limits.idle).await?;
            }
        }
        input.drain(..consumed);
        if input.len() > limits.line {
            if !std::mem::replace(&mut discarding, true) {
                session.overlong(&input)?;
            }
            input.clear();
        }
        searched = input.len();
        write(&mut writer, &mut output, limits.idle).await?;

        let unfinished = discarding || !input.is_empty() || !session.open.is_empty();
        let read = timeout(limits.idle, reader.read_buf(&mut input));
        let read = tokio::select! {
            biased;
            read = read => read,
            () = shutdown.cancelled(), if !unfinished => return Ok(()),
            () = grace(shutdown), if unfinished => return Ok(()),
        };
        match read {
            Ok(count) => {
                if count? == 0 {
                    return Ok(());
                }
            }
            Err(_) if unfinished => return Err(ConnectionError::Timeout),
            Err(_) => return Ok(()),
        }
    }
}

/// Completes [`GRACE`] after the shutdown.
async fn grace(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

async fn write<W: AsyncWrite + Unpin>(
    writer: &mut W,
    output: &mut Vec<u8>,
    idle: Duration,
) -> Result<(), ConnectionError> {
    if output.is_empty() {
        return Ok(());
    }
    timeout(idle, async {
        writer.write_all(output).await?;
        writer.flush().await
    })
    .await
    .map_err(|_| ConnectionError::Timeout)??;
    output.clear();
    Ok(())
}

/// State of a connection.
struct Session<'a, D> {
    dict: &'a D,
    limits: &'a Limits,
    greeted: bool,
    open: HashMap<u32, Transaction>,
    /// Open transactions with a value that was too long.
    overlong: HashSet<u32>,
    operations: usize,
    bytes: usize,
}

impl<'a, D: Dict> Session<'a, D> {
    fn new(dict: &'a D, limits: &'a Limits) -> Self {
        Self {
            dict,
            limits,
            greeted: false,
            open: HashMap::new(),
            overlong: HashSet::new(),
            operations: 0,
            bytes: 0,
        }
    }

    /// Executes the command in a line and appends its reply, if it has one.
    async fn line(&mut self, line: &[u8], output: &mut Vec<u8>) -> Result<(), ConnectionError> {
        let command = Command::parse(line);
        if !self.greeted {
            return match command {
                Ok(Command::Hello { major, .. }) if codec::VERSIONS.contains(&major) => {
                    self.greeted = true;
                    Ok(())
                }
                Ok(Command::Hello { major, .. }) => Err(ConnectionError::Hello { found: Some(major) }),
                _ => Err(ConnectionError::Hello { found: None }),
            };
        }
        match command? {
            Command::Hello { .. } => return Err(ConnectionError::HelloAgain),
            Command::Lookup { key, user } => {
                match self.dict.lookup(&user, &key).await {
                    Ok(Some(value)) => Reply::Value(value),
                    Ok(None) => Reply::NotFound,
                    Err(failure) => Reply::Failed(failure.0),
                }
                .encode(output);
            }
            Command::Iterate(query) => {
                let without_values = query.without_values();
                let max_rows = match usize::try_from(query.max_rows) {
                    Ok(0) | Err(_) => usize::MAX,
                    Ok(count) => count,
                };
                match self.dict.iterate(query).await {
                    Ok(rows) => {
                        for row in rows.into_iter().take(max_rows) {
                            let value = if without_values { Vec::new() } else { row.value };
                            Reply::Row { key: row.key, value }.encode(output);
                        }
                        Reply::End.encode(output);
                    }
                    Err(failure) => Reply::Failed(failure.0).encode(output),
                }
            }
            Command::Begin {
                id,
                user,
                expire_secs,
            } => {
                if self.open.contains_key(&id) {
                    return Err(ConnectionError::TransactionExists(id));
                }
                if self.open.len() >= self.limits.transactions {
                    return Err(ConnectionError::TooMuch);
                }
                let transaction = Transaction {
                    user,
                    expire_secs,
                    operations: Vec::new(),
                };
                self.open.insert(id, transaction);
            }
            Command::Operation { id, operation } => {
                let transaction = self.open.get_mut(&id).ok_or(ConnectionError::NoTransaction(id))?;
                if codec::is_private(operation.key()) && transaction.user.is_empty() {
                    return Err(ParseError::NoUser('S').into());
                }
                self.operations += 1;
                self.bytes += size(&operation);
                if self.operations > self.limits.operations || self.bytes > self.limits.bytes {
                    return Err(ConnectionError::TooMuch);
                }
                transaction.operations.push(operation);
            }
            Command::Hint { id } => {
                if !self.open.contains_key(&id) {
                    return Err(ConnectionError::NoTransaction(id));
                }
            }
            Command::Commit { id, detached } => {
                let overlong = self.overlong.contains(&id);
                let transaction = self.close(id)?;
                let result = if overlong {
                    Ok(Commit::NotFound)
                } else {
                    self.dict.commit(transaction).await
                };
                Reply::Committed { id, detached, result }.encode(output);
            }
            Command::Rollback { id } => {
                self.close(id)?;
            }
        }
        Ok(())
    }

    /// Handles a line that is longer than [`Limits::line`]. The length of values is up to IMAP clients: a transaction
    /// with a value that is too long stores nothing. Dovecot's other lines are never that long.
    fn overlong(&mut self, line: &[u8]) -> Result<(), ConnectionError> {
        let id = line
            .strip_prefix(b"S")
            .and_then(|rest| rest.split(|&byte| byte == b'\t').next())
            .and_then(|id| std::str::from_utf8(id).ok()?.parse().ok())
            .filter(|id| self.open.contains_key(id))
            .ok_or(ConnectionError::LineTooLong(self.limits.line))?;
        self.overlong.insert(id);
        Ok(())
    }

    fn close(&mut self, id: u32) -> Result<Transaction, ConnectionError> {
        self.overlong.remove(&id);
        let transaction = self.open.remove(&id).ok_or(ConnectionError::NoTransaction(id))?;
        self.operations -= transaction.operations.len();
        self.bytes -= transaction.operations.iter().map(size).sum::<usize>();
        Ok(transaction)
    }
}

fn size(operation: &crate::Operation) -> usize {
    let value = match operation {
        crate::Operation::Set { value, .. } => value.len(),
        crate::Operation::Unset { .. } | crate::Operation::Increment { .. } => 0,
    };
    operation.key().len() + value
}

#[cfg(test)]
mod tests;
