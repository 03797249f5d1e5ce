//! Owner of the other end of a connection over loopback.
//!
//! smtp(8) can only connect over TCP, and any local process can connect to a port. So the service accepts connections
//! only from Postfix's user.

use std::io;
use std::net::SocketAddr;

use memchr::memmem;
use tokio::net::TcpStream;

/// IPv4 sockets with their owners, in the network namespace of this process.
const SOCKETS: &str = "/proc/self/net/tcp";
/// Index of the owner among the fields after both addresses: state, queues, timer and retransmits precede it.
const OWNER_FIELD: usize = 4;

/// Whether the other end of a connection belongs to this user.
pub(super) async fn belongs_to(stream: &TcpStream, user: u32) -> io::Result<bool> {
    let (client, server) = (stream.peer_addr()?, stream.local_addr()?);
    // The kernel writes the table while it is read, which takes milliseconds with tens of thousands of connections.
    let sockets = tokio::task::spawn_blocking(|| std::fs::read(SOCKETS))
        .await
        .map_err(io::Error::other)??;
    Ok(owner(&sockets, client, server) == Some(user))
}

/// Returns the owner of the socket at `local` that is connected to `remote`.
fn owner(sockets: &[u8], local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let wanted = format!(" {} {} ", address(local)?, address(remote)?);
    let at = memmem::find(sockets, wanted.as_bytes())?;
    let rest = sockets.get(at + wanted.len()..)?;
    let line = rest.split(|byte| *byte == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    text.split_ascii_whitespace().nth(OWNER_FIELD)?.parse().ok()
}

/// Formats an address as the kernel does: the four bytes as one number in host byte order.
fn address(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    let number = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{number:08X}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[tokio::test]
    async fn connections_of_one_user_only() {
        let own = std::fs::metadata("/proc/self").unwrap().uid();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(belongs_to(&accepted, own).await.unwrap());
        assert!(!belongs_to(&accepted, own + 1).await.unwrap());
        // The socket of a client that has closed the connection has no owner.
        drop(client);
        assert!(!belongs_to(&accepted, own + 1).await.unwrap());
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn tables_of_the_kernel() {
        let table = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:2763 0100007F:9C40 01 00000000:00000000 00:00000000 00000000   998        0 5 1 0 20 4\n\
            \x20  1: 0100007F:9C40 0100007F:2763 01 00000000:00000000 00:00000000 00000000    73        0 6 1 0 20 4\n";
        let [client, server] = ["127.0.0.1:40000", "127.0.0.1:10083"].map(|text| text.parse().unwrap());
        assert_eq!(owner(table, client, server), Some(73));
        assert_eq!(owner(table, server, client), Some(998));
        assert_eq!(owner(table, client, client), None);
        assert_eq!(owner(b" 0100007F:9C40 0100007F:2763 01", client, server), None);
        assert_eq!(owner(table, "[::1]:40000".parse().unwrap(), server), None);
    }
}
