//! What the server tells systemd, if that has started it: ready, reloading, stopping (`Type=notify`).
//!
//! One datagram a state, to the socket in `NOTIFY_SOCKET`: a path, or an abstract name after `@` (`sd_notify(3)`).
//! Without the variable nothing is sent. A message that cannot be sent is logged and stops nothing: systemd then takes
//! the start as failed by its own time-out, with that line in the log.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests are answered: after the start, and after each reload.
    Ready,
    /// Files and settings are read again; [`State::Ready`] follows.
    Reloading,
    /// The ordered stop has begun.
    Stopping,
}

/// Tells systemd, and does nothing if that has not started this process.
pub fn tell(state: State) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return;
    };
    if let Err(error) = send(&socket, &message(state)) {
        tracing::warn!(%error, ?state, "systemd could not be told");
    }
}

fn message(state: State) -> String {
    match state {
        State::Ready => "READY=1\nSTATUS=takes requests".to_owned(),
        State::Reloading => {
            // systemd takes a reload as the answer to its own request only if it began later.
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
            format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reads its files again")
        }
        State::Stopping => "STOPPING=1\nSTATUS=answers what runs, and stops".to_owned(),
    }
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let bytes = socket.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(receiver: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let length = receiver.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn states_are_sent_to_sockets_with_paths_and_with_abstract_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), &message(State::Ready)).unwrap();
        assert!(received(&receiver).starts_with("READY=1\n"));

        let name = format!("quipu-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), &message(State::Stopping)).unwrap();
        assert!(received(&receiver).starts_with("STOPPING=1\n"));
        assert!(send(OsStr::new("@nobody-listens-here"), "READY=1").is_err());
    }

    #[test]
    fn a_reload_says_when_it_began() {
        let text = message(State::Reloading);
        let micros = text.split("MONOTONIC_USEC=").nth(1).unwrap().split('\n').next();
        assert!(micros.unwrap().parse::<u64>().unwrap() > 0, "{text}");
    }
}
