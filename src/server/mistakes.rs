//! Clients that speak something else than the listener does: most of them say no clear word about it, and some try for
//! ever. So the log has a line, for a bounded number of them ([`Sparing`]).

use std::net::SocketAddr;

use crate::broker::caller::Shown;
use crate::broker::engine::Monotonic;
use crate::broker::sparing::Sparing;
use crate::kafka;

/// What a client got wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    /// Kafka's protocol at the listener for HTTP.
    KafkaToHttp,
    /// TLS at the listener for HTTP, which has none.
    TlsToHttp,
    /// HTTP at the listener for Kafka's clients.
    HttpToKafka,
    /// TLS at the listener for Kafka's clients, which has none.
    TlsToKafka,
    /// No TLS at the listener for Kafka's clients, which has it.
    PlainToKafka,
    /// A request of a Kafka client before it has signed in.
    NotSignedIn,
}

const ALL: [Mistake; 6] = [
    Mistake::KafkaToHttp,
    Mistake::TlsToHttp,
    Mistake::HttpToKafka,
    Mistake::TlsToKafka,
    Mistake::PlainToKafka,
    Mistake::NotSignedIn,
];

impl Mistake {
    /// By the first byte of a connection to the listener for HTTP that was no request. A frame of Kafka's protocol begins
    /// with its length, of which the first byte is zero.
    pub(super) fn at_http(first: u8) -> Option<Self> {
        match first {
            0 => Some(Self::KafkaToHttp),
            HANDSHAKE => Some(Self::TlsToHttp),
            _ => None,
        }
    }

    fn what_to_do(self) -> &'static str {
        match self {
            Self::KafkaToHttp => {
                "a Kafka client has connected to the address for HTTP; Kafka clients connect to that of kafka_listen"
            }
            Self::TlsToHttp => {
                "a client speaks TLS to the address for HTTP, which has none; it needs http://, or the server tls_cert"
            }
            Self::HttpToKafka => {
                "a client speaks HTTP to the address for Kafka clients; HTTP is at the address of the setting listen"
            }
            Self::TlsToKafka => {
                "a client speaks TLS to the address for Kafka clients, which has none; it needs security.protocol=PLAINTEXT \
                 or SASL_PLAINTEXT, or the server tls_cert"
            }
            Self::PlainToKafka => {
                "a client without TLS has connected to the address for Kafka clients, which has it; it needs \
                 security.protocol=SSL or SASL_SSL"
            }
            Self::NotSignedIn => {
                "a Kafka client has sent a request before it has signed in; it needs security.protocol=SASL_SSL or \
                 SASL_PLAINTEXT, and a token"
            }
        }
    }
}

impl From<kafka::Mistake> for Mistake {
    fn from(mistake: kafka::Mistake) -> Self {
        match mistake {
            kafka::Mistake::Http => Self::HttpToKafka,
            kafka::Mistake::Tls => Self::TlsToKafka,
            kafka::Mistake::NotSignedIn => Self::NotSignedIn,
        }
    }
}

/// The first byte of a TLS connection.
const HANDSHAKE: u8 = 0x16;

/// Which mistakes have a line in the log, of each kind by itself.
#[derive(Debug, Default)]
pub(super) struct Mistakes([Sparing; ALL.len()]);

impl Mistakes {
    /// Writes a line, unless there were many just before.
    pub(super) fn note(&self, now: Monotonic, mistake: Mistake, address: Option<SocketAddr>) {
        if self.0[mistake as usize].takes(now, address.map(|address| address.ip())) {
            let address = address.map(|address| tracing::field::display(Shown(address)));
            tracing::warn!(address, "{}", mistake.what_to_do());
        }
    }

    /// Writes a line for those that got none of their own, if a while of many has ended. To be called often.
    pub(super) fn tell_left_out(&self, now: Monotonic) {
        for (mistake, sparing) in ALL.into_iter().zip(&self.0) {
            if let Some(left_out) = sparing.left_out(now) {
                tracing::warn!(
                    left_out = left_out.events,
                    most_from = %left_out.from(),
                    "this happened more often, without a line of its own: {}",
                    mistake.what_to_do()
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_has_its_own_place() {
        for (place, mistake) in ALL.into_iter().enumerate() {
            assert_eq!(mistake as usize, place, "{mistake:?}");
        }
    }
}
