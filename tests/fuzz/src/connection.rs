//! A connection of a Kafka client: any bytes as frames, in any pieces, to the reader of frames and to the whole service.
//!
//! Frames are cut where another reader cuts them, however they arrive, and a length that nothing stands behind takes no
//! memory. The service answers requests in their order, each once at most, with whole frames; a client that has not signed in
//! is answered nothing but what signing in needs, and makes nothing. At the end no request holds memory.

use quipu::kafka::fuzzing::cut;

use super::input::Input;
use super::service::Service;

/// The largest frame that is read: one that inputs reach, and that of clients that have signed in.
const MOST_BYTES: [usize; 2] = [1 << 10, 100 << 20];
/// What is read at once, whatever has arrived.
const READ_BYTES: usize = 16 << 10;
/// After so many runs the service is made anew.
const RUNS: u32 = 100;
/// The APIs for clients that have not signed in.
const OPEN: [i16; 3] = [17, 18, 36];
const SASL_HANDSHAKE: [u8; 4] = [0, 17, 0, 0];

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (choice, piece) = (input.u8(), usize::from(input.u8()).max(1));
    let stream = if choice & 1 == 1 {
        framed(&mut input)
    } else {
        input.rest().to_vec()
    };
    let piece = if choice & 2 == 2 { piece } else { piece << 8 };
    thread_local! {
        static SERVICES: [std::cell::RefCell<(u32, Service)>; 2] =
            [false, true].map(|asks| std::cell::RefCell::new((0, service(asks))));
    }
    let asks = choice & 4 == 4;
    SERVICES.with(|services| {
        let (runs, service) = &mut *services[usize::from(asks)].borrow_mut();
        if *runs == RUNS {
            (*runs, *service) = (0, self::service(asks));
        }
        *runs += 1;
        let most_bytes = MOST_BYTES[usize::from(choice & 8 == 8)];
        service.run(frames(&stream, piece, most_bytes));
        serve(service, &stream, piece, asks);
    });
}

fn service(asks_for_tokens: bool) -> Service {
    let service = Service::new(|config| {
        config.kafka_partitions = 1;
    });
    if asks_for_tokens {
        // It waits for a round.
        let app = service.app.clone();
        service.run(async {
            let turned_on = tokio::task::spawn_blocking(move || app.access.turn_on());
            turned_on.await.expect("it does not panic");
        });
    }
    service
}

/// Frames with the right lengths, of the parts that the fuzzer chooses.
fn framed(input: &mut Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !input.is_empty() {
        let part = input.part();
        stream.extend_from_slice(&(part.len() as u32).to_be_bytes());
        stream.extend_from_slice(part);
    }
    stream
}

/// The frames of a stream, and whether it ends with a length that is none: slow and simple.
fn reference(mut stream: &[u8], most_bytes: usize) -> (Vec<&[u8]>, bool) {
    let mut frames = Vec::new();
    while let Some((length, behind)) = stream.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        if length < 1 || length as usize > most_bytes {
            return (frames, true);
        }
        let Some((frame, rest)) = behind.split_at_checked(length as usize) else {
            break;
        };
        frames.push(frame);
        stream = rest;
    }
    (frames, false)
}

async fn frames(stream: &[u8], piece: usize, most_bytes: usize) {
    let found = cut(stream, piece, most_bytes).await;
    let (frames, is_wrong) = reference(stream, most_bytes);
    assert_eq!(found.frames, frames);
    assert_eq!(found.has_wrong_length, is_wrong);
    for (arrived, room) in found.rooms {
        assert!(
            room <= 4 * arrived.max(READ_BYTES),
            "room for {room} bytes after {arrived}"
        );
    }
    assert_eq!(found.held_bytes, 0);
}

fn serve(service: &Service, stream: &[u8], piece: usize, asks_for_tokens: bool) {
    let answers = service.run(service.converse(stream.chunks(piece)));
    service.settle();
    let (answers, is_wrong) = reference(&answers, usize::MAX);
    assert!(!is_wrong, "an answer of no length");
    let (requests, _) = reference(stream, i32::MAX as usize);
    // Messages after a handshake of version 0 have no header, nor have their answers.
    let is_bare = requests
        .iter()
        .any(|request| request.starts_with(&SASL_HANDSHAKE));
    if !is_bare {
        let mut left = requests.iter();
        for answer in &answers {
            let number = answer.first_chunk::<4>().expect("a correlation id");
            let asked = left.find(|request| request.get(4..8) == Some(number));
            let asked = asked.expect("each answer belongs to a request, in their order");
            let key = i16::from_be_bytes([asked[0], asked[1]]);
            assert!(!asks_for_tokens || OPEN.contains(&key), "API {key} is not open");
        }
    }
    if asks_for_tokens {
        assert!(service.app.log.topics().is_empty(), "nobody has signed in");
    }
    assert_eq!(service.app.bodies.held_bytes(), 0);
}
