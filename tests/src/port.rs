//! A port of a process that may go away and come back, and that nobody else is given
//! meanwhile.
//!
//! It is held by a socket that is bound and does not listen. The kernel then gives the
//! port to nobody who binds to port 0 and to no connection that goes out, refuses whoever
//! connects, and lets in a listener that sets SO_REUSEADDR, as servers do.

use std::net::SocketAddr;
use tokio::net::TcpSocket;

/// Held until it is dropped.
#[derive(Debug)]
pub struct HeldPort {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl HeldPort {
    /// Takes a free one of 127.0.0.1.
    ///
    /// # Panics
    /// When there is none.
    pub fn take() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option is set");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(any).expect("a free port");
        Self {
            address: socket.local_addr().expect("an address"),
            _socket: socket,
        }
    }

    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn only_who_knows_it_listens_there() {
        let held = HeldPort::take();
        let address = held.address();
        for _ in 0..2 {
            assert!(TcpStream::connect(address).is_err(), "nobody listens");
            let listener = TcpListener::bind(address).expect("a listener is let in");
            TcpStream::connect(address).expect("it listens");
            drop(listener);
        }
    }
}
