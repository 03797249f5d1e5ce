//! Owner of the other end of a connection over loopback.
//!
//! smtp(8) can only connect over TCP, and any local process can connect to a port. So the service accepts connections
//! only from Postfix's user.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4};

use memchr::memmem;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

/// `AF_NETLINK`, and the protocol for information about sockets (sock_diag(7)).
const NETLINK: (i32, i32) = (16, 4);
/// `SOCK_DIAG_BY_FAMILY`, the type of the request and of its answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// Sequence number of the only request on a socket.
const SEQUENCE: u32 = 1;
/// `AF_INET` and `IPPROTO_TCP`.
const INET: u8 = 2;
const TCP: u8 = 6;
/// Size of `inet_diag_req_v2` with its header (`nlmsghdr`).
const REQUEST_SIZE: u32 = 72;
/// Offsets in an answer: the family (`inet_diag_msg` after `nlmsghdr`), the ports and addresses, what follows those, and
/// the owner.
const FAMILY: usize = 16;
const ENDS: usize = 20;
const AFTER_ENDS: usize = 56;
const OWNER: usize = 80;

/// IPv4 sockets with their owners, in the network namespace of this process.
const SOCKETS: &str = "/proc/self/net/tcp";
/// Index of the owner among the fields after both addresses: state, queues, timer and retransmits precede it.
const OWNER_FIELD: usize = 4;

/// Whether the other end of a connection belongs to this user. Only IPv4 sockets do: Postfix opens no other for the
/// address that it connects to.
pub(super) async fn belongs_to(stream: &TcpStream, user: u32) -> io::Result<bool> {
    let (SocketAddr::V4(client), SocketAddr::V4(server)) = (stream.peer_addr()?, stream.local_addr()?) else {
        return Ok(false);
    };
    match ask(client, server) {
        Ok(Some(owner)) => return Ok(owner == user),
        // The client has closed the connection, or the kernel may not load the module for such requests.
        Ok(None) => {}
        Err(error) => tracing::debug!("sock_diag(7) does not work: {error}"),
    }
    // The kernel writes the table while it is read: 28 ms with 10,000 connections.
    let sockets = tokio::task::spawn_blocking(|| std::fs::read(SOCKETS))
        .await
        .map_err(io::Error::other)??;
    Ok(owner(&sockets, client, server) == Some(user))
}

/// Asks the kernel for the owner of the socket at `local` that is connected to `remote`. The kernel queues the answer
/// before the request returns, so nothing waits here.
fn ask(local: SocketAddrV4, remote: SocketAddrV4) -> io::Result<Option<u32>> {
    let (family, protocol) = NETLINK;
    let mut socket = Socket::new(Domain::from(family), Type::DGRAM, Some(Protocol::from(protocol)))?;
    socket.set_nonblocking(true)?;
    socket.write_all(&request(local, remote))?;
    let mut answer = [0; 1024];
    let length = socket.read(&mut answer)?;
    Ok(answered(answer.get(..length).unwrap_or_default(), local, remote))
}

/// The ports and addresses in `inet_diag_sockid`.
fn ends(local: SocketAddrV4, remote: SocketAddrV4) -> Vec<u8> {
    let ports = [local.port(), remote.port()].map(u16::to_be_bytes);
    let mut bytes = ports.concat();
    for end in [local, remote] {
        bytes.extend_from_slice(&end.ip().octets());
        bytes.extend_from_slice(&[0; 12]);
    }
    bytes
}

/// A request for one socket, in any state, on any interface and with any cookie.
fn request(local: SocketAddrV4, remote: SocketAddrV4) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&REQUEST_SIZE.to_ne_bytes());
    bytes.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST.to_ne_bytes());
    bytes.extend_from_slice(&SEQUENCE.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(&[INET, TCP, 0, 0]);
    bytes.extend_from_slice(&u32::MAX.to_ne_bytes());
    bytes.extend_from_slice(&ends(local, remote));
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(&u64::MAX.to_ne_bytes());
    bytes
}

