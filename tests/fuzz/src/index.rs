//! `.index` and `.timeindex`.
//!
//! An accepted index finds a place within its range for every lookup, and is read back the same after it was written.

use quipu_segments::fuzzing::{crc32fast, index};
use quipu_segments::{Offset, TimestampMs};

use super::input::{Input, checksum};

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.u8();
    let base = Offset::new(u64::from(input.u16()));
    let log_bytes = input.u64() >> 20;
    let looked_up = (
        base.plus(u64::from(input.u16())),
        u64::from(input.u16()) << 4,
        TimestampMs(input.u64() as i64),
    );
    let mut offsets = input.part().to_vec();
    let mut times = input.rest().to_vec();
    if choice & 1 == 1 {
        reseal(&mut offsets, *b"quipuidx", 8, base, log_bytes, choice);
        reseal(&mut times, *b"quiputim", 12, base, log_bytes, choice);
    }
    let Ok(again) = index([&offsets, &times], base, log_bytes, looked_up) else {
        return;
    };
    assert_eq!(
        (again[0].len(), again[1].len()),
        (offsets.len(), times.len()),
        "nothing more is read than is there"
    );
    let twice = index([&again[0], &again[1]], base, log_bytes, looked_up);
    assert_eq!(twice, Ok(again));
}

/// Corrects magic, version, count and checksums, and base and coverage if asked.
fn reseal(file: &mut [u8], magic: [u8; 8], entry_bytes: usize, base: Offset, log_bytes: u64, choice: u8) {
    let Some((header, entries)) = file.split_at_mut_checked(64) else {
        return;
    };
    header[..8].copy_from_slice(&magic);
    header[8..12].copy_from_slice(&1_u32.to_le_bytes());
    if choice & 2 == 2 {
        header[16..24].copy_from_slice(&base.get().to_le_bytes());
    }
    if choice & 4 == 4 {
        header[24..32].copy_from_slice(&log_bytes.to_le_bytes());
        header[32..40].copy_from_slice(&base.plus(1 << 16).get().to_le_bytes());
        header[40..48].fill(0);
    }
    if choice & 8 == 8 {
        let count = (entries.len() / entry_bytes) as u32;
        header[48..52].copy_from_slice(&count.to_le_bytes());
    }
    header[52..56].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
    let crc = checksum(header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
}
