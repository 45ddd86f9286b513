//! `checkpoint.*` and `state.*`: the frame that they share, and their payloads.
//!
//! An accepted frame holds its whole payload under the checksum that it names. An accepted payload is read back the
//! same after it was written, and takes no more bytes then.

use quipu_segments::fuzzing::Slot;

use super::input::{Input, checksum};

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.u8();
    let slot = if choice & 1 == 1 {
        Slot::Checkpoint
    } else {
        Slot::State
    };
    if choice & 2 == 2 {
        let generation = input.u64();
        let payload = input.rest();
        let framed = slot.frame(generation, payload);
        assert_eq!(slot.unframe(&framed), Ok((generation, payload)));
        check_payload(slot, payload);
        return;
    }
    let mut file = input.rest().to_vec();
    if choice & 4 == 4 && file.len() >= 32 {
        // A frame of the right kind; the fuzzer chooses length, generation and the rest.
        let whole = slot.frame(0, &[]);
        file[..12].copy_from_slice(&whole[..12]);
        let length = u64::from_le_bytes(file[24..32].try_into().expect("eight bytes"));
        if let Some(end) = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(32))
            && let Some(covered) = file.get(..end)
        {
            let crc = checksum(covered);
            file[12..16].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let Ok((_, payload)) = slot.unframe(&file) else {
        return;
    };
    let crc = u32::from_le_bytes(file[12..16].try_into().expect("four bytes"));
    assert_eq!(checksum(&file[..32 + payload.len()]), crc);
    check_payload(slot, payload);
}

fn check_payload(slot: Slot, payload: &[u8]) {
    let Some(again) = slot.again(payload) else { return };
    // The state is a map: in the input an entry may come twice, and in another order.
    assert!(again.len() <= payload.len());
    assert_eq!(slot.again(&again), Some(again));
}