/// Returns the owner in an answer about this socket; none if the answer is an error, or about any other socket: without
/// a connection, the kernel finds one that listens at this address.
fn answered(answer: &[u8], local: SocketAddrV4, remote: SocketAddrV4) -> Option<u32> {
    let number = |at: usize| answer.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
    let length = usize::try_from(number(0)?).ok()?;
    let kind = answer.get(4..)?.first_chunk().copied().map(u16::from_ne_bytes)?;
    let about = answer.get(ENDS..AFTER_ENDS)?;
    let matches = length <= answer.len()
        && length >= OWNER + size_of::<u32>()
        && kind == BY_FAMILY
        && number(8)? == SEQUENCE
        && answer.get(FAMILY) == Some(&INET)
        && about == ends(local, remote);
    number(OWNER).filter(|_| matches)
}

/// Returns the owner of the socket at `local` that is connected to `remote`, from the kernel's table.
fn owner(sockets: &[u8], local: SocketAddrV4, remote: SocketAddrV4) -> Option<u32> {
    let wanted = format!(" {} {} ", address(local), address(remote));
    let at = memmem::find(sockets, wanted.as_bytes())?;
    let rest = sockets.get(at + wanted.len()..)?;
    let line = rest.split(|byte| *byte == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    text.split_ascii_whitespace().nth(OWNER_FIELD)?.parse().ok()
}

/// Formats an address as the kernel does: the four bytes as one number in host byte order.
fn address(address: SocketAddrV4) -> String {
    let number = u32::from_ne_bytes(address.ip().octets());
    format!("{number:08X}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn ipv4(address: io::Result<SocketAddr>) -> SocketAddrV4 {
        let SocketAddr::V4(address) = address.unwrap() else {
            panic!("not an IPv4 address");
        };
        address
    }

    #[tokio::test]
    async fn connections_of_one_user_only() {
        let own = std::fs::metadata("/proc/self").unwrap().uid();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(belongs_to(&accepted, own).await.unwrap());
        assert!(!belongs_to(&accepted, own + 1).await.unwrap());
        let (near, far) = (ipv4(client.local_addr()), ipv4(client.peer_addr()));
        assert_eq!(ask(near, far).unwrap(), Some(own));
        let table = std::fs::read(SOCKETS).unwrap();
        assert_eq!(owner(&table, near, far), Some(own));
        // A socket that listens is not the other end of a connection.
        let other = SocketAddrV4::new(*near.ip(), 1);
        assert_eq!(ask(far, other).unwrap(), None);
        assert_eq!(ask(other, far).unwrap(), None);
        // The socket of a client that has closed the connection has no owner.
        drop(client);
        assert!(!belongs_to(&accepted, own + 1).await.unwrap());
    }

    #[tokio::test]
    async fn sockets_of_the_other_family_belong_to_nobody() {
        let own = std::fs::metadata("/proc/self").unwrap().uid();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{port}").parse().unwrap();
        let _client = TcpStream::connect(mapped).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(!belongs_to(&accepted, own).await.unwrap());
        let listener = tokio::net::TcpListener::bind("[::]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(!belongs_to(&accepted, own).await.unwrap());
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
    }

    /// An answer about the socket at `local`, with this owner.
    fn answer(local: SocketAddrV4, remote: SocketAddrV4, owner: u32) -> Vec<u8> {
        let mut bytes = request(local, remote);
        // After the request's length, where `inet_diag_msg` has its family and then more fields.
        bytes.splice(FAMILY..ENDS + 4, [INET, 1, 0, 0]);
        bytes.truncate(AFTER_ENDS);
        bytes.resize(OWNER, 0);
        bytes.extend_from_slice(&owner.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes.splice(..4, length.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_the_answer_about_this_socket_counts() {
        let [client, server, other] =
            ["127.0.0.1:40000", "127.0.0.1:10083", "127.0.0.2:40000"].map(|text| text.parse().unwrap());
        let valid = answer(client, server, 73);
        assert_eq!(answered(&valid, client, server), Some(73));
        for (local, remote) in [(server, client), (other, server), (client, other)] {
            assert_eq!(answered(&valid, local, remote), None, "{local} {remote}");
        }
        for length in 0..valid.len() {
            assert_eq!(answered(&valid[..length], client, server), None, "{length}");
        }
        // The length, the type (an error), the sequence number, and the family (an IPv6 socket).
        for (at, byte) in [(0, 0), (0, 200), (3, 1), (4, 2), (8, 2), (FAMILY, 10)] {
            let mut invalid = valid.clone();
            invalid[at] = byte;
            assert_eq!(answered(&invalid, client, server), None, "{at} {byte}");
        }
    }
}
