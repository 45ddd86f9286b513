//! A proxy to a server that may be killed and started again elsewhere, with fuses that burn at a chosen byte.
//!
//! Faults are placed by the number of bytes sent, not by time, so they hit the middle of bodies and answers on any
//! machine.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The client.
    Up,
    /// The server.
    Down,
}

/// Runs an action when so many bytes have been passed on; the connection breaks there.
struct Fuse {
    way: Way,
    bytes: u64,
    burn: Box<dyn FnOnce() + Send>,
}

/// The state that all connections share.
struct State {
    server: Mutex<SocketAddr>,
    fuse: Mutex<Option<Fuse>>,
}

/// The proxy; its threads end with the process.
pub(crate) struct Proxy {
    /// `http://…`
    pub(crate) url: String,
    state: Arc<State>,
}

impl Proxy {
    /// A proxy to the server at this address.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            server: Mutex::new(server),
            fuse: Mutex::new(None),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = *shared.server.lock().unwrap();
                // If the server is away, the client's connection closes.
                if let Ok(server) = TcpStream::connect(server) {
                    connect(&client, &server, &shared);
                }
            }
        });
        Self { url, state }
    }

    /// Connects to this server from now on.
    pub(crate) fn move_to(&self, server: SocketAddr) {
        *self.state.server.lock().unwrap() = server;
    }

    /// Sets a fuse that burns when `bytes` have been sent in this direction; it replaces an unburned one.
    pub(crate) fn arm(&self, way: Way, bytes: u64, burn: impl FnOnce() + Send + 'static) {
        let burn = Box::new(burn);
        *self.state.fuse.lock().unwrap() = Some(Fuse { way, bytes, burn });
    }

    /// Removes the fuse; returns whether there was one.
    pub(crate) fn disarm(&self) -> bool {
        self.state.fuse.lock().unwrap().take().is_some()
    }
}

fn connect(client: &TcpStream, server: &TcpStream, state: &Arc<State>) {
    for (way, from, to) in [(Way::Up, client, server), (Way::Down, server, client)] {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            pass_on(way, &from, &to, &state);
            // Both ends learn that the connection is over.
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
}

fn pass_on(way: Way, mut from: &TcpStream, mut to: &TcpStream, state: &State) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        let mut fuse = state.fuse.lock().unwrap();
        let burns = match fuse.as_mut().filter(|fuse| fuse.way == way) {
            Some(fuse) if fuse.bytes < read as u64 => true,
            Some(fuse) => {
                fuse.bytes -= read as u64;
                false
            }
            None => false,
        };
        if burns && let Some(fuse) = fuse.take() {
            let _ = to.write_all(&buffer[..fuse.bytes as usize]);
            (fuse.burn)();
            return;
        }
        drop(fuse);
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}
